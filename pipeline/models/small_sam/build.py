"""The bundled small SAM: segment-anything with a convolutional image encoder and finer masks.

`Sam` takes any image encoder that returns (B, C, H/16, W/16) and has an `img_size`. A residual
convolutional one trains from scratch far faster than a vision transformer and costs a few
milliseconds on a CPU core. Decoding dominates the cost of proposals (one pass per point), so the
embedding is 16 x 16 x 128 instead of 64 x 64 x 256. The model works with `SamPredictor` and
`SamAutomaticMaskGenerator`, which scale the longest side to 256.

The prompt encoder must not run under bf16 autocast: 8 significant bits cannot hold a pixel
coordinate.

Shapes: B images; C channels; H, W = 256 input pixels; h, w = 16 embedding cells.
"""

from pipeline.models import lean_segment_anything as _lean  # noqa: F401  isort: skip  first

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from pipeline.errors import WeightsError
from pipeline.models.small_sam.decoder import DetailDecoder
from pipeline.models.small_sam.encoder import ConvEncoder

# Side of the input in px, input px per embedding cell, channels of the embedding.
IMAGE_SIZE = 256
STRIDE = 16
EMBEDDING_DIM = 128
# The file in the repository.
BUNDLED = Path(__file__).resolve().parents[3] / "weights" / "small_sam.safetensors"


def small_sam(weights: Path | None = None) -> Sam:
    """Build the model in evaluation mode and float32, and load a safetensors file if one is given.

    `preprocess` takes RGB 0-255 as for every `Sam`. Without weights the model is random.
    """
    cells = IMAGE_SIZE // STRIDE
    sam = Sam(
        image_encoder=ConvEncoder(IMAGE_SIZE, EMBEDDING_DIM),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBEDDING_DIM,
            image_embedding_size=(cells, cells),
            input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=DetailDecoder(
            transformer_dim=EMBEDDING_DIM,
            # The official decoder has 256 channels, 8 heads and an MLP of 2048.
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBEDDING_DIM, num_heads=4, mlp_dim=512
            ),
            num_multimask_outputs=3,
            iou_head_hidden_dim=128,
        ),
    )
    # The prompt encoder expects mask prompts of a quarter of the input's side, but this decoder's
    # logits have half of it. Pooling makes earlier logits usable as prompts.
    sam.prompt_encoder.mask_downscaling.insert(0, nn.AvgPool2d(2))
    if weights is not None:
        load_weights(sam, weights)
    return sam.eval()


def load_weights(sam: Sam, path: Path) -> None:
    """Load a float16 safetensors file into the float32 model; every name must match."""
    if not path.is_file():
        raise WeightsError(f"expected the small SAM at {path}, found no such file")
    try:
        state = {name: value.float() for name, value in load_file(path).items()}
        sam.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{path} does not hold the small SAM: {error}\n"
            "the file may be cut short or of another version: copy it again"
        ) from error


def save_weights(sam: Sam, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the weights in float16, to a temporary file that is then renamed.

    Batch norm's step counters are integers and stay so.
    """
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in sam.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(state, temporary, metadata=metadata or {})
    # Readable for everyone, whatever mode the library gave it.
    temporary.chmod(0o644)
    temporary.replace(path)

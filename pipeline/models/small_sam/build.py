"""The bundled small SAM: segment-anything's own decoder on a convolutional image encoder.

`Sam` takes any image encoder that returns (B, C, H/16, W/16) and has an `img_size`. A residual
convolutional one learns from scratch far faster than a vision transformer and costs a few
milliseconds on a CPU core. Decoding dominates the cost of proposals (one pass per point), so the
embedding is 16 x 16 x 128 instead of 64 x 64 x 256. Everything else is the original: the result
works with `SamPredictor` and `SamAutomaticMaskGenerator`, which scale the longest side to 256.

The prompt encoder must not run under bf16 autocast: eight bits cannot hold a pixel coordinate.

Shapes: B images; C channels; H, W = 256 input pixels; h, w = 16 embedding cells.
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from pipeline.errors import WeightsError
from pipeline.models.small_sam.decoder import DetailDecoder
from pipeline.models.small_sam.encoder import ConvEncoder

IMAGE_SIZE = 256
STRIDE = 16
EMBEDDING_DIM = 128
BUNDLED = Path(__file__).resolve().parents[3] / "weights" / "small_sam.safetensors"


def small_sam(weights: Path | None = None) -> Sam:
    """Build the model, in evaluation mode and float32; load a safetensors file when one is given.

    Input to `preprocess` is RGB 0-255 as for every `Sam`. Without weights it is random.
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
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBEDDING_DIM, num_heads=4, mlp_dim=512
            ),
            num_multimask_outputs=3,
            iou_head_hidden_dim=128,
        ),
    )
    # Logits have twice the side that the prompt encoder reads a mask at; halved, they fit again.
    sam.prompt_encoder.mask_downscaling.insert(0, nn.AvgPool2d(2))
    if weights is not None:
        load_weights(sam, weights)
    return sam.eval()


def load_weights(sam: Sam, path: Path) -> None:
    """Load a half-precision safetensors file into the float32 model; every name must match."""
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
    """Write every floating-point tensor in half precision, aside and then renamed.

    Batch norm's step counters are kept out of the file's precision question: they are integers
    and pass through `float()` and `load_state_dict` unharmed.
    """
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in sam.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    save_file(state, aside, metadata=metadata or {})
    aside.chmod(0o644)
    aside.replace(path)

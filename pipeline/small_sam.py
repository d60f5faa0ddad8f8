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

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import WeightsError

IMAGE_SIZE = 256
STRIDE = 16
EMBEDDING_DIM = 128
BUNDLED = Path(__file__).resolve().parent.parent / "weights" / "small_sam.safetensors"


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
        mask_decoder=MaskDecoder(
            transformer_dim=EMBEDDING_DIM,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBEDDING_DIM, num_heads=4, mlp_dim=512
            ),
            num_multimask_outputs=3,
            iou_head_hidden_dim=128,
        ),
    )
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


class ConvEncoder(nn.Module):
    """Residual convolutions to stride 16, then dilated ones so that each cell sees the whole frame.

    Detail of stride 8 is folded into the embedding by a strided projection: a cell must describe
    4 x 4 mask positions, which the deep path alone blurs.
    """

    def __init__(self, img_size: int, out_channels: int) -> None:
        super().__init__()
        self.img_size = img_size
        self.stem = nn.Sequential(
            _conv(3, 32, stride=2), nn.ReLU(True), _conv(32, 64, stride=2), nn.ReLU(True)
        )
        self.stride8 = nn.Sequential(
            ResidualBlock(64, 128, stride=2), ResidualBlock(128, 128), ResidualBlock(128, 128)
        )
        self.stride16 = nn.Sequential(
            ResidualBlock(128, 192, stride=2),
            ResidualBlock(192, 192),
            ResidualBlock(192, 192, dilation=2),
            ResidualBlock(192, 192, dilation=4),
        )
        self.detail = _conv(128, out_channels, stride=2)
        self.deep = _conv(192, out_channels, kernel=1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        # Channels last is worth several times the speed for convolutions on CPUs with AMX.
        features = self.stem(images_BCHW.contiguous(memory_format=torch.channels_last))
        middle = self.stride8(features)
        return self.deep(self.stride16(middle)) + self.detail(middle)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to a projection of the input."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride=stride, dilation=dilation)
        self.second = _conv(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else _conv(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x_BChw: Tensor) -> Tensor:
        inner = self.second(F.relu(self.first(x_BChw), inplace=True))
        return F.relu(inner + self.skip(x_BChw), inplace=True)


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A convolution that keeps the size (but for its stride), with batch norm."""
    convolution = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        bias=False,
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))

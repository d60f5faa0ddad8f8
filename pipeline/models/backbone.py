"""Frozen feature extractors: the ImageNet ResNet-18 trunk and the bundled small teacher.

    teacher = small_teacher(path)                        # or resnet18_trunk(path)
    fine, middle, coarse = teacher(normalise(images_B3HW))

Both have the same architecture: the stem and the first three stages of a ResNet of basic blocks (He
et al., CVPR 2016) under torchvision's names. They differ in width only, so every detector works
with either and reads `teacher.channels`.

Shapes: B batch; H, W image; 3 colour (RGB); C channels of a level; h, w = H, W divided by the
level's stride, rounded up.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import WeightsError
from pipeline.models.weights.safe_load import load_state

# Input pixels per cell of the three levels (layer1, layer2, layer3).
STRIDES = (4, 8, 16)
# Channels of the three levels.
RESNET18_CHANNELS = (64, 128, 256)
SMALL_CHANNELS = (32, 64, 128)
# Mean and standard deviation of ImageNet in 0-1, RGB, as torchvision's weights expect.
MEAN_3 = (0.485, 0.456, 0.406)
DEVIATION_3 = (0.229, 0.224, 0.225)

# Rows of a stem from which it is made in bands, and those of a band.
LARGE, BAND = 192, 32

# Feature maps at strides 4, 8 and 16.
Levels = tuple[Tensor, Tensor, Tensor]


class Trunk(nn.Module):
    """Stem (stride 4) and three stages of two basic blocks: strides 4, 8 and 16.

    `forward(images_B3HW)` takes normalised float RGB (see `normalise`), any H and W from 32 on, and
    returns three maps (B, C, h, w) with C = `channels`. They are outputs of a ReLU, so they are
    never negative. A new trunk is trainable; `freeze` it before use as a teacher.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.channels = channels
        self.frozen = False
        first, second, third = channels
        self.conv1 = nn.Conv2d(3, first, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = residual_stage(first, first, stride=1)
        self.layer2 = residual_stage(first, second, stride=2)
        self.layer3 = residual_stage(second, third, stride=2)
        # torchvision's initialisation of a ResNet.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_B3HW: Tensor) -> Levels:
        stem_BChw = self.maxpool(self.relu(self.bn1(self.conv1(images_B3HW))))
        fine_BChw = self.layer1(stem_BChw)
        middle_BChw = self.layer2(fine_BChw)
        return fine_BChw, middle_BChw, self.layer3(middle_BChw)

    def stem(self, images_B3HW: Tensor) -> Tensor:
        """Stem of uint8 images, (B, C, h, w) at stride 4, of a frozen trunk with channels last.

        The same bits as `forward`; of a large image in bands of rows, as its maps at stride 2 are
        larger than everything after them.
        """
        layout = torch.channels_last
        height, width = images_B3HW.shape[2:]
        halved = (height - 1) // 2 + 1
        rows, columns = (halved - 1) // 2 + 1, ((width - 1) // 2 + 1 - 1) // 2 + 1
        if rows < LARGE:
            pixels_B3HW = normalise(images_B3HW).contiguous(memory_format=layout)
            return self.maxpool(self.relu(self.bn1(self.conv1(pixels_B3HW))))
        size = len(images_B3HW), self.channels[0], rows, columns
        stem_BChw = torch.empty(size, memory_format=layout, device=images_B3HW.device)
        for first in range(0, rows, BAND):
            last = min(first + BAND, rows)
            # The rows at stride 2 that the pooling reads, and those of the image below them.
            top, bottom = max(0, 2 * first - 1), min(halved, 2 * last)
            upper, lower = 2 * top - 3, 2 * bottom + 2
            pixels_B3hW = normalise(images_B3HW[:, :, max(0, upper) : lower])
            edges = (0, 0, max(0, -upper), max(0, lower - height))
            pixels_B3hW = F.pad(pixels_B3hW, edges).contiguous(memory_format=layout)
            maps_BChW = F.conv2d(pixels_B3hW, self.conv1.weight, None, 2, (0, 3))
            maps_BChW = self.relu(self.bn1(maps_BChW))
            # After a ReLU nothing is below the zeros beyond the image.
            edges = (0, 0, top - (2 * first - 1), 2 * last - bottom)
            stem_BChw[:, :, first:last] = F.max_pool2d(F.pad(maps_BChW, edges), 3, 2, (0, 1))
        return stem_BChw

    def freeze(self) -> "Trunk":
        """Switch to evaluation mode without gradients, permanently."""
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> "Trunk":
        """Like `nn.Module.train`, but a frozen trunk stays in evaluation mode.

        A detector that contains the trunk calls this when it switches to training mode.
        """
        super().train(mode and not self.frozen)
        return self


def resnet18_trunk(weights: Path | None = None) -> Trunk:
    """ResNet-18 up to layer3: 64, 128 and 256 channels, 2 782 784 parameters, frozen.

    `weights` is torchvision's own `.pth` (of which layer4 and the classifier are left out) or a
    safetensors file under the same names, with batch norm plain or folded. Without it the trunk is
    random (for tests of shapes).
    """
    return _frozen(Trunk(RESNET18_CHANNELS), weights, "ResNet-18 trunk (stem to layer3)")


def small_teacher(weights: Path | None = None) -> Trunk:
    """The bundled narrow trunk: 32, 64 and 128 channels, frozen; without a file it is random.

    `pretraining/teacher/` distils it from `resnet18_trunk`; its card is weights/small_teacher.md.
    """
    return _frozen(Trunk(SMALL_CHANNELS), weights, "small teacher")


def normalise(images_B3HW: Tensor) -> Tensor:
    """uint8 RGB (B, 3, H, W) to float32, normalised by ImageNet's mean and standard deviation.

    The result is on the same device. Move the uint8 batch first: it is a quarter of the bytes.
    TypeError for any other dtype.
    """
    if images_B3HW.dtype != torch.uint8:
        raise TypeError(f"images_B3HW must be uint8, got {images_B3HW.dtype}")
    mean_311 = torch.tensor(MEAN_3, device=images_B3HW.device).view(3, 1, 1) * 255
    deviation_311 = torch.tensor(DEVIATION_3, device=images_B3HW.device).view(3, 1, 1) * 255
    return (images_B3HW.float() - mean_311) / deviation_311


def load_trunk(trunk: Trunk, path: Path, name: str) -> None:
    """Load a trunk from a file of any floating-point dtype that has every tensor of the trunk.

    WeightsError when the file is absent, damaged or of another network; `name` is the expected one.
    """
    found = {key: value for key, value in load_state(path).items() if not _behind_trunk(key)}
    # Batch norm's step counters have no effect in evaluation mode, and some files omit them.
    counters = {k: v for k, v in trunk.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        # Copies into the trunk's own float32 tensors.
        trunk.load_state_dict(counters | found)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path}: expected the {name}, got another network: {reason}; "
            "name the file that belongs to it"
        ) from error


def save_trunk(trunk: Trunk, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the weights in float16, to a temporary file that is then renamed."""
    state = {
        key: value.detach().half().contiguous().cpu()
        for key, value in trunk.state_dict().items()
        # Leaves out batch norm's step counters.
        if value.is_floating_point()
    }
    # float16 halves the file that ships with the repository.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(state, temporary, metadata=metadata or {})
    temporary.chmod(0o644)
    temporary.replace(path)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, under torchvision's names.

    Not imported from torchvision, because that import takes a second and a half per process.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = downsample

    def forward(self, input_BChw: Tensor) -> Tensor:
        shortcut_BChw = input_BChw if self.downsample is None else self.downsample(input_BChw)
        inner_BChw = self.relu(self.bn1(self.conv1(input_BChw)))
        return self.relu(self.bn2(self.conv2(inner_BChw)).add_(shortcut_BChw))


def residual_stage(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Two basic blocks; the first one applies the stride and the change of width."""
    # The input cannot be added as it is where its size or width changes.
    shortcut = None
    if stride != 1 or inputs != outputs:
        convolution = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs)
    )


def _behind_trunk(name: str) -> bool:
    """True for the tensors of a whole ResNet that come after the trunk."""
    return name.startswith(("layer4.", "fc."))


def _frozen(trunk: Trunk, weights: Path | None, name: str) -> Trunk:
    if weights is not None:
        load_trunk(trunk, weights, name)
    return trunk.freeze()

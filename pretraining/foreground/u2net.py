"""U²-Net: a U-shaped network whose every stage is itself a small U (Qin et al., 2020).

A stage (residual U-block, RSU) downsamples its features level by level, upsamples them again with
skips, and adds its input, so one stage sees both texture and context. Eleven stages form the outer
U; six of them give a side map, and the six are fused into a seventh. Written from the paper; the
two sizes are the paper's (44.0 M and 1.13 M parameters). rembg runs the exported ONNX file.
Shapes: B images; C channels; H, W pixels; 1 the saliency map.
"""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError


class ConvNormAct(nn.Sequential):
    """3×3 convolution, batch norm, ReLU; keeps the size, `dilation` widens the receptive field."""

    def __init__(self, inside: int, outside: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, 3, padding=dilation, dilation=dilation),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
        )


class ShrinkingRSU(nn.Module):
    """RSU-L: L-1 levels, each half the size of the one above, and a dilated one at the bottom.

    `inside`, `middle` and `outside` are channels: of the input, within the U, of the output.
    """

    def __init__(self, depth: int, inside: int, middle: int, outside: int) -> None:
        super().__init__()
        self.entry = ConvNormAct(inside, outside)
        self.down = nn.ModuleList(
            [ConvNormAct(outside if level == 0 else middle, middle) for level in range(depth - 1)]
        )
        self.bottom = ConvNormAct(middle, middle, dilation=2)
        self.up = nn.ModuleList(
            [ConvNormAct(2 * middle, outside if level == 0 else middle)
             for level in range(depth - 1)]
        )  # fmt: skip

    def forward(self, x_BCHW: Tensor) -> Tensor:
        entry = self.entry(x_BCHW)
        # Down: the outputs of all levels are kept as skips.
        skips = [self.down[0](entry)]
        for down in self.down[1:]:
            skips.append(down(halve(skips[-1])))
        x = self.bottom(skips[-1])
        for level in reversed(range(len(self.up))):
            # Up: resize to the level above and join its skip.
            x = self.up[level](torch.cat([like(x, skips[level]), skips[level]], 1))
        return x + entry


class DilatedRSU(nn.Module):
    """RSU-4F: the same U at constant size, with dilation instead of pooling, for the deepest
    stages.
    """

    def __init__(self, inside: int, middle: int, outside: int) -> None:
        super().__init__()
        self.entry = ConvNormAct(inside, outside)
        self.down = nn.ModuleList(
            [ConvNormAct(outside, middle, 1), ConvNormAct(middle, middle, 2),
             ConvNormAct(middle, middle, 4)]
        )  # fmt: skip
        self.bottom = ConvNormAct(middle, middle, 8)
        self.up = nn.ModuleList(
            [ConvNormAct(2 * middle, outside, 1), ConvNormAct(2 * middle, middle, 2),
             ConvNormAct(2 * middle, middle, 4)]
        )  # fmt: skip

    def forward(self, x_BCHW: Tensor) -> Tensor:
        entry = self.entry(x_BCHW)
        skips = [self.down[0](entry)]
        for down in self.down[1:]:
            skips.append(down(skips[-1]))
        x = self.bottom(skips[-1])
        for level in reversed(range(len(self.up))):
            x = self.up[level](torch.cat([x, skips[level]], 1))
        return x + entry


class U2Net(nn.Module):
    """The outer U. `forward` gives seven maps (B, 1, H, W) in 0-1, the fused one first.

    Input: RGB in 0-1, divided by the image's maximum, ImageNet mean and deviation (as rembg does).
    `encoder` holds six stages, fine to coarse; `decoder` five, `decoder[i]` beside `encoder[i]`.
    """

    def __init__(self, encoder: list[nn.Module], decoder: list[nn.Module], widths: list[int]):
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        # One side map for each decoder stage and for the deepest encoder stage.
        self.sides = nn.ModuleList([nn.Conv2d(width, 1, 3, padding=1) for width in widths])
        self.fuse = nn.Conv2d(len(widths), 1, 1)

    def logits(self, image_BCHW: Tensor) -> list[Tensor]:
        """The seven maps before the sigmoid, for training."""
        skips: list[Tensor] = []
        x = image_BCHW
        for stage in self.encoder:
            # Between stages the maps are halved, before the first one they are not.
            x = stage(x if not skips else halve(x))
            skips.append(x)
        coarse_to_fine = [x]
        for level in reversed(range(len(self.decoder))):
            # Each decoder stage gets the coarser features and the encoder's at its own size.
            x = self.decoder[level](torch.cat([like(x, skips[level]), skips[level]], 1))
            coarse_to_fine.append(x)
        # All side maps are brought to the input's size, then fused by a 1x1 convolution.
        sides = [
            like(side(feature), image_BCHW)
            for side, feature in zip(self.sides, reversed(coarse_to_fine), strict=True)
        ]
        return [self.fuse(torch.cat(sides, 1)), *sides]

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.sigmoid(logit) for logit in self.logits(image_BCHW))


def halve(x: Tensor) -> Tensor:
    """Max-pool by two; odd sizes are rounded up, so that no border row is lost."""
    return F.max_pool2d(x, 2, 2, ceil_mode=True)


def like(x: Tensor, other: Tensor) -> Tensor:
    """Resize bilinearly to the height and width of the other."""
    return F.interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=False)


def u2net() -> U2Net:
    """The full network: 44 009 869 parameters."""
    encoder = [
        ShrinkingRSU(7, 3, 32, 64), ShrinkingRSU(6, 64, 32, 128), ShrinkingRSU(5, 128, 64, 256),
        ShrinkingRSU(4, 256, 128, 512), DilatedRSU(512, 256, 512), DilatedRSU(512, 256, 512),
    ]  # fmt: skip
    decoder = [
        ShrinkingRSU(7, 128, 16, 64), ShrinkingRSU(6, 256, 32, 64), ShrinkingRSU(5, 512, 64, 128),
        ShrinkingRSU(4, 1024, 128, 256), DilatedRSU(1024, 256, 512),
    ]  # fmt: skip
    return U2Net(encoder, decoder, [64, 64, 128, 256, 512, 512])


def u2netp() -> U2Net:
    """The small network: every stage 16 wide inside and 64 outside; 1 131 181 parameters."""
    encoder = [
        *(ShrinkingRSU(depth, 3 if depth == 7 else 64, 16, 64) for depth in (7, 6, 5, 4)),
        DilatedRSU(64, 16, 64), DilatedRSU(64, 16, 64),
    ]  # fmt: skip
    decoder = [
        *(ShrinkingRSU(depth, 128, 16, 64) for depth in (7, 6, 5, 4)),
        DilatedRSU(128, 16, 64),
    ]
    return U2Net(encoder, decoder, [64] * 6)


class Resized(nn.Module):
    """A network that runs at a smaller size than its input: shrink, run, enlarge the maps again."""

    def __init__(self, model: U2Net, factor: int) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        # Average pooling: thin parts fade but never vanish.
        small = F.avg_pool2d(image_BCHW, self.factor)
        return tuple(torch.sigmoid(like(map_, image_BCHW)) for map_ in self.model.logits(small))


def export_onnx(model: U2Net, path: Path, size: int = 320, inner: int | None = None) -> Path:
    """Write the network for (1, 3, size, size) float32 as one file with seven outputs, fused first.

    With `inner` (`size` must be a multiple of it) the network itself runs at that smaller side.
    """
    if inner is not None and size % inner:
        raise UserError(f"size must be a multiple of inner, got {size} and {inner}")
    # Exported on the CPU in float32, whatever it was trained in.
    net = model.eval().to("cpu").float()
    # Write aside and rename: readers never see half a file.
    aside = path.with_suffix(".tmp")
    with warnings.catch_warnings():
        # The tracing exporter (dynamo=False) warns that it is old, but it needs no further package
        # and keeps the weights inside the file.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net if inner is None else Resized(net, size // inner).eval(),
            (torch.zeros(1, 3, size, size),),
            # Fixed input size: rembg always feeds 320 px.
            str(aside), input_names=["image"], opset_version=17, dynamo=False,
            output_names=["fused", *(f"side{n}" for n in range(1, 7))],
        )  # fmt: skip
    aside.replace(path)
    return path

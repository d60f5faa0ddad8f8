"""The frozen teachers of the EfficientAD family, with their normalisation inside.

    teacher = teacher_for("efficientad-m", path)
    teacher.set_statistics(moments)            # of the training normals, before the first step
    target_BChw = teacher(normalise(images))   # zero mean and unit variance per channel

A patch description network is the paper's teacher. The two ResNet trunks stand in for it where
its weights are not at hand: their three levels, brought to the finest grid, on the same cells.

Shapes: B batch; 3 colour; H, W picture; C channels; h, w cells (H/4 - 8).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.networks.pdn import BORDER, Kind, Pdn, load_pdn
from pipeline.errors import UserError
from pipeline.models.backbone import Trunk, resnet18_trunk, small_teacher

CHANNELS = 384
"""Outputs of the official patch description networks."""
_PDNS: dict[str, Kind] = {"efficientad-s": "small", "efficientad-m": "medium"}
TEACHERS = (*_PDNS, "resnet18", "bundled-teacher")


class Moments:
    """Mean and deviation per channel over any number of batches, in float64.

    Batches are merged by their own means (Chan, Golub, LeVeque 1983), so nothing cancels as it
    does in E[x²] - E[x]².
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean_C = torch.zeros(channels, dtype=torch.float64)
        self.squares_C = torch.zeros(channels, dtype=torch.float64)

    def add(self, maps_BChw: Tensor) -> None:
        """Take in the values of one batch."""
        values_CN = maps_BChw.detach().transpose(0, 1).flatten(1).double()
        count = values_CN.shape[1]
        mean_C = values_CN.mean(1)
        squares_C = (values_CN - mean_C[:, None]).square().sum(1).cpu()
        gap_C = mean_C.cpu() - self.mean_C
        whole = self.count + count
        self.squares_C += squares_C + gap_C.square() * (self.count * count / whole)
        self.mean_C += gap_C * (count / whole)
        self.count = whole

    @property
    def deviation_C(self) -> Tensor:
        """Population standard deviation."""
        return (self.squares_C / max(self.count, 1)).sqrt()


class Teacher(nn.Module):
    """Frozen features, normalised by channel. `raw` is the network's own output.

    The statistics are buffers, so no use of the teacher can forget them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.mean_C11: Tensor
        self.deviation_C11: Tensor
        self.register_buffer("mean_C11", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation_C11", torch.ones(channels, 1, 1))

    def raw(self, images_B3HW: Tensor) -> Tensor:
        """Features (B, C, h, w) of normalised images as the network gives them."""
        raise NotImplementedError

    def normalised(self, raw_BChw: Tensor) -> Tensor:
        """Zero mean and unit variance per channel over the training normals; float32."""
        return (raw_BChw.float() - self.mean_C11) / self.deviation_C11

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.normalised(self.raw(images_B3HW))

    def set_statistics(self, moments: Moments) -> None:
        """Take mean and deviation over. A channel that never changes is left unscaled."""
        if not moments.count:
            raise UserError(
                "the teacher's statistics need training normals, but the version's training split "
                "is empty; generate a version with at least one"
            )
        deviation_C = moments.deviation_C
        alive_C = deviation_C > 1e-6
        deviation_C = torch.where(alive_C, deviation_C, torch.ones_like(deviation_C))
        self.mean_C11.copy_(moments.mean_C[:, None, None])
        self.deviation_C11.copy_(deviation_C[:, None, None])

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode."""
        return super().train(False)


class PdnTeacher(Teacher):
    """The paper's teacher: a patch description network, unpadded."""

    def __init__(self, pdn: Pdn) -> None:
        super().__init__(pdn.outputs)
        self.pdn = pdn.requires_grad_(False)
        self.eval()

    def raw(self, images_B3HW: Tensor) -> Tensor:
        return self.pdn(images_B3HW)


class TrunkTeacher(Teacher):
    """A ResNet trunk whose three levels are laid side by side on the finest grid.

    Four cells per side are cut off, so that the others lie where an unpadded patch description
    network has its own.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__(sum(trunk.channels))
        self.trunk = trunk.freeze()
        self.eval()

    def raw(self, images_B3HW: Tensor) -> Tensor:
        fine_BChw, *coarser = self.trunk(images_B3HW)
        side = fine_BChw.shape[-2:]
        levels = [
            fine_BChw,
            *(F.interpolate(m, side, mode="bilinear", align_corners=False) for m in coarser),
        ]
        return torch.cat(levels, 1)[:, :, BORDER:-BORDER, BORDER:-BORDER]


def teacher_for(name: str, weights: Path | None) -> Teacher:
    """The teacher that an entry of the weights registry stands for; random without a file."""
    if name in _PDNS:
        pdn = Pdn(_PDNS[name], CHANNELS)
        if weights is not None:
            load_pdn(pdn, weights)
        return PdnTeacher(pdn)
    if name == "resnet18":
        return TrunkTeacher(resnet18_trunk(weights))
    if name == "bundled-teacher":
        return TrunkTeacher(small_teacher(weights))
    raise UserError(f"no teacher of EfficientAD is called {name!r}; known: {', '.join(TEACHERS)}")

"""The frozen teachers of the EfficientAD family, with feature normalisation built in.

    teacher = teacher_for("efficientad-m", path)
    teacher.set_statistics(moments)            # of the training normals, before the first step
    target_BChw = teacher(normalise(images))   # zero mean and unit variance per channel

The paper's teacher is a patch description network (Batzner, Heckler, König, WACV 2024, section
3.1). Trunks trained on ImageNet replace it where its weights are not available: their three levels
are resampled to the finest grid, on the same cells.

Shapes: B batch; 3 colour; H, W image; C channels; h, w cells (H/4 - 8).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.networks.pdn import BORDER, Kind, Pdn, load_pdn
from pipeline.errors import UserError
from pipeline.models.trunks import TRUNKS, AnyTrunk, trunk_of

# Outputs of the paper's teachers; the layers they are distilled from are pooled to as many.
CHANNELS = 384
# Architectures of the weights registry's entries.
_PDNS: dict[str, Kind] = {"efficientad-s": "small", "efficientad-m": "medium"}
TEACHERS = (*_PDNS, *TRUNKS)


class Moments:
    """Mean and standard deviation per channel over any number of batches, in float64.

    Batches are merged by the update of Chan, Golub, LeVeque (1983), which avoids the cancellation
    in E[x²] - E[x]².
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean_C = torch.zeros(channels, dtype=torch.float64)
        # Sums of squared differences from the mean.
        self.squares_C = torch.zeros(channels, dtype=torch.float64)

    def add(self, maps_BChw: Tensor) -> None:
        """Add the values of one batch."""
        # All values of a channel in a row; float64 on the device of the maps.
        values_CN = maps_BChw.detach().transpose(0, 1).flatten(1).double()
        count = values_CN.shape[1]
        mean_C = values_CN.mean(1)
        squares_C = (values_CN - mean_C[:, None]).square().sum(1).cpu()
        gap_C = mean_C.cpu() - self.mean_C
        # The second summand is the spread between the two means.
        total = self.count + count
        self.squares_C += squares_C + gap_C.square() * (self.count * count / total)
        self.mean_C += gap_C * (count / total)
        self.count = total

    @property
    def deviation_C(self) -> Tensor:
        """Population standard deviation."""
        return (self.squares_C / max(self.count, 1)).sqrt()


class Teacher(nn.Module):
    """Frozen features, normalised per channel. `raw` is the network's own output.

    Training and scoring both need normalised features. The statistics are buffers of the teacher,
    so no caller can forget them and checkpoints include them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        # Shapes (C, 1, 1) broadcast over the cells.
        self.mean_C11: Tensor
        self.deviation_C11: Tensor
        self.register_buffer("mean_C11", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation_C11", torch.ones(channels, 1, 1))

    def raw(self, images_B3HW: Tensor) -> Tensor:
        """Features (B, C, h, w) of normalised images before feature normalisation."""
        raise NotImplementedError

    def normalised(self, raw_BChw: Tensor) -> Tensor:
        """Zero mean and unit variance per channel over the training normals; float32."""
        return (raw_BChw.float() - self.mean_C11) / self.deviation_C11

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Normalised features (B, C, h, w) of normalised images; float32."""
        return self.normalised(self.raw(images_B3HW))

    def set_statistics(self, moments: Moments) -> None:
        """Copy mean and standard deviation. A constant channel is shifted, but not scaled."""
        # Zero normals would leave features unnormalised without a warning.
        if not moments.count:
            raise UserError(
                "the teacher's statistics need training normals, but the version's training split "
                "is empty; generate a version with at least one"
            )
        deviation_C = moments.deviation_C
        # A trunk has channels that stay zero on simple products (dead ReLUs).
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
    """A trunk whose three levels are concatenated on the finest grid.

    Four cells per side are cropped, so that the remaining cells lie where those of an unpadded
    patch description network do.
    """

    def __init__(self, trunk: AnyTrunk) -> None:
        super().__init__(sum(trunk.channels))
        # Frozen weights and batch norm statistics.
        self.trunk = trunk.freeze()
        self.eval()

    def raw(self, images_B3HW: Tensor) -> Tensor:
        # Strides 4, 8 and 16, all on the grid of stride 4.
        fine_BChw, *coarser = self.trunk(images_B3HW)
        side = fine_BChw.shape[-2:]
        levels = [
            fine_BChw,
            *(F.interpolate(m, side, mode="bilinear", align_corners=False) for m in coarser),
        ]
        return torch.cat(levels, 1)[:, :, BORDER:-BORDER, BORDER:-BORDER]


def teacher_for(name: str, weights: Path | None) -> Teacher:
    """The teacher that belongs to a weights registry entry; randomly initialised without a file."""
    if name in _PDNS:
        # Unpadded, although the teacher was distilled with padding: the weights fit both.
        pdn = Pdn(_PDNS[name], CHANNELS)
        if weights is not None:
            load_pdn(pdn, weights)
        return PdnTeacher(pdn)
    if name in TRUNKS:
        return TrunkTeacher(trunk_of(name, weights))
    raise UserError(f"no teacher of EfficientAD is called {name!r}; known: {', '.join(TEACHERS)}")

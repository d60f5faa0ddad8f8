"""How much of an edit SemRec's object branch repairs, level by level.

    share = 1 - d(branch(edited), teacher(original)) / d(teacher(edited), teacher(original))

d is the cosine distance summed over the cells of all pairs, each weighted by the share of the cell
that the change mask covers. 1: the features of the original are restored; 0: the branch is no
nearer to them than the teacher's features of the edited image are.

Shapes: B batch; H, W image; h, w cells of a level; 3 colour (RGB).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.data.batches import Feed
from detectors.data.dataset import VersionDataset
from detectors.models.semrec.model import SemRec
from detectors.networks.corruption import LEVELS
from detectors.networks.cosine import cosine_distance
from detectors.networks.denoising_student import Decoder
from detectors.training.checkpoint import Restored
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.models.backbone import Levels, normalise

BATCH = 8


@torch.inference_mode()
def share_mended(
    restored: Restored, version: Version, split: str = "validation"
) -> dict[str, float]:
    """Level of LEVELS -> share mended, over the anomalous pairs of a split.

    Controls are left out. Empty without pairs. UserError for another detector than SemRec with an
    object branch.
    """
    detector = restored.detector
    if not isinstance(detector, SemRec) or "object" not in detector.branches:
        raise UserError("the checkpoint must hold a SemRec with an object branch")
    pairs = VersionDataset.pairs(version, split, label=1)
    device, size = restored.compute.device, detector.settings.size
    left, made = dict.fromkeys(LEVELS, 0.0), dict.fromkeys(LEVELS, 0.0)
    for batch in Feed(pairs, BATCH, size, device, numbered=False):
        original, edited = normalise(batch["original"]), normalise(batch["edited"])
        mask_B1HW = batch["mask"][:, None].float()
        with restored.compute.autocast():
            target, changed = detector.teacher(original), detector.teacher(edited)
            repaired = decoded(detector.branches["object"], edited, changed)
        for level, aim, before, after in zip(LEVELS, target, changed, repaired, strict=True):
            weight_Bhw = F.interpolate(mask_B1HW, aim.shape[-2:], mode="area")[:, 0]
            left[level] += float((weight_Bhw * cosine_distance(after, aim)).sum())
            made[level] += float((weight_Bhw * cosine_distance(before, aim)).sum())
    return {level: 1 - left[level] / made[level] for level in LEVELS if made[level]}


def decoded(branch: nn.Module, images_B3HW: Tensor, teacher: Levels) -> Levels:
    """A branch's levels of normalised images; `teacher` has the teacher's levels of them."""
    return branch(teacher[2]) if isinstance(branch, Decoder) else branch(images_B3HW)

"""What no kind of part explains: how far its patches are from those of good images.

A part of no known kind, a piece beside all parts, what the finder overlooks: rules of a book say
nothing about how they look. Cells of the image outside of recognised parts are compared with the
patches of good images (`detectors.networks.patch_memory`, after PatchCore), so a hand in the image
or a chip on the table is a reason of its own, and the same table as always is none.

Shapes: B images; H, W image; h, w cells of stride 8; 3 colour (RGB).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.base import Box
from detectors.models.parts.windows import peak_of
from detectors.networks.any_shape import AnyShape
from detectors.networks.patch_memory import Pair, PatchMemory
from pipeline.imaging.masks import bounding_box
from pipeline.rulebook.findings import Finding, RecognisedPart
from pipeline.rulebook.parts import Parts
from pipeline.rulebook.second_look import ODD

# Patches of good images in the bank: as good as 10 000 on synthetic anomalies, in a third of the
# time.
BANK = 3000
# Probability of its kind from which a part explains its pixels, and share of a cell that parts must
# explain.
LIKELY, COVERED = 0.5, 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Strange:
    """The least explained place of an image: its distance, 0 without one, its box and the map.

    `map_HW` is the distance at every pixel that nothing explains, float32, else 0.
    """

    distance: float
    box: Box | None
    map_HW: np.ndarray


class Unexplained(AnyShape):
    """The bank, and `usual`, the mean over the fit's normals of their highest distance."""

    usual: Tensor

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        self.memory = PatchMemory(channels, BANK)
        self.register_buffer("usual", torch.ones((), dtype=torch.float64))

    def learn(self, levels: Iterable[Pair], images: int) -> None:
        """Keep the patches of good images."""
        self.memory.fill(levels, images)

    def settle(self, found: Sequence[Strange]) -> None:
        """Set what is usual."""
        self.usual.fill_(max(float(np.mean([one.distance for one in found])), 1e-6))

    def of(
        self, levels: Pair, parts: Sequence[Parts], seen: Sequence[Sequence[RecognisedPart]]
    ) -> list[Strange]:
        """The least explained place of every image."""
        distances_Bhw = self.memory(*levels).cpu()
        return [
            _strange(distances_hw.numpy(), one, of)
            for distances_hw, one, of in zip(distances_Bhw, parts, seen, strict=True)
        ]

    def finding(self, rule: str, strange: Strange) -> Finding:
        """As a rule that is never broken by itself."""
        off = strange.distance / float(self.usual)
        return Finding(
            rule, False, off, "what good images show",
            f"something {off:.1f} times as far from it as usual",
            boxes=(strange.box,) if strange.box else (),
        )  # fmt: skip


def _strange(distances_hw: np.ndarray, parts: Parts, seen: Sequence[RecognisedPart]) -> Strange:
    height, width = parts.masks_NHW.shape[1:]
    # Parts that nobody would call good ones explain nothing.
    known = [
        number for number, part in enumerate(seen)
        if part.name is not None and part.chance({part.name}) >= LIKELY and part.likeness <= ODD
    ]  # fmt: skip
    explained_HW = parts.masks_NHW[known].any(0)
    cells = distances_hw.shape
    covered_11hw = F.adaptive_avg_pool2d(torch.from_numpy(explained_HW)[None, None].float(), cells)
    open_hw = covered_11hw[0, 0].numpy() < COVERED
    left_hw = np.where(open_hw, distances_hw, 0).astype(np.float32)
    peak = float(left_hw.max())
    map_HW = cv2.resize(left_hw, (width, height), interpolation=cv2.INTER_LINEAR)
    map_HW[explained_HW] = 0
    if not peak:
        return Strange(0.0, None, map_HW)
    shown_hw = peak_of(left_hw).astype(np.uint8)
    shown_HW = cv2.resize(shown_hw, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    # A part that is not explained is shown as a whole.
    for number, mask_HW in enumerate(parts.masks_NHW):
        if number not in known and (mask_HW & shown_HW).any():
            shown_HW |= mask_HW
    return Strange(peak, bounding_box(shown_HW), map_HW)

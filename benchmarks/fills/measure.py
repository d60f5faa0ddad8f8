"""How near each inpainter's fills come to normal images and to the truth, and what they cost.

Shapes: H, W image; h, w cells of 8 x 8 pixels; 3 colour (RGB, uint8); C features.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.fills.holes import Hole
from pipeline.gate.patch_bank import PatchBank, coverage, describe, weighted
from pipeline.models.inpaint.base import Inpainter
from pipeline.models.inpaint.candidates import inside
from pretraining.inpainting import holes as pretraining_holes
from pretraining.inpainting.residue_probe import trace_aurocs

# The inpainter that the gate's distance chooses of these, the cheaper one first.
CHOSEN, CANDIDATES = "chosen", ("patchmatch", "small_lama")
COLUMNS = ("holes", "patch distance", "PSNR dB", "feature error", "trace AUROC", "s per hole")


class Fills:
    """The fills of many holes by every inpainter, with their patch distances and seconds."""

    def __init__(
        self, holes: Sequence[Hole], inpainters: Mapping[str, Inpainter], bank: PatchBank
    ) -> None:
        self.holes, self.bank = list(holes), bank
        self.images: dict[str, list[np.ndarray]] = {}
        self.seconds: dict[str, list[float]] = {}
        for name, inpaint in inpainters.items():
            filled = [_timed(inpaint, hole) for hole in holes]
            self.images[name] = [image_HW3 for image_HW3, _ in filled]
            self.seconds[name] = [seconds for _, seconds in filled]
        self.distances = {name: self._distances(images) for name, images in self.images.items()}
        self._choose()

    def wins(self) -> dict[str, int]:
        """How many holes each candidate fills when the gate's distance chooses."""
        return {name: int(sum(self._chosen == name)) for name in CANDIDATES}

    def row(self, name: str) -> list[str]:
        """The cells of `COLUMNS` for one inpainter; "-" where no truth is known."""
        fills = list(zip(self.images[name], self.holes, strict=True))
        known = [(fill, hole) for fill, hole in fills if hole.known]
        cells = [str(len(fills)), f"{np.mean(self.distances[name]):.3f}"]
        cells.append(f"{np.mean([psnr(*one) for one in known]):.1f}" if known else "-")
        teacher = self.bank.teacher
        errors = [feature_error(fill, hole, teacher, self.bank.scale_C) for fill, hole in known]
        cells.append(f"{np.mean(errors):.3f}" if known else "-")
        examples = [
            pretraining_holes.Hole(hole.scene.image_HW3, hole.hole_HW, hole.scene.image_HW3)
            for hole in self.holes
        ]
        cells.append(str(trace_aurocs(self.images[name], examples)[1]))
        return [*cells, f"{np.mean(self.seconds[name]):.3f}"]

    def _distances(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(holes,) the gate's patch distance of each fill, its own image left out of the bank."""
        return np.array([
            self.bank.without(hole.scene.digest).region_distance(image_HW3, hole.hole_HW)
            for image_HW3, hole in zip(images, self.holes, strict=True)
        ])  # fmt: skip

    def _choose(self) -> None:
        both = np.stack([self.distances[name] for name in CANDIDATES])
        self._chosen = np.array(CANDIDATES)[both.argmin(0)]
        self.distances[CHOSEN] = both.min(0)
        self.images[CHOSEN] = [self.images[name][i] for i, name in enumerate(self._chosen)]
        # Both are made for every hole.
        self.seconds[CHOSEN] = [
            sum(pair) for pair in zip(*(self.seconds[n] for n in CANDIDATES), strict=True)
        ]


def table(title: str, fills: Fills) -> str:
    """One Markdown table: a row per inpainter."""
    lines = [f"**{title}**, chosen: {fills.wins()}", ""]
    lines += [f"| inpainter | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(fills.row(name))} |" for name in fills.images]
    return "\n".join([*lines, ""])


def psnr(filled_HW3: np.ndarray, hole: Hole) -> float:
    """Peak signal to noise ratio of the pixels in the hole against the image itself, dB."""
    error = (filled_HW3.astype(np.float64) - hole.scene.image_HW3)[hole.hole_HW]
    return float(10 * np.log10(255**2 / max((error**2).mean(), 1e-3)))


def feature_error(
    filled_HW3: np.ndarray, hole: Hole, teacher: object, scale_C: np.ndarray
) -> float:
    """Mean distance between the features of fill and truth over the hole's cells."""
    both = [describe(one, teacher) / scale_C for one in (filled_HW3, hole.scene.image_HW3)]  # type: ignore[arg-type]
    return weighted(np.linalg.norm(both[0] - both[1], axis=2), coverage(hole.hole_HW))


def _timed(inpaint: Inpainter, hole: Hole) -> tuple[np.ndarray, float]:
    started = time.process_time()
    filled_HW3 = inpaint(hole.scene.image_HW3, hole.hole_HW, hole.avoid_HW)
    seconds = time.process_time() - started
    return inside(filled_HW3, hole.scene.image_HW3, hole.hole_HW), seconds

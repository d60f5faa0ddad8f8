"""Removals of every object of some photographs, judged by the gate, and a sheet to look at.

Shapes: H, W image; 3 colour (RGB, uint8).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.fills.holes import Scene
from pipeline.edits.apply import apply
from pipeline.edits.context import ImageContext
from pipeline.edits.settings import EditSettings
from pipeline.gate.calibration import NormalModel
from pipeline.gate.judge import judge
from pipeline.imaging.masks import enclosing_box
from pipeline.models.inpaint.base import Inpainter
from pipeline.records import Edit, Sample, Verdict
from pipeline.settings import pixels_at

# Removals on a contact sheet, in rows of this many.
ON_SHEET, PER_ROW = 24, 6

# A removal, its verdict, and the photograph before.
Removal = tuple[Sample, Verdict, np.ndarray]


def removals(
    scenes: Sequence[Scene], inpaint: Inpainter, normal_model: NormalModel
) -> list[Removal]:
    """One removal per object and scene, as generation makes and judges it."""
    made = []
    for scene in scenes:
        model = normal_model.without(scene.digest)
        context = ImageContext(scene.image_HW3, scene.proposals, inpaint)
        if model.patches:
            context.inpaint.distance = model.patches.region_distance
        for target in range(len(context)):
            sample = apply(_removal(context, target), context)
            made.append((sample, judge(sample, scene.image_HW3, None, (), model), scene.image_HW3))
    return made


def summary(made: Sequence[Removal]) -> str:
    """How many pass the gate, and why the others do not."""
    reasons = Counter(verdict.reason or "accepted" for _, verdict, _ in made)
    accepted = reasons.pop("accepted", 0)
    rest = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    return f"removals that pass the gate: {accepted} of {len(made)}; rejected: {rest or 'none'}"


def contact_sheet(made: Sequence[Removal], path: Path, side: int = 160) -> None:
    """Before above after, drawn by position: evenly over all that differ in more than size."""
    picks = np.unique(np.linspace(0, len(made) - 1, min(ON_SHEET, len(made))).astype(int))
    tiles = [_tile(*made[pick], side) for pick in picks]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % PER_ROW)
    rows = [np.hstack(tiles[at : at + PER_ROW]) for at in range(0, len(tiles), PER_ROW)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def _tile(sample: Sample, verdict: Verdict, before_HW3: np.ndarray, side: int) -> np.ndarray:
    """Before with the hole's outline, and after, side by side; a red bar where it is rejected."""
    outline, _ = cv2.findContours(
        sample.change_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    marked_HW3 = cv2.drawContours(before_HW3.copy(), outline, -1, (255, 0, 255), 1)
    pair = np.hstack([
        cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        for image in (marked_HW3, sample.pixels_HW3)
    ])  # fmt: skip
    pair[:4] = (0, 160, 0) if verdict.accepted else (200, 0, 0)
    return cv2.copyMakeBorder(pair, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(90, 90, 90))


def _removal(context: ImageContext, target: int) -> Edit:
    """`missing` of one object, as `edits.plan` would plan it with the default settings."""
    settings = EditSettings()
    dilation = round(pixels_at(settings.dilation, context.size_HW))
    feather = round(pixels_at(settings.feather, context.size_HW))
    foreground_HW = context.proposals.foreground_HW
    touched = np.count_nonzero(context.proposals.masks_NHW[target] & foreground_HW)
    margin = max(dilation, feather, 1) + dilation // 2 + 1 + context.light_margin((target,))
    parameters = {
        "dilation": dilation,
        "feather": feather,
        "match_noise": settings.match_noise,
        "foreground_share": round(touched / max(1, int(np.count_nonzero(foreground_HW))), 6),
        "region": list(enclosing_box([context.crops[target].box_4], margin, context.size_HW)),
    }
    return Edit("missing", (target,), parameters, seed=target)

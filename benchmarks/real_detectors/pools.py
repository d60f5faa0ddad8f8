"""The photographs of parts: those of training, those of the test, and really broken ones.

No photograph serves both sides: every kind's good cut-outs are divided by alternation. Broken parts
come from the defective test photographs, with MVTec's own mask of the defect; whole parts never do.

Shapes: H, W photograph; h, w cut-out; 3 colour (RGB).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from benchmarks.real_parts.cutouts import (
    OBJECTS,
    Cutout,
    cut_out,
    good_photographs,
    outlined,
    transistor_HW,
)
from pipeline.imaging.decode import load_image

# Good specimens of one kind that are used at most, on each side.
SPECIMENS = 24
# Defects that are visible on a cut-out part. Left out: small chips of bottles, which vanish at this
# size, and bent leads or misplaced transistors, which the outline does not keep or which are whole.
DEFECTS = {
    "bottle": ("broken_large", "contamination"),
    "hazelnut": ("crack", "cut", "hole", "print"),
    "transistor": ("damaged_case", "cut_lead"),
}
# Photographs of which no clean outline is found: a dark cap, a leg in the shade.
UNUSABLE = ("print/001", "damaged_case/000")
# Size that MVTec's mask of the defect must have, as a share of the part's. A cut lead's mask lies
# beside the part, where the lead should be.
VISIBLE = 0.015
# Grey level at which bright print on a nut is cut off, so that it does not move the threshold.
BRIGHTEST_NUT = 150


@dataclass(frozen=True, slots=True, eq=False)
class Broken:
    """A broken part: name as `defect/stem`, cut-out, and where it is broken, (h, w) bool."""

    name: str
    part: Cutout
    defect_hw: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """Kind -> cut-outs. `train` and `test` are whole, of different photographs."""

    train: dict[str, tuple[Cutout, ...]]
    test: dict[str, tuple[Cutout, ...]]
    broken: dict[str, tuple[Broken, ...]]

    def counts(self) -> dict[str, dict[str, int]]:
        """Kind -> number of photographs by pool."""
        return {
            kind: {
                "train": len(self.train[kind]),
                "test": len(self.test[kind]),
                "broken": len(self.broken[kind]),
            }
            for kind in self.train
        }


@lru_cache(maxsize=2)
def pools(photographs: Path) -> Pools:
    """The pools of all kinds; `photographs` is the folder of the MVTec AD categories.

    UserError when a category is missing there.
    """
    train, test, broken = {}, {}, {}
    for kind, (folder, find) in OBJECTS.items():
        cut = (cut_out(path, find) for path in good_photographs(photographs / folder))
        found = list(islice((one for one in cut if one is not None), 2 * SPECIMENS))
        # Alternately, because neighbours in a folder resemble each other in light and focus.
        train[kind], test[kind] = tuple(found[::2]), tuple(found[1::2])
        broken[kind] = tuple(
            one
            for defect in DEFECTS[kind]
            for path in sorted((photographs / folder / "test" / defect).glob("*.png"))
            if f"{defect}/{path.stem}" not in UNUSABLE
            and (one := _broken(path, FINDERS.get(kind, find))) is not None
        )
    return Pools(train, test, broken)


def _broken(path: Path, find: Callable[[np.ndarray], np.ndarray]) -> Broken | None:
    """The broken part of a photograph, or None when too little of its defect is on it."""
    image_HW3 = load_image(path)
    found = outlined(find(image_HW3))
    if found is None:
        return None
    alpha_HW, box = found
    truth = path.parents[2] / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
    defect_HW = load_image(truth)[..., 0] > 127
    if defect_HW[box].sum() < VISIBLE * (alpha_HW >= 0.5).sum():
        return None
    return Broken(
        f"{path.parent.name}/{path.stem}", Cutout(image_HW3[box], alpha_HW[box]), defect_HW[box]
    )


def _broken_nut(image_HW3: np.ndarray) -> np.ndarray:
    """A nut with holes and print: the hull of what is found, because a nut is convex."""
    mask_HW = OBJECTS["hazelnut"][1](np.minimum(image_HW3, BRIGHTEST_NUT))
    ys, xs = np.nonzero(mask_HW)
    hull = cv2.convexHull(np.stack([xs, ys], 1).astype(np.int32))
    return cv2.fillConvexPoly(np.zeros_like(mask_HW), hull, 1)


# How broken parts are found where it differs from whole ones.
FINDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hazelnut": _broken_nut,
    "transistor": transistor_HW,
}

"""Compose one scene of given contents, with the ground truth of its defect.

The truth follows MVTec LOCO: where a part is missing, everywhere it could lie; where one is too
many, all parts of its kind. Such a mask is saturated by the area of one part.

Shapes: H, W image; h, w cut-out; N parts; K compartments; 3 colour (RGB); 4 box x0 y0 x1 y1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.real_detectors.contents import STRUCTURAL, Contents, Item
from benchmarks.real_detectors.pools import Broken
from benchmarks.real_parts.backgrounds import background_HW3
from benchmarks.real_parts.cutouts import Cutout
from benchmarks.real_parts.light import lit
from benchmarks.real_parts.places import Placed, arrange
from benchmarks.real_parts.scenes import (
    LENGTH_SPREAD,
    LENGTHS,
    OVERSAMPLING,
    masks_of,
    painted,
    reduced,
    resized,
)
from benchmarks.real_parts.tray import cells_K4, draw_tray

# Parts of a tray are smaller, so that every compartment has room for one more.
TRAY_SCALE = 0.84


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """An image (H, W, 3) uint8 and its parts' masks (N, H, W) bool, disjoint.

    `truth` are the regions of the defect, (H, W) bool each; none in a good scene.
    """

    image_HW3: np.ndarray
    masks_NHW: np.ndarray
    truth: tuple[np.ndarray, ...]


def compose(
    arrangement: str,
    contents: Contents,
    whole: Mapping[str, Sequence[Cutout]],
    broken: Mapping[str, Sequence[Broken]],
    photographs: Path,
    seed: Sequence[int],
    size: int = 256,
    background: str = "cloth",
) -> Composed:
    """One scene; whole parts are drawn from `whole`, a broken one from `broken`.

    Equal arguments give equal scenes. RuntimeError when the parts do not fit.
    """
    layout, surface, light = (np.random.default_rng([*seed, stream]) for stream in range(3))
    large = OVERSAMPLING * size
    image_HW3 = background_HW3(background, large, surface, photographs)
    boxes_K4 = cells_K4(large)
    if arrangement == "tray":
        image_HW3 = draw_tray(image_HW3, boxes_K4, surface)
    scale = large * (TRAY_SCALE if arrangement == "tray" else 1.0)
    parts, defects = [], {}
    for place, item in enumerate(contents.items):
        length = scale * LENGTHS[item.kind] * layout.uniform(1 - LENGTH_SPREAD, 1 + LENGTH_SPREAD)
        if item.wrong and contents.defect == STRUCTURAL:
            one = broken[item.kind][int(layout.integers(len(broken[item.kind])))]
            defects[place] = _sized_defect(one, length)
            cutout = one.part
        else:
            cutout = whole[item.kind][int(layout.integers(len(whole[item.kind])))]
        box_4 = boxes_K4[item.cell] if item.cell >= 0 else None
        parts.append((resized(cutout, length), box_4))
    placed = arrange(parts, large, touching=False, rng=layout)
    image_HW3, layers = painted(image_HW3, placed, light)
    masks_NHW = masks_of(layers, size)
    if contents.defect == STRUCTURAL:
        truth = [_defect_HW(placed[place], defect, size) for place, defect in defects.items()]
    else:
        truth = _truth(contents, masks_NHW, boxes_K4 // OVERSAMPLING)
    return Composed(lit(reduced(image_HW3, size), light), masks_NHW, tuple(truth))


def _truth(contents: Contents, masks_NHW: np.ndarray, boxes_K4: np.ndarray) -> list[np.ndarray]:
    """The regions of a logical defect."""
    items = contents.items
    if contents.defect == "missing":
        free_HW = np.logical_not(masks_NHW.any(0))
        if contents.lost_cell < 0:
            return [free_HW]
        x0, y0, x1, y1 = boxes_K4[contents.lost_cell]
        cell_HW = np.zeros_like(free_HW)
        cell_HW[y0:y1, x0:x1] = True
        return [cell_HW & free_HW]
    if contents.defect == "exchanged":
        return [masks_NHW[n] for n, item in enumerate(items) if item.wrong]
    # Nobody can tell which of equal parts is the one too many.
    return [
        np.any([masks_NHW[n] for n, one in enumerate(items) if _alike(one, item)], 0)
        for item in items
        if item.wrong
    ]


def _alike(one: Item, other: Item) -> bool:
    return (one.kind, one.cell) == (other.kind, other.cell)


def _sized_defect(one: Broken, length: float) -> Cutout:
    """The defect as the colour of a cut-out, 0 or 255, sized like the part."""
    colour_hw3 = np.repeat(one.defect_hw[..., None].astype(np.uint8) * 255, 3, 2)
    return resized(Cutout(colour_hw3, one.part.alpha_hw), length)


def _defect_HW(placed: Placed, defect: Cutout, size: int) -> np.ndarray:
    """Where the defect of a laid part is in the image."""
    large = OVERSAMPLING * size
    # The border of a cut-out is continued outside of it: painted on nothing but its own box.
    ones = Cutout(np.full_like(defect.colour_hw3, 255), np.ones_like(defect.alpha_hw))
    colour_HW3, _ = Placed(defect, placed.x, placed.y, placed.angle).painted(large)
    _, inside_HW = Placed(ones, placed.x, placed.y, placed.angle).painted(large)
    return reduced(colour_HW3[..., 0] * (inside_HW > 0.5), size) >= 127

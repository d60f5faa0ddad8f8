"""The fill from a background that repeats itself, on holes whose truth it must not see.

Shapes: H, W image; 3 colour (RGB, uint8).
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.fills.holes import Scene
from pipeline.imaging.repetition import repeated_background
from pipeline.models.inpaint.repeated import RepeatedInpainter


def repeating(found: Sequence[Scene]) -> bool:
    """True when the background of every scene repeats itself."""
    return all(
        repeated_background(scene.image_HW3, scene.proposals.foreground_HW) is not None
        for scene in found
    )


def repeated_fill(
    image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
) -> np.ndarray:
    """The hole filled with what the rest of the image repeats; the image itself without that."""
    blank_HW3 = image_HW3.copy()
    blank_HW3[hole_HW] = 0
    product_HW = np.zeros_like(hole_HW) if avoid_HW is None else avoid_HW & ~hole_HW
    background = repeated_background(blank_HW3, product_HW)
    if background is None:
        return blank_HW3
    return RepeatedInpainter(background, product_HW)(blank_HW3, hole_HW, avoid_HW)

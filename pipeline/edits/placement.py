"""Where an object may lie: whole in the frame, on background like its own, hardly on other
objects."""

import numpy as np

from pipeline.edits.appearance import SIMILAR_AREA
from pipeline.edits.context import ImageContext
from pipeline.imaging.masks import MaskCrop

# Random destinations that are tried before an edit is given up.
PLACES = 96
# Share of an object that may come to lie on other objects of its own size or smaller.
MAX_OVERLAP = 0.15
# Share of an object that must lie on background of the kind that it came from.
MIN_BACKGROUND = 0.95


def fits(
    context: ImageContext,
    target: int,
    crop: MaskCrop,
    background_HW: np.ndarray,
    held: float = MIN_BACKGROUND,
) -> bool:
    """True when an outline may lie where the target lies; `held` is its share on the background."""
    return (
        crop.whole_in(context.size_HW)
        and crop.share_of(background_HW) >= held
        and context.crowded(crop, (target,), SIMILAR_AREA * crop.area) <= MAX_OVERLAP
    )


def shuffled(context: ImageContext, rng: np.random.Generator) -> list[int]:
    """The movable objects in random order."""
    return [int(index) for index in rng.permutation(context.movable())]

"""Valid destinations of an object: inside the image, on its kind of background, with little overlap
with other objects."""

import numpy as np

from pipeline.edits.appearance import SIMILAR_AREA
from pipeline.edits.context import ImageContext
from pipeline.edits.part_identity import worth_editing
from pipeline.imaging.masks import MaskCrop

# Random destinations that are tried before an edit is abandoned.
PLACES = 96
# Largest share of an object that may overlap other objects of similar or smaller size.
MAX_OVERLAP = 0.15
# Smallest share of an object that must lie on the kind of background that it came from.
MIN_BACKGROUND = 0.95


def fits(
    context: ImageContext,
    target: int,
    crop: MaskCrop,
    background_HW: np.ndarray,
    held: float = MIN_BACKGROUND,
) -> bool:
    """True when an outline may take the target's place.

    `background_HW` is where the target may lie, `held` the share of the outline that must be on it.
    """
    return (
        crop.inside_frame(context.size_HW)
        and crop.share_on(background_HW) >= held
        and context.overlap_with_others(crop, (target,), SIMILAR_AREA * crop.area) <= MAX_OVERLAP
    )


def shuffled(context: ImageContext, rng: np.random.Generator) -> list[int]:
    """The movable objects that are worth editing (indices) in random order."""
    return [int(index) for index in rng.permutation(worth_editing(context, movable=True))]

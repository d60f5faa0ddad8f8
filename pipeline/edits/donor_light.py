"""The light of a donor image against that of this one, so that a pasted part lies in the latter.

Parts of one kind have the colours of one kind, so what they look like in two images tells how the
light differs: by a factor per channel, and by one exponent for all, as cameras raise the dark parts
of dark images. Backgrounds do not tell: another sheet of paper looks like another light.

Shapes: H, W image; R pixels of an object; Q quantiles; K part kinds; 3 colour (RGB).
"""

import numpy as np

from pipeline.edits.compositing.light import WHITE, Light
from pipeline.edits.context import ImageContext
from pipeline.edits.donors import DonorRef
from pipeline.edits.part_identity import kind_of_object, kinds_of_objects
from pipeline.imaging.region_values import values_in
from pipeline.part_kinds.kinds import UNSURE, PartKinds

# Bounds of exposure, cast and exponent: factors of 0.6 to 1.65, of 0.86 to 1.16 beside it, and
# exponents of 0.65 to 1.35. Beyond, parts of a kind differ in more than light.
EXPOSURE, CAST, BENT = 0.5, 0.15, 0.35
# How many times as much as another kind the donor object's own kind tells.
OWN_KIND = 2.0
# Quantiles of a part's grey levels, of at most so many pixels.
LEVELS, PIXELS = (np.arange(16) + 0.5) / 16, 512
# Variance of log grey levels, summed over channels, that tells half of the exponent.
FLAT = 0.1
# Grey levels on top of all, as the logarithm of black is noise.
STABLE = 2.0


def light_for(context: ImageContext, source: DonorRef) -> Light | None:
    """What brings a donor object into the light of the context's image.

    None where nothing tells: for another category, without part kinds, and where the two images
    share no kind.
    """
    kinds = context.part_kinds
    if kinds is None or source.category:
        return None
    own = kind_of_object(context, source)
    return context.cached(
        lambda: _light(_levels(context, kinds), _levels(context, kinds, source.image), own),
        "light", source.image, own,
    )  # fmt: skip


def _light(here: dict[int, np.ndarray], there: dict[int, np.ndarray], own: int) -> Light | None:
    """The light of a donor image, from the levels of part kinds in both images."""
    shared = sorted(here.keys() & there.keys())
    if not shared:
        return None
    here_Q3, there_Q3 = (
        np.log((np.concatenate([found[kind] for kind in shared]) + STABLE) / WHITE)
        for found in (here, there)
    )
    times_K = [OWN_KIND if kind == own else 1.0 for kind in shared]
    # Errors of grey levels, not of their logarithms: bright pixels are seen better.
    weight_Q3 = np.repeat(times_K, len(LEVELS))[:, None] * np.exp(2 * there_Q3)
    weight_Q3 /= weight_Q3.sum(0)
    middle_3, rise_3 = (weight_Q3 * there_Q3).sum(0), (weight_Q3 * (here_Q3 - there_Q3)).sum(0)
    off_Q3 = there_Q3 - middle_3
    slope = (weight_Q3 * off_Q3 * (here_Q3 - there_Q3 - rise_3)).sum()
    bent = float(np.clip(slope / ((weight_Q3 * off_Q3**2).sum() + FLAT), -BENT, BENT))
    # Channels are compared at one grey level.
    middle = middle_3.mean()
    rise_3 -= bent * (middle_3 - middle)
    exposure = np.clip(rise_3.mean(), -EXPOSURE, EXPOSURE)
    cast_3 = np.clip(rise_3 - rise_3.mean(), -CAST, CAST)
    red, green, blue = np.exp(exposure + cast_3 - bent * middle).tolist()
    return Light((round(red, 3), round(green, 3), round(blue, 3)), round(1 + bent, 3))


def _levels(context: ImageContext, kinds: PartKinds, donor: str = "") -> dict[int, np.ndarray]:
    """Quantiles (Q, 3) of the grey levels of each part kind, means over its parts, in this image or
    in a donor's."""

    def measured() -> dict[int, np.ndarray]:
        proposals = context.donors.proposals_of(donor) if donor else context.proposals
        image_HW3 = context.donors.pixels_of(donor) if donor else context.image_HW3
        kinds_N = kinds_of_objects(context, kinds, donor)
        by_kind: dict[int, list[np.ndarray]] = {}
        # Pieces show what the wholes show.
        for index in np.flatnonzero(proposals.whole_N | proposals.product_N).tolist():
            kind = int(kinds_N[index])
            if kind != UNSURE:
                pixels_R3 = values_in(image_HW3, proposals.masks_NHW[index])
                few_R3 = pixels_R3[:: max(1, len(pixels_R3) // PIXELS)]
                by_kind.setdefault(kind, []).append(np.quantile(few_R3, LEVELS, axis=0))
        return {kind: np.mean(found, axis=0) for kind, found in by_kind.items()}

    return context.cached(measured, "levels of kinds", donor)

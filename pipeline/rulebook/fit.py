"""Fit the rules of one kind of part to the parts that normal images show.

Every rule is the narrowest one that the observed parts keep, plus a tolerance; outliers, which are
mostly segmentation errors, do not count. Where the parts show no regularity the rule is switched
off ("any", "anywhere").

Shapes: I images; M parts of the kind; 2 position in the product frame; 3 CIELAB; S face values.
"""

from itertools import combinations

import numpy as np

from pipeline.part_kinds.grouping import irregularity
from pipeline.rulebook.book import Colour, Place, Turn

# Share of the images that must show a kind for it to get rules.
RECURS = 0.75
# Share of the images with the most frequent count from which that count becomes the rule.
USUAL = 0.75
# Share of the images below which a count is taken for a segmentation error.
RARE = 0.05
# Area of a box, in product units squared, above which it would restrict nothing.
ANYWHERE = 0.35
# Radius, in product units, above which positions are described by a box instead of slots.
WIDEST_SLOT = 0.15
# Share of the images that must have exactly one part in every slot.
SLOTS_KEPT = 0.9
# Share of the parts that may lie elsewhere by an error of the finder.
ODD = 0.05
# Complete images below which slots are not evident.
LEAST_COMPLETE = 3
# Robust standard deviations from the median beyond which a value is an outlier.
STRAY = 6.0
# Largest deviation of the axes in degrees from which the parts have a common orientation, and the
# factor and summand of its tolerance.
MAX_TURN, TURN_FACTOR, TURN_SLACK = 20, 1.25, 4
# Similarity by which upright parts must exceed those rotated by a quarter or half turn.
FACE_MARGIN = 0.15


def count_rule(counts_I: np.ndarray, *, free: bool) -> int | tuple[int, int]:
    """The usual count, or the range of counts that are not rare.

    With `free` (interchangeable kinds) it is the range of all counts.
    """
    if not free and irregularity(counts_I) <= 1 - USUAL:
        return int(np.bincount(counts_I).argmax())
    shares = np.bincount(counts_I) / len(counts_I)
    usual = np.flatnonzero(shares > (0 if free else RARE))
    return int(usual.min()), int(usual.max())


def place_rule(points_M2: np.ndarray, images_M: np.ndarray, counts_I: np.ndarray) -> Place | str:
    """Slots where every image has its parts at the same positions, else a box, else anywhere.

    `images_M` is the image of each part, `counts_I` the number of parts per image.
    """
    number = int(np.bincount(counts_I[counts_I > 0]).argmax())
    slots = _slots(points_M2, images_M, number)
    if slots is not None:
        return slots
    near_M = no_strays(points_M2) if len(points_M2) > 2 else np.ones(len(points_M2), np.bool_)
    # Many outliers are none: parts may lie in several places.
    points_M2 = points_M2[near_M] if near_M.mean() >= 1 - ODD else points_M2
    # A box around all positions, with a tolerance.
    low, high = points_M2.min(0), points_M2.max(0)
    margin = np.maximum(0.15 * (high - low), 0.015)
    low, high = low - margin, high + margin
    if (high - low).prod() > ANYWHERE:
        return "anywhere"
    return Place(box=_rounded(low[0], low[1], high[0], high[1]))


def _slots(points_M2: np.ndarray, images_M: np.ndarray, number: int) -> Place | None:
    """As many slots as there are parts, if nearly every image has exactly one part in each."""
    # Complete images only: in others the finder may have taken a fragment for a part. k-means
    # starts from the first of them, which makes it deterministic.
    full = np.flatnonzero(np.bincount(images_M) == number)
    if len(full) < LEAST_COMPLETE:
        return None
    start = points_M2[images_M == full[0]]
    complete_M = np.isin(images_M, full)
    points_M2, images_M = points_M2[complete_M], images_M[complete_M]
    # SciPy takes half a second to import.
    from scipy.cluster.vq import kmeans2

    centres, labels = kmeans2(points_M2, start, minit="matrix", iter=20)
    apart_M = np.linalg.norm(points_M2 - centres[labels], axis=1)
    # Without the few that a finder may have got wrong in spite of the right number.
    reach = float(np.percentile(apart_M, 100 * (1 - ODD)))
    near = min((float(np.linalg.norm(a - b)) for a, b in combinations(centres, 2)), default=1.0)
    once = [len(set(labels[images_M == image])) == number for image in full]
    if reach > 0.5 * near or reach > WIDEST_SLOT or np.mean(once) < SLOTS_KEPT:
        return None
    # Slots must not overlap. They are listed row by row, left to right.
    radius = min(max(1.2 * reach, 0.02), 0.5 * near)
    order = np.lexsort((centres[:, 0], np.round(centres[:, 1] / max(radius, 0.02))))
    return Place(slots=tuple(_rounded(*centres[k]) for k in order), radius=round(radius, 3))


def no_strays(values_MK: np.ndarray) -> np.ndarray:
    """Which rows are no outliers: within `STRAY` robust deviations in every column; (M,) bool."""
    off = np.abs(values_MK - np.median(values_MK, 0))
    spread = np.maximum(1.4826 * np.median(off, 0), 1e-3)
    near = (off <= STRAY * spread).all(1)
    return near if near.any() else np.ones(len(values_MK), np.bool_)


def size_rule(sizes_M: np.ndarray) -> tuple[float, float]:
    """The range of sizes without outliers, with 5 % of tolerance; outliers on a log scale."""
    kept = sizes_M[no_strays(np.log(sizes_M)[:, None])]
    return round(float(kept.min() * 0.95), 4), round(float(kept.max() * 1.05), 4)


def colour_rule(labs_M3: np.ndarray) -> Colour:
    """The median colour and the largest distance from it without outliers, with a tolerance."""
    middle = np.median(labs_M3, 0)
    kept = labs_M3[no_strays(labs_M3)]
    off = float(np.linalg.norm(kept - middle, axis=1).max())
    return Colour(lab=_rounded(*middle, digits=1), within=round(1.25 * off + 1, 1))


def turn_rule(angles_M: np.ndarray, faces_MS: np.ndarray, face_S: np.ndarray) -> Turn | str:
    """The common orientation of the parts, if they have one: of their axis and of their face.

    `angles_M` are degrees, NaN for round parts; `face_S` is the mean face of unit length.
    """
    around = within = upright = None
    if np.isfinite(angles_M).mean() >= RECURS:
        # Axes are equal modulo 180 degrees, so their mean is taken on doubled angles.
        doubled = np.deg2rad(2 * angles_M[np.isfinite(angles_M)])
        middle = float(np.rad2deg(np.arctan2(np.sin(doubled).mean(), np.cos(doubled).mean())) / 2)
        off = np.abs((np.rad2deg(doubled) / 2 - middle + 90) % 180 - 90)
        reach = float(np.percentile(off, 98))
        if reach <= MAX_TURN:
            around, within = round(middle % 180, 1), round(TURN_FACTOR * reach + TURN_SLACK, 1)
    upright = _upright(faces_MS, face_S)
    if around is None and upright is None:
        return "any"
    return Turn(around=around, within=within or 15, upright=upright)


def _upright(faces_MS: np.ndarray, face_S: np.ndarray) -> float | None:
    """The smallest similarity to the mean face of an upright part, or None.

    Defined only if parts rotated by quarter turns are clearly less similar: then the limit is
    halfway between.
    """
    side = int(np.sqrt(faces_MS.shape[1]))
    similarity = np.percentile(faces_MS @ face_S, 2)
    turned = [
        np.percentile(
            np.rot90(faces_MS.reshape(-1, side, side), k, (1, 2)).reshape(len(faces_MS), -1)
            @ face_S,
            98,
        )
        for k in (1, 2, 3)
    ]
    if similarity - max(turned) < FACE_MARGIN:
        return None
    return round(float((similarity + max(turned)) / 2), 2)


def _rounded(*values: float, digits: int = 3) -> tuple[float, ...]:
    return tuple(round(float(value), digits) for value in values)

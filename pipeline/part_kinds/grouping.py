"""Group parts that may be one kind: by appearance, by size, and by how often they occur together.

    labels_M = completed(sized(components(points_MD, reach), logs_M, images_M), logs_M, images_M, n)

Shapes: M parts of all normal images; D dimensions of `space.Space`; I images.
"""

from collections.abc import Mapping

import numpy as np

# Smallest gap between the sizes of two kinds that look alike (logarithm of the square root of the
# area): a factor of 1.28. Measured: kinds spread over 0.5 with gaps up to 0.17, bottle and mouth
# are 0.7 apart, and M4 and M6 screws 0.4.
SIZE_GAP = 0.25
# The same, from which a part seen from an odd side, or only half of it, is another part.
OTHER_PART = 0.5
# A usually absent component is merged into another one if it completes that one's usual number in
# at least this share of the images that show it.
COMPLETES = 0.5


def components(points_MD: np.ndarray, reach: float) -> np.ndarray:
    """Labels of the single-linkage clusters at that distance, (M,)."""
    if len(points_MD) < 2:
        return np.zeros(len(points_MD), np.int64)
    # SciPy takes half a second to import.
    from scipy.cluster.hierarchy import fcluster, linkage

    labels_M: np.ndarray = fcluster(linkage(points_MD, "single"), reach, "distance")
    return labels_M


def sized(labels_M: np.ndarray, logs_M: np.ndarray, images_M: np.ndarray) -> np.ndarray:
    """The labels, with components split where their sizes (logarithms) have a gap.

    Appearance alone may link a bottle and its mouth, or two washers. Parts seen from nearer and
    farther have all sizes between two, and where the camera was nearer an image shows all of them
    larger: there is only a gap where images that show one size show the other one, too.
    """
    labels_M = labels_M.copy()
    waiting = np.unique(labels_M).tolist()
    while waiting:
        label = waiting.pop()
        members = np.flatnonzero(labels_M == label)
        members = members[np.argsort(logs_M[members], kind="stable")]
        gaps = np.diff(logs_M[members])
        # The widest first; both sides are looked at again.
        for cut in np.argsort(-gaps, kind="stable").tolist():
            if gaps[cut] < SIZE_GAP:
                break
            sides = members[: cut + 1], members[cut + 1 :]
            small, large = (np.unique(images_M[side]) for side in sides)
            together = len(np.intersect1d(small, large))
            if together and 2 * together >= min(len(small), len(large)):
                other = int(labels_M.max()) + 1
                labels_M[sides[1]] = other
                waiting += [label, other]
                break
    return labels_M


def completed(
    labels_M: np.ndarray, logs_M: np.ndarray, images_M: np.ndarray, images: int
) -> np.ndarray:
    """The labels, with a usually absent component merged into one that lacks exactly its parts.

    A part seen from an odd side is far from the others of its kind, but it occurs where one of them
    is missing: together they have the usual number more often. It is not of another size.
    """
    labels_M = labels_M.copy()

    def counts(label: int) -> np.ndarray:
        return np.bincount(images_M[labels_M == label], minlength=images)

    # The smallest first: several odd views may belong to one kind.
    for odd in sorted(np.unique(labels_M), key=lambda k: (int((labels_M == k).sum()), k)):
        odd_I = counts(odd)
        if np.bincount(odd_I).argmax() > 0:
            continue
        size = float(np.median(logs_M[labels_M == odd]))
        others = {
            int(label): counts(label)
            for label in np.unique(labels_M)
            if label != odd and abs(np.median(logs_M[labels_M == label]) - size) < OTHER_PART
        }
        usual = {label: of for label, of in others.items() if np.bincount(of).argmax() > 0}
        best = completed_by(odd_I, usual)
        if best is not None:
            labels_M[labels_M == odd] = best
    return labels_M


def completed_by(odd_I: np.ndarray, others: Mapping[int, np.ndarray]) -> int | None:
    """The one of `others` whose usual number the odd parts complete; None when they do not.

    All are counts per image. Completing means: in at least COMPLETES of the images that show the
    odd parts, the other kind has its usual number only together with them.
    """
    gains = {
        key: irregularity(counts_I) - irregularity(counts_I + odd_I)
        for key, counts_I in others.items()
    }
    best = max(gains, key=lambda key: gains[key], default=None)
    enough = best is not None and gains[best] >= COMPLETES * float((odd_I > 0).mean())
    return best if enough else None


def irregularity(counts_I: np.ndarray) -> float:
    """Share of the images whose count is not the most frequent one, in [0, 1)."""
    return float(1 - np.bincount(counts_I).max() / len(counts_I))

"""Part kinds: which parts of a category come again, what they look like and where they lie.

    kinds = learn(observed)                    # from the normal images of a category
    kinds_N = kinds.recognise(vectors_NC)      # of one image; UNSURE where unclear

Kinds are the connected components of a nearest-neighbour graph (single linkage). Errors in that
direction are harmless: two kinds taken for one forbid an exchange that would have been an anomaly,
while one kind taken for two would label two equal screws under different light "swapped". For the
same reason two kinds count as different only with a clear gap between them, and a part that is
far from all known ones, or between two kinds, is `UNSURE`.

Shapes: N parts of one image; M parts of all normal images; K kinds; C vector; D dimensions of
`space.Space`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.imaging.part_shape import FACE_SIDE
from pipeline.models.part_embedding import FACE, PLAIN, UNITS
from pipeline.part_kinds.grouping import (
    SIZE_GAP,
    completed,
    components,
    irregularity,
    sized,
)
from pipeline.part_kinds.space import Space, distances

# The kind of a part that is far from every known one, or between two kinds.
UNSURE = -1
# Normal images below which nothing recurs reliably.
LEAST_IMAGES = 4
# A kind recurs in at least this share of the images, and in at least two.
RECURS = 0.2
# Parts closer than this multiple of the usual distance to the nearest part of another image are
# linked; one kind ends where no part is that near.
LINK = 2.5
# Percentile of those nearest distances that counts as usual.
USUAL = 75
# Two kinds differ when their nearest parts are farther apart than this multiple of LINK's reach.
APART = 1.2
# A part belongs to a kind up to this multiple of LINK's reach, and only if the next kind is farther
# by the second factor.
REACH, CLEARLY = 0.8, 1.5
# A kind has places of its own when nearly every part (the percentile) lies within this share of its
# length of a place where another image shows the kind. Measured, with 12 composed images: 0.14 to
# 0.18 in compartments, 0.49 to 0.95 where parts lie anywhere.
NEARLY, OWN_PLACE = 90, 0.35
# Places nearer than this share of a part's length belong together. Where they spread over more than
# the second multiple of its length, the kind lies anywhere, too, however many places were seen.
TOGETHER, SPREAD = 0.5, 2.0
# Correlation of upright parts with their mean from which a kind is always turned the same way.
SAME_TURN = 0.6
# How much less parts must correlate with it when turned by a quarter or a half.
TURN_MARGIN = 0.1
# A number of parts is usual when at least this share of the images has it, of at least that many.
REGULAR, REGULAR_IMAGES = 0.75, 8
# Factor beyond the seen sizes (square root of the area) from which a part has the wrong size.
OTHER_SIZE = 1.08
# A mask is a whole circle if it covers that share of its smallest enclosing circle: digital discs
# of 20 to 50 pixels 0.94 to 0.97, cut bottles 0.75 to 0.93, hazelnuts at most 0.91.
FULL_CIRCLE = 0.92
# A kind is round when that share of its parts, and at least so many, are whole circles of one size
# (the factor between the percentiles). Where outlines are dim most of its masks may be cut.
ROUND, LEAST_ROUND, ONE_SIZE, BULK = 0.1, 3, 1.12, (10, 90)
# Factor beyond the radii of whole circles that a part of the kind may have.
OTHER_RADIUS = 1.05
# Column of a vector that holds the size.
_SIZE = 4


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """The parts of one normal image: vectors (N, C) and centres (N, 2), x and y in 0-1.

    `beside_N` says which lie beside the product, if the image shows one product (`product`), and
    `circles_N` which share of its smallest enclosing circle each part covers.
    """

    vectors_NC: np.ndarray
    centres_N2: np.ndarray
    beside_N: np.ndarray | None = None
    product: bool = False
    circles_N: np.ndarray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PartKinds:
    """The kinds of a category. `kinds_M` is the kind of each example, `reach` the distance of LINK.

    `gaps_KK` are the distances between the nearest examples of two kinds. `centres_M2` are places
    in shares of the image's width and height, `images_M` says from which image.
    """

    space: Space
    points_MD: np.ndarray
    kinds_M: np.ndarray
    centres_M2: np.ndarray
    images_M: np.ndarray
    gaps_KK: np.ndarray
    # Square root of the area as a share of the image's side, smallest and largest of each kind.
    sizes_K2: np.ndarray
    # Whether good images show the kind in one rotation only.
    fixed_turn_K: np.ndarray
    # Whether the kind is no part of the product that good images show: the holes of the board that
    # it is mounted on, or patches of its surface that are taken for parts now and then.
    incidental_K: np.ndarray
    # Smallest and largest radius of whole circles, as shares of the image's side; 0 for kinds that
    # are not round.
    radii_K2: np.ndarray
    reach: float
    images: int

    def __len__(self) -> int:
        return len(self.gaps_KK)

    def recognise(self, vectors_NC: np.ndarray) -> np.ndarray:
        """The kind of each part, (N,) int32; UNSURE for one-offs and for parts between kinds."""
        return self.recognised(vectors_NC)[0]

    def recognised(self, vectors_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and how far each part is from the nearest example, (N,) float64."""
        kinds_N = np.full(len(vectors_NC), UNSURE, np.int32)
        if not len(vectors_NC) or not len(self):
            return kinds_N, np.full(len(vectors_NC), np.inf)
        apart_NM = distances(self.space.of(vectors_NC[:, :-FACE]), self.points_MD)
        nearest_NK = np.stack(
            [apart_NM[:, self.kinds_M == kind].min(1) for kind in range(len(self))], 1
        )
        # Where several kinds are near, those of clearly another size are out of the question.
        low_K, high_K = np.log(self.sizes_K2).T
        logs_N1 = vectors_NC[:, _SIZE, None] * UNITS[_SIZE]
        sized_NK = np.maximum(low_K - logs_N1, logs_N1 - high_K) < SIZE_GAP / 2
        fitting_N1 = (sized_NK & (nearest_NK <= REACH * self.reach)).any(1, keepdims=True)
        nearest_NK = np.where(fitting_N1 & ~sized_NK, np.inf, nearest_NK)
        best_N = nearest_NK.argmin(1)
        first_N = nearest_NK.min(1)
        sure_N = first_N <= REACH * self.reach
        if len(self) > 1:
            # Nearly as near to a second kind: it may be either.
            second_N = np.partition(nearest_NK, 1, axis=1)[:, 1]
            sure_N &= second_N >= CLEARLY * first_N
        kinds_N[sure_N] = best_N[sure_N]
        return kinds_N, first_N

    @property
    def usual_K(self) -> np.ndarray:
        """How many parts of each kind nearly every good image shows, (K,) int.

        0 where no number is usual: nothing of the kind is missed in an image that has none.
        """
        usual_K = np.zeros(len(self), np.int64)
        for kind in range(len(self)) if self.images >= REGULAR_IMAGES else ():
            counts_I = np.bincount(self.images_M[self.kinds_M == kind], minlength=self.images)
            if irregularity(counts_I) <= 1 - REGULAR and not self.incidental_K[kind]:
                usual_K[kind] = np.bincount(counts_I).argmax()
        return usual_K

    def usual_size(self, kind: int) -> float:
        """The middle of the sizes of good images: square root of the share of the image."""
        return float(np.sqrt(self.sizes_K2[kind].prod()))

    def differ(self, first: int, second: int) -> bool:
        """True when two kinds are surely different; False for UNSURE ones."""
        if UNSURE in (first, second) or first == second:
            return False
        return bool(self.gaps_KK[first, second] >= APART * self.reach)

    def is_incidental(self, kind: int) -> bool:
        """True for a kind that is no part of the product; False for UNSURE."""
        return kind != UNSURE and bool(self.incidental_K[kind])

    def unlike(self, vector_C: np.ndarray, kind: int) -> bool:
        """True when a part of unknown origin is surely not of that kind; False for UNSURE."""
        if kind == UNSURE:
            return False
        point_1D = self.space.of(vector_C[None, :-FACE])
        nearest = float(distances(point_1D, self.points_MD[self.kinds_M == kind]).min())
        return nearest >= APART * self.reach

    def places_of(self, kind: int) -> np.ndarray:
        """Centres at which good images show the kind, (P, 2), x and y in 0-1."""
        places_P2: np.ndarray = self.centres_M2[self.kinds_M == kind]
        return places_P2

    def seen_near(self, kind: int, centre_2: tuple[float, float], extent: float) -> bool:
        """True when a good image shows the kind within `extent` of a centre, x and y in 0-1."""
        apart_P = np.linalg.norm(self.places_of(kind) - centre_2, axis=1)
        return bool(apart_P.min(initial=np.inf) < extent)

    def has_own_places(self, kind: int, extent: float) -> bool:
        """True when good images show the kind at certain places only, False when it lies anywhere.

        `extent` is the longest side of the part as a share of the image. False for UNSURE.
        """
        if kind == UNSURE:
            return False
        places_P2 = self.places_of(kind)
        # Places of the same image say nothing: three nuts may lie in one compartment or anywhere.
        images_P = self.images_M[self.kinds_M == kind]
        apart_PP = distances(places_P2, places_P2)
        apart_PP[images_P[:, None] == images_P[None]] = np.inf
        if np.percentile(apart_PP.min(1), NEARLY) > OWN_PLACE * extent:
            return False
        clusters_P = components(places_P2, TOGETHER * extent)
        spans = [np.ptp(places_P2[clusters_P == one], axis=0) for one in np.unique(clusters_P)]
        return float(max(np.linalg.norm(span) for span in spans)) <= SPREAD * extent

    def unusual_size(self, kind: int, size: float) -> bool:
        """True for a size (square root of the share of the image) beyond those of good images."""
        if kind == UNSURE:
            return False
        smallest, largest = self.sizes_K2[kind].tolist()
        return not smallest / OTHER_SIZE <= size <= largest * OTHER_SIZE

    def radii(self, kind: int, size_HW: tuple[int, int]) -> tuple[float, float] | None:
        """Between which radii (pixels) parts of a round kind are; None for others and UNSURE."""
        if kind == UNSURE or not self.radii_K2[kind].all():
            return None
        smallest, largest = (self.radii_K2[kind] * np.sqrt(size_HW[0] * size_HW[1])).tolist()
        return smallest / OTHER_RADIUS, largest * OTHER_RADIUS

    def turn_is_fixed(self, kind: int) -> bool:
        """True when good images show the kind in one rotation only."""
        return kind != UNSURE and bool(self.fixed_turn_K[kind])


def learn(observed: Sequence[Observed]) -> PartKinds | None:
    """The part kinds of normal images; None with fewer than LEAST_IMAGES images or no part."""
    counts = [len(one.vectors_NC) for one in observed]
    if len(observed) < LEAST_IMAGES or sum(count > 0 for count in counts) < LEAST_IMAGES:
        return None
    vectors_MC = np.concatenate([one.vectors_NC for one in observed if len(one.vectors_NC)])
    centres_M2 = np.concatenate([one.centres_N2 for one in observed if len(one.vectors_NC)])
    images_M = np.repeat(np.arange(len(observed)), counts)
    faces_MS = vectors_MC[:, -FACE:]
    space = Space.learned(vectors_MC[:, :-FACE], images_M, PLAIN)
    points_MD = space.of(vectors_MC[:, :-FACE])
    apart_MM = distances(points_MD, points_MD)
    elsewhere_MM = np.where(images_M[:, None] == images_M[None], np.inf, apart_MM)
    reach = LINK * float(np.percentile(elsewhere_MM.min(1), USUAL))
    # Components that do not recur are one-offs: their parts stay unsure.
    least = max(2, RECURS * len(observed))
    logs_M = vectors_MC[:, _SIZE] * UNITS[_SIZE]
    labels_M = sized(components(points_MD, reach), logs_M, images_M)
    labels_M = completed(labels_M, logs_M, images_M, len(observed))
    recurring = [
        label for label in np.unique(labels_M)
        if len(np.unique(images_M[labels_M == label])) >= least
    ]  # fmt: skip
    # The most frequent kind first, then by first appearance: independent of labels of a library.
    recurring.sort(key=lambda k: (-int((labels_M == k).sum()), int((labels_M == k).argmax())))
    kinds_M = np.full(len(labels_M), UNSURE, np.int32)
    for kind, label in enumerate(recurring):
        kinds_M[labels_M == label] = kind
    known_M = kinds_M != UNSURE
    of_kind = [kinds_M == kind for kind in range(len(recurring))]
    gaps_KK = np.array(
        [[apart_MM[np.ix_(one, other)].min() for other in of_kind] for one in of_kind]
    ).reshape(len(of_kind), len(of_kind))
    sizes_M = np.exp(logs_M)
    return PartKinds(
        space, points_MD[known_M], kinds_M[known_M], centres_M2[known_M], images_M[known_M],
        gaps_KK,
        np.array([[sizes_M[one].min(), sizes_M[one].max()] for one in of_kind]).reshape(-1, 2),
        np.array([_turned_alike(faces_MS[one]) for one in of_kind], np.bool_),
        _incidental(observed, kinds_M, images_M, len(of_kind)),
        _radii(observed, kinds_M, sizes_M, len(of_kind)),
        reach, len(observed),
    )  # fmt: skip


def _incidental(
    observed: Sequence[Observed], kinds_M: np.ndarray, images_M: np.ndarray, kinds: int
) -> np.ndarray:
    """`PartKinds.incidental_K`: kinds mostly beside the product, or in less than half the images.

    None where most images show several things instead of one product.
    """
    if sum(one.product for one in observed) <= len(observed) / 2:
        return np.zeros(kinds, np.bool_)
    beside_M = np.concatenate([
        np.zeros(len(one.vectors_NC), np.bool_) if one.beside_N is None else one.beside_N
        for one in observed
    ])  # fmt: skip
    of_kind = [kinds_M == kind for kind in range(kinds)]
    return np.array([
        beside_M[one].mean() > 0.5 or len(np.unique(images_M[one])) < len(observed) / 2
        for one in of_kind
    ], np.bool_)  # fmt: skip


def _radii(
    observed: Sequence[Observed], kinds_M: np.ndarray, sizes_M: np.ndarray, kinds: int
) -> np.ndarray:
    """`PartKinds.radii_K2`: of masks that end too early a circle covers more than they do, so the
    whole ones among them tell that the kind is round, however few they are."""
    circles_M = np.concatenate([
        np.zeros(len(one.vectors_NC)) if one.circles_N is None else one.circles_N
        for one in observed
    ])  # fmt: skip
    radii_K2 = np.zeros((kinds, 2))
    for kind in range(kinds):
        of_kind = kinds_M == kind
        whole = of_kind & (circles_M >= FULL_CIRCLE)
        if whole.sum() < max(LEAST_ROUND, ROUND * of_kind.sum()):
            continue
        low, high = np.percentile(sizes_M[whole], BULK)
        if high <= ONE_SIZE * low:
            radii_K2[kind] = np.array([low, high]) / np.sqrt(np.pi)
    return radii_K2


def _turned_alike(faces_MS: np.ndarray) -> bool:
    """True when upright parts of a kind look alike, and unlike the same parts turned.

    A round part looks the same in every rotation; its rotation means nothing.
    """
    mean_S = faces_MS.mean(0)
    mean_S /= np.linalg.norm(mean_S) + 1e-6
    upright = float(np.percentile(faces_MS @ mean_S, 10))
    grid_MYX = faces_MS.reshape(-1, FACE_SIDE, FACE_SIDE)
    turned = max(
        float(np.percentile(np.rot90(grid_MYX, k, (1, 2)).reshape(len(faces_MS), -1) @ mean_S, 90))
        for k in (1, 2, 3)
    )
    return upright >= SAME_TURN and upright - turned >= TURN_MARGIN


def pack(kinds: PartKinds) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and JSON facts for the stage cache."""
    arrays = {
        "kind_mean": kinds.space.mean_F, "kind_basis": kinds.space.basis_FD,
        "kind_scale": kinds.space.scale_D, "kind_points": kinds.points_MD,
        "kind_of": kinds.kinds_M, "kind_centres": kinds.centres_M2,
        "kind_images": kinds.images_M, "kind_gaps": kinds.gaps_KK,
        "kind_sizes": kinds.sizes_K2, "kind_turns": kinds.fixed_turn_K,
        "kind_incidental": kinds.incidental_K, "kind_radii": kinds.radii_K2,
    }  # fmt: skip
    return arrays, {"reach": kinds.reach, "images": kinds.images}


def unpack(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> PartKinds:
    """The inverse of `pack`."""
    space = Space(arrays["kind_mean"], arrays["kind_basis"], arrays["kind_scale"])
    return PartKinds(
        space, arrays["kind_points"], arrays["kind_of"], arrays["kind_centres"],
        arrays["kind_images"], arrays["kind_gaps"], arrays["kind_sizes"], arrays["kind_turns"],
        arrays["kind_incidental"], arrays["kind_radii"], facts["reach"], facts["images"],
    )  # fmt: skip

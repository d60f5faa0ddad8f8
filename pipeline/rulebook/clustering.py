"""Cluster parts into kinds: Ward's hierarchy, cut where the counts per image stay regular.

Ward's tree over all parts of the normal images tells which parts are similar, but not where to cut
it. Counts do: normal products have the same number of each kind. A branch is split where both
halves are as regular as the whole (two nuts and two washers instead of four rings), or where an
image has either one or the other (a label with a lime, a label with a cherry). It stays whole where
the halves would occur at random (pins with and without their needle in the mask).

Distances are in units of finding noise, see `part_kinds.space.Space`.

Shapes: N parts of I images; M members of a group; D dimensions (`part_kinds.space.Space`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.part_kinds.grouping import completed_by, irregularity

if TYPE_CHECKING:
    from scipy.cluster.hierarchy import ClusterNode

# Gap between two halves, in standard deviations of finding noise, that makes them two kinds.
GAP = 3.5
# The same where counts say little: halves that exclude each other, or that occur in any number.
WIDE_GAP = 10.0
# Gap from which a few outliers cannot belong to the kind.
FAR = 8.0
# Irregularity that a half may add, as a share of what a random split would add.
BY_CHANCE = 0.3
# Irregularity (share of images with an unusual count) above which counts say little.
IRREGULAR = 0.25
# When a usually absent half is split off, the rest may keep this share of the whole's irregularity.
LESS = 0.5
# A half of at most this share of a branch, if it is no kind, does not stop the rest from splitting.
FEW = 0.2
# Share of the images that may show both of two kinds that exclude each other.
TOGETHER = 0.02
# Rounds of reassignment in `_settled`.
SETTLING = 2
# Deviation at which the distance of a member is clipped when the spread of groups is measured.
CLIP = 6.0
# A kind has at least this many parts, and parts in number of at least this share of the images.
LEAST = 3
LEAST_SHARE = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Parts (indices) of one kind.

    `interchangeable` is True when an image may show another kind in its place.
    """

    members_M: np.ndarray
    interchangeable: bool = False


def groups_of(points_ND: np.ndarray, images_N: np.ndarray, images: int) -> list[Group]:
    """The kinds, largest first; outliers belong to none. Deterministic.

    `images_N` is the image of each part, `images` their number.
    """
    if len(points_ND) < 2:
        return [Group(np.arange(len(points_ND)))] if len(points_ND) else []
    # SciPy takes half a second to import.
    from scipy.cluster.hierarchy import linkage, to_tree

    root = to_tree(linkage(points_ND, "ward"))
    cutter = _Cutter(points_ND, images_N, images)
    found = [group for group in cutter.cut(root, False) if len(group.members_M) >= cutter.least]
    found = _completed(_settled(points_ND, found), images_N, images)
    return sorted(found, key=lambda group: (-len(group.members_M), group.members_M.min()))


def _completed(groups: list[Group], images_N: np.ndarray, images: int) -> list[Group]:
    """The groups, with those that are usually absent merged into one that lacks exactly them.

    A bolt with a highlight on it is far from the others of its kind, but it occurs where one of
    them is missing: together they have the usual number in more images, by at least half of those
    that show the odd group.
    """

    def counts(group: Group) -> np.ndarray:
        return np.bincount(images_N[group.members_M], minlength=images)

    for odd in sorted(groups, key=lambda group: len(group.members_M)):
        counts_I = counts(odd)
        if odd.interchangeable or np.bincount(counts_I).argmax() > 0:
            continue
        best = completed_by(counts_I, {
            k: counts(group)
            for k, group in enumerate(groups)
            if group is not odd and not group.interchangeable
        })  # fmt: skip
        if best is not None:
            joined = Group(np.sort(np.append(groups[best].members_M, odd.members_M)))
            groups = [joined if k == best else g for k, g in enumerate(groups) if g is not odd]
    return groups


def _settled(points_ND: np.ndarray, groups: list[Group]) -> list[Group]:
    """The groups after two rounds of reassigning every member to the nearest centre.

    Distances are in units of the spread within the groups, dimension by dimension. This separates
    kinds that noise blurs (a nut with a highlight beside it is still smaller than a washer).
    """
    for _ in range(SETTLING):
        if len(groups) < 2:
            break
        members = np.concatenate([group.members_M for group in groups])
        centres = np.stack([np.median(points_ND[g.members_M], 0) for g in groups])
        rest = np.concatenate(
            [points_ND[g.members_M] - c for g, c in zip(groups, centres, strict=True)]
        )
        spread_D = np.sqrt(np.minimum(rest**2, CLIP**2).mean(0)) + 0.3
        apart = np.linalg.norm((points_ND[members][:, None] - centres[None]) / spread_D, axis=2)
        nearest = apart.argmin(1)
        groups = [
            Group(np.sort(members[nearest == number]), group.interchangeable)
            for number, group in enumerate(groups)
        ]
        groups = [group for group in groups if len(group.members_M)]
    return groups


class _Cutter:
    """Cuts the tree recursively, from the root down."""

    def __init__(self, points_ND: np.ndarray, images_N: np.ndarray, images: int) -> None:
        self.points_ND, self.images_N, self.images = points_ND, images_N, images
        self.least = max(LEAST, round(LEAST_SHARE * images))

    def cut(self, node: "ClusterNode", interchangeable: bool) -> Iterator[Group]:
        members = np.sort(np.array(node.pre_order()))
        if node.is_leaf():
            yield Group(members, interchangeable)
            return
        halves = sorted(
            (node.left, node.right), key=lambda half: (-half.count, min(half.pre_order()))
        )
        first, second = (np.array(half.pre_order()) for half in halves)
        gap = self._gap(first, second)
        if len(second) < self.least and gap >= FAR:
            # A few far outliers hide the structure of the rest: leave them out.
            yield from self.cut(halves[0], interchangeable)
            return
        # Some parts may be on the wrong side. Consider the split as it is and after reassigning
        # every part to the nearer half, and take the more regular one.
        settled = [
            half.members_M for half in _settled(self.points_ND, [Group(first), Group(second)])
        ]
        first, second = min([[first, second], settled][: len(settled)], key=self._worst)
        gap = max(gap, self._gap(first, second))
        counts_I = self._counts(members)
        # Interchangeable kinds are regular within their own images only.
        usual = irregularity(counts_I[counts_I > 0] if interchangeable else counts_I) <= IRREGULAR
        if self._regular(members, first, second) and gap >= (GAP if usual else WIDE_GAP):
            yield from self.cut(halves[0], interchangeable)
            yield from self.cut(halves[1], interchangeable)
        elif self._exclusive(first, second) and usual and gap >= WIDE_GAP:
            yield from self.cut(halves[0], True)
            yield from self.cut(halves[1], True)
        elif usual and halves[1].count <= FEW * len(members):
            # The few of the second half are odd examples of the kinds in the first half.
            yield from self._joined(list(self.cut(halves[0], interchangeable)), halves[1])
        else:
            yield Group(members, interchangeable)

    def _regular(self, members: np.ndarray, first: np.ndarray, second: np.ndarray) -> bool:
        """True when the halves are kinds of their own, judged on the images that show any of them.

        Either both are usually present, and hardly less regular than the whole; or the second is
        usually absent, and without it the first is clearly more regular.
        """
        all_I = self._counts(members)
        counts = [self._counts(half)[all_I > 0] for half in (members, first, second)]
        whole, *parts = map(irregularity, counts)
        if min(np.bincount(counts_I).argmax() for counts_I in counts[1:]) == 0:
            return len(first) > len(second) and parts[0] <= LESS * whole
        return max(parts) <= whole + BY_CHANCE * self._by_chance(counts[0], len(first))

    def _exclusive(self, first: np.ndarray, second: np.ndarray) -> bool:
        """True when hardly any image shows parts of both halves."""
        return float((self._counts(first) * self._counts(second) > 0).mean()) <= TOGETHER

    def _joined(self, groups: list[Group], node: "ClusterNode") -> list[Group]:
        """The groups, with every part of the branch added to the one with the nearest centre."""
        rest = np.array(node.pre_order())
        middles = np.stack([np.median(self.points_ND[g.members_M], 0) for g in groups])
        apart = np.linalg.norm(self.points_ND[rest][:, None] - middles[None], axis=2)
        return [
            Group(np.sort(np.append(g.members_M, rest[apart.argmin(1) == k])), g.interchangeable)
            for k, g in enumerate(groups)
        ]

    def _counts(self, members: np.ndarray) -> np.ndarray:
        """(I,) the number of these parts per image."""
        return np.bincount(self.images_N[members], minlength=self.images)

    def _worst(self, halves: Sequence[np.ndarray]) -> float:
        """The larger irregularity of several halves."""
        return max(irregularity(self._counts(half)) for half in halves)

    @staticmethod
    def _by_chance(counts_I: np.ndarray, first: int) -> float:
        """Expected irregularity of a half if every part were assigned to it at random.

        `counts_I` are the counts of the whole, `first` the number of parts in the half.
        """
        # SciPy's statistics take half a second to import.
        from scipy.stats import binom

        # Per image, the count of the half is then binomial.
        share = first / counts_I.sum()
        most = [binom.pmf(np.arange(count + 1), count, share) for count in counts_I]
        longest = max(len(row) for row in most)
        mean = np.mean([np.pad(row, (0, longest - len(row))) for row in most], 0)
        return float(1 - mean.max())

    def _gap(self, first: np.ndarray, second: np.ndarray) -> float:
        """The gap between two groups on the line through their centres; negative if they overlap.

        Measured between the 5th and 95th percentiles, so that single outliers do not close it.
        """
        line_D = self.points_ND[first].mean(0) - self.points_ND[second].mean(0)
        line_D /= np.linalg.norm(line_D) + 1e-9
        high, low = self.points_ND[first] @ line_D, self.points_ND[second] @ line_D
        return float(np.percentile(high, 5) - np.percentile(low, 95))

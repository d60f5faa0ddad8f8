"""Which kinds of parts there are: a tree of likeness, cut where counts stay regular.

Ward's tree over all parts of the good images says what is like what, but not where to cut it. Good
products do: a kind is there in the same number every time. So a branch is parted where both halves
are as regular as the whole (two nuts and two washers instead of four rings), or where an image has
either one or the other (the label with the lime, the label with the cherry), and is left whole
where the halves would come and go by chance (pins with and without their needle in the mask).

Shapes: N parts of I images; D numbers per part (`rules_kinds.Space`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import ClusterNode, linkage, to_tree
from scipy.stats import binom

GAP = 3.5
"""Clear distance between two halves, in deviations of finding noise, that makes them two kinds."""
WIDE_GAP = 10.0
"""The same where counts say little: halves that exclude each other, or come in any number."""
FAR = 8.0
"""Distance at which a few strays cannot be of the kind."""
BY_CHANCE = 0.3
"""Irregularity that a half may add, as a share of what parting at random would add."""
IRREGULAR = 0.25
"""Share of images with another count than the usual, above which counts say little."""
LESS = 0.5
"""Irregularity that the rest may keep of the whole's when what is usually absent is parted off."""
FEW = 0.2
"""Share of a branch up to which a half that is no kind does not keep the rest from being parted."""
TOGETHER = 0.02
"""Share of the images that may have both of two kinds that exclude each other."""
COMPLETES = 0.5
"""Share of the images with an odd group in which it makes up the usual number of another."""
SETTLING = 2
CLIP = 6.0
"""Rounds of `_settled`, and the deviation above which a member is no measure of its group."""
LEAST = 3
LEAST_SHARE = 0.05
"""A half of fewer parts than these (of the images) is no kind: strays, if they are far away."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Parts (indices) that are taken for one kind; `stands_in` when another may be in its place."""

    members_M: np.ndarray
    stands_in: bool = False


def groups_of(points_ND: np.ndarray, images_N: np.ndarray, images: int) -> list[Group]:
    """The kinds, those with most parts first; strays belong to none. Deterministic."""
    if len(points_ND) < 2:
        return [Group(np.arange(len(points_ND)))] if len(points_ND) else []
    root = to_tree(linkage(points_ND, "ward"))
    cutter = _Cutter(points_ND, images_N, images)
    found = [group for group in cutter.cut(root, False) if len(group.members_M) >= cutter.least]
    found = _completed(_settled(points_ND, found), images_N, images)
    return sorted(found, key=lambda group: (-len(group.members_M), group.members_M.min()))


def irregularity(counts_I: np.ndarray) -> float:
    """Share of the images whose count is not the commonest one."""
    return float(1 - np.bincount(counts_I).max() / len(counts_I))


def _completed(groups: list[Group], images_N: np.ndarray, images: int) -> list[Group]:
    """The same groups, those that are usually absent joined to one that lacks just them.

    A bolt under a gleam is far from the others of its kind, but it is there where they are not: the
    sum comes in the usual number in more images, by at least half of those that show the odd ones.
    """

    def counts(group: Group) -> np.ndarray:
        return np.bincount(images_N[group.members_M], minlength=images)

    for odd in sorted(groups, key=lambda group: len(group.members_M)):
        counts_I = counts(odd)
        if odd.stands_in or np.bincount(counts_I).argmax() > 0:
            continue
        gains = {
            k: irregularity(counts(group)) - irregularity(counts(group) + counts_I)
            for k, group in enumerate(groups)
            if group is not odd and not group.stands_in
        }
        best = max(gains, key=lambda k: gains[k], default=None)
        if best is not None and gains[best] >= COMPLETES * (counts_I > 0).mean():
            joined = Group(np.sort(np.append(groups[best].members_M, odd.members_M)))
            groups = [joined if k == best else g for k, g in enumerate(groups) if g is not odd]
    return groups


def _settled(points_ND: np.ndarray, groups: list[Group]) -> list[Group]:
    """The same groups after every member has gone to the nearest one, twice.

    Nearest in units of the spread inside the groups, which tells kinds apart that the noise of
    finding blurs (a nut seen with a gleam beside it is still smaller than a washer).
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
            Group(np.sort(members[nearest == number]), group.stands_in)
            for number, group in enumerate(groups)
        ]
        groups = [group for group in groups if len(group.members_M)]
    return groups


class _Cutter:
    def __init__(self, points_ND: np.ndarray, images_N: np.ndarray, images: int) -> None:
        self.points_ND, self.images_N, self.images = points_ND, images_N, images
        self.least = max(LEAST, round(LEAST_SHARE * images))

    def cut(self, node: ClusterNode, stands_in: bool) -> Iterator[Group]:
        members = np.sort(np.array(node.pre_order()))
        if node.is_leaf():
            yield Group(members, stands_in)
            return
        halves = sorted(
            (node.left, node.right), key=lambda half: (-half.count, min(half.pre_order()))
        )
        first, second = (np.array(half.pre_order()) for half in halves)
        gap = self._gap(first, second)
        if len(second) < self.least and gap >= FAR:
            # A few strays hide what the rest is made of; they are left out when far away.
            yield from self.cut(halves[0], stands_in)
            return
        # A few parts are on the wrong side yet: judged as it is and with every part on the nearer.
        settled = [
            half.members_M for half in _settled(self.points_ND, [Group(first), Group(second)])
        ]
        first, second = min([[first, second], settled][: len(settled)], key=self._worst)
        gap = max(gap, self._gap(first, second))
        counts_I = self._counts(members)
        # What stands in for something is asked of its own images only.
        usual = irregularity(counts_I[counts_I > 0] if stands_in else counts_I) <= IRREGULAR
        if self._regular(members, first, second) and gap >= (GAP if usual else WIDE_GAP):
            yield from self.cut(halves[0], stands_in)
            yield from self.cut(halves[1], stands_in)
        elif self._exclusive(first, second) and usual and gap >= WIDE_GAP:
            yield from self.cut(halves[0], True)
            yield from self.cut(halves[1], True)
        elif usual and halves[1].count <= FEW * len(members):
            # These few are odd ones of what the rest is made of, be it one kind or several.
            yield from self._joined(list(self.cut(halves[0], stands_in)), halves[1])
        else:
            yield Group(members, stands_in)

    def _regular(self, members: np.ndarray, first: np.ndarray, second: np.ndarray) -> bool:
        """Both halves are usually there, in numbers that do not look drawn by lot; or without the
        second, which is usually absent, the first comes in the same number more often.

        Asked of the images that have any of them.
        """
        all_I = self._counts(members)
        counts = [self._counts(half)[all_I > 0] for half in (members, first, second)]
        whole, *parts = map(irregularity, counts)
        if min(np.bincount(counts_I).argmax() for counts_I in counts[1:]) == 0:
            return len(first) > len(second) and parts[0] <= LESS * whole
        return max(parts) <= whole + BY_CHANCE * self._by_chance(counts[0], len(first))

    def _exclusive(self, first: np.ndarray, second: np.ndarray) -> bool:
        return float((self._counts(first) * self._counts(second) > 0).mean()) <= TOGETHER

    def _joined(self, groups: list[Group], node: ClusterNode) -> list[Group]:
        """The groups, with every part of the branch in the one whose middle is nearest."""
        rest = np.array(node.pre_order())
        middles = np.stack([np.median(self.points_ND[g.members_M], 0) for g in groups])
        apart = np.linalg.norm(self.points_ND[rest][:, None] - middles[None], axis=2)
        return [
            Group(np.sort(np.append(g.members_M, rest[apart.argmin(1) == k])), g.stands_in)
            for k, g in enumerate(groups)
        ]

    def _counts(self, members: np.ndarray) -> np.ndarray:
        return np.bincount(self.images_N[members], minlength=self.images)

    def _worst(self, halves: Sequence[np.ndarray]) -> float:
        return max(irregularity(self._counts(half)) for half in halves)

    @staticmethod
    def _by_chance(counts_I: np.ndarray, first: int) -> float:
        """Irregularity of a half when every part were put there by the toss of a coin."""
        share = first / counts_I.sum()
        most = [binom.pmf(np.arange(count + 1), count, share) for count in counts_I]
        longest = max(len(row) for row in most)
        mean = np.mean([np.pad(row, (0, longest - len(row))) for row in most], 0)
        return float(1 - mean.max())

    def _gap(self, first: np.ndarray, second: np.ndarray) -> float:
        """Empty stretch between two groups on the line through their centres; below 0 = overlap."""
        line_D = self.points_ND[first].mean(0) - self.points_ND[second].mean(0)
        line_D /= np.linalg.norm(line_D) + 1e-9
        high, low = self.points_ND[first] @ line_D, self.points_ND[second] @ line_D
        return float(np.percentile(high, 5) - np.percentile(low, 95))

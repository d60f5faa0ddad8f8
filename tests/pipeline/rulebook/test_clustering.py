"""Clustering of parts: regular counts decide, not only similarity."""

import numpy as np
import pytest

from pipeline.rulebook.clustering import Group, _completed, groups_of


def test_halves_that_occur_at_random_are_one_kind() -> None:
    """Pins found with or without their needle: two distant clusters, assigned at random."""
    rng = np.random.default_rng(3)
    images = np.repeat(np.arange(30), 5)
    points = rng.normal(0, 1, (150, 4))
    points[rng.random(150) < 0.4, 0] += 30
    assert len(groups_of(points, images, 30)) == 1
    # Always two of five.
    points[:, 0] = rng.normal(0, 1, 150) + 30 * (np.arange(150) % 5 < 2)
    assert sorted(len(group.members_M) for group in groups_of(points, images, 30)) == [60, 90]


def sizes_of(points_ND: np.ndarray, images_N: np.ndarray) -> list[int]:
    found = groups_of(points_ND, images_N, int(images_N.max()) + 1)
    return sorted(len(group.members_M) for group in found)


def test_a_few_odd_ones_do_not_hide_two_kinds() -> None:
    """Two nuts and two washers in every image; four of these parts are outliers."""
    rng = np.random.default_rng(5)
    images = np.repeat(np.arange(30), 4)
    points = rng.normal(0, 1, (120, 4))
    points[:, 0] += 12 * (np.arange(120) % 4 < 2)
    points[[3, 40, 77, 118], 1] += 45
    assert sizes_of(points, images) == [60, 60]


def test_one_kind_in_two_variants_stays_one() -> None:
    """One bolt in every image, a fifth with a highlight; the variants complement each other."""
    rng = np.random.default_rng(6)
    points = rng.normal(0, 1, (40, 4))
    points[::5, 0] += 8
    assert sizes_of(points, np.arange(40)) == [40]


def test_outliers_that_complete_a_count_belong_to_the_kind_that_lacks_them() -> None:
    """A washer in every image and a bolt in every image; in six the bolt looks like neither."""
    rng = np.random.default_rng(8)
    images = np.repeat(np.arange(30), 2)
    points = rng.normal(0, 1, (60, 4))
    points[1::2, 0] += 20
    # Near to neither kind: a branch of its own.
    points[1:60:10] += (0, -60, 0, 0)
    assert sizes_of(points, images) == [30, 30]


def test_an_odd_group_joins_only_the_kind_that_lacks_it() -> None:
    kind, odd = Group(np.arange(25)), Group(np.arange(25, 30))
    missing_there = np.arange(30)
    assert [len(g.members_M) for g in _completed([kind, odd], missing_there, 30)] == [30]
    beside_it = np.concatenate([np.arange(25), np.arange(5)])
    assert len(_completed([kind, odd], beside_it, 30)) == 2
    other = Group(odd.members_M, interchangeable=True)
    assert len(_completed([kind, other], missing_there, 30)) == 2


@pytest.mark.parametrize("shares", [(10, 10, 10), (13, 8, 9), (18, 4, 8)])
def test_three_interchangeable_kinds_are_three(shares: tuple[int, ...]) -> None:
    """Lime, cherry or orange: one of them is in every image, with uneven shares."""
    rng = np.random.default_rng(7)
    points = rng.normal(0, 1, (30, 4))
    points[:, 0] += np.repeat([0, 40, 200], shares)
    assert sizes_of(points, rng.permutation(30)) == sorted(shares)

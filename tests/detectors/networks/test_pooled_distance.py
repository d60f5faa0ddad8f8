"""Mahalanobis distances of pooled features: against scikit-learn, and what each way is for."""

import weakref
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor
from toy_normals import ToyBatches

from detectors.networks.patch_memory import Pair
from detectors.networks.pooled_distance import PooledDistance, Way, turned
from detectors.networks.two_scores import TwoScores

CHANNELS = (3, 4)


def levels_of(images_B3HW: Tensor) -> Pair:
    """Two levels that are fixed functions of the pixels, with the channels of `CHANNELS`."""
    pixels = images_B3HW.float() / 255
    mixes = [
        torch.linspace(-1, 1, 3 * channels).view(channels, 3, 1, 1).cos() for channels in CHANNELS
    ]
    middle, coarse = (
        torch.nn.functional.avg_pool2d(torch.nn.functional.conv2d(pixels, mix).abs(), stride)
        for mix, stride in zip(mixes, (8, 16), strict=True)
    )
    return middle, coarse


def scattered(count: int, seed: int, discs: int = 3, size: int = 64) -> Tensor:
    """Grey images with so many bright squares at random places, and noise."""
    rng = np.random.default_rng(seed)
    images = np.full((count, 3, size, size), 60.0) + rng.normal(0, 4, (count, 3, size, size))
    for image in images:
        for slot in rng.permutation(16)[:discs]:
            row, column = 16 * (slot // 4) + 4, 16 * (slot % 4) + 4
            image[:, row : row + 8, column : column + 8] += np.array([120, 60, 20])[:, None, None]
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8))


def test_distances_are_those_of_scikit_learn() -> None:
    pooled = PooledDistance(CHANNELS, grids=(1, 2), views=(1,))
    train, others = scattered(12, seed=0), scattered(4, seed=1)
    pooled.fit(levels_of, ToyBatches(train))
    found_BJ = pooled(levels_of(others))
    assert pooled.ways[0] == Way((0,), 1, 1)
    for place, way in enumerate(pooled.ways):

        def features(images: Tensor, row: int, column: int, way: Way = way) -> np.ndarray:
            """Means over one region, written out."""
            parts = []
            for level in way.levels:
                map_BChw = levels_of(images)[level].double().numpy()
                side = map_BChw.shape[2] // way.grid
                rows, columns = (slice(side * at, side * (at + 1)) for at in (row, column))
                parts.append(map_BChw[:, :, rows, columns].mean((2, 3)))
            return np.concatenate(parts, 1)

        of_regions = [
            LedoitWolf().fit(features(train, *at)).mahalanobis(features(others, *at)) ** 0.5
            for at in product(range(way.grid), repeat=2)
        ]
        expected = np.max(of_regions, 0)
        np.testing.assert_allclose(found_BJ[:, place], expected, rtol=1e-3)
        np.testing.assert_allclose(pooled.one(levels_of(others), place), expected, rtol=1e-3)


def test_no_grid_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(ValueError, match=r"grids=\(1,\)"):
        TwoScores(CHANNELS, grids=())


def test_the_eight_views_are_all_turns_and_mirror_images() -> None:
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    seen = {tuple(turned(image, view).flatten().tolist()) for view in range(8)}
    assert len(seen) == 8
    transposed = image.transpose(2, 3)
    assert tuple(transposed.flatten().tolist()) in seen
    assert torch.equal(turned(image, 0), image)


def test_a_missing_part_is_farther_than_every_normal_wherever_the_parts_lie() -> None:
    pooled = PooledDistance(CHANNELS, grids=(1,))
    pooled.fit(levels_of, ToyBatches(scattered(40, seed=0)))
    whole, fewer = (levels_of(scattered(20, seed=9, discs=discs)) for discs in (3, 2))
    for place in range(len(pooled.ways)):
        assert pooled.one(fewer, place).min() > pooled.one(whole, place).max()


def test_views_make_a_few_normals_of_a_turning_product_enough() -> None:
    """Eight normals say little about a covariance, their sixty-four views more."""
    pooled = PooledDistance(CHANNELS, grids=(1,))
    pooled.fit(levels_of, ToyBatches(scattered(8, seed=0)))
    plain, turning = pooled.ways.index(Way((0, 1), 1, 1)), pooled.ways.index(Way((0, 1), 1, 8))
    fresh, fewer = (pooled(levels_of(scattered(40, 1, discs))).numpy() for discs in (3, 2))

    def apart(way: int) -> float:
        return (fewer[:, way].mean() - fresh[:, way].mean()) / fresh[:, way].std()

    assert apart(turning) > apart(plain)


def test_a_part_in_a_wrong_place_is_seen_by_regions_alone() -> None:
    """A square that always lies top left, and for once bottom right: the whole is the same."""

    def placed(count: int, seed: int, row: int = 8) -> Tensor:
        rng = np.random.default_rng(seed)
        images = scattered(count, seed, discs=0)
        for image in images:
            low = row + int(rng.integers(0, 5))
            image[:, low : low + 12, low : low + 12] = 220
        return images

    pooled = PooledDistance(CHANNELS, grids=(1, 2))
    pooled.fit(levels_of, ToyBatches(placed(40, seed=0)))
    normal, moved = pooled(levels_of(placed(20, 1))), pooled(levels_of(placed(20, 2, row=40)))
    whole, regions = pooled.ways.index(Way((1,), 1, 1)), pooled.ways.index(Way((1,), 2, 1))
    assert moved[:, regions].min() > normal[:, regions].max()
    assert moved[:, whole].median() < 3 * normal[:, whole].median()


def test_many_normals_are_not_turned() -> None:
    calls = []

    def counted(images_B3HW: Tensor) -> Pair:
        calls.append(len(images_B3HW))
        return levels_of(images_B3HW)

    pooled = PooledDistance(CHANNELS, grids=(1,), most_images=12)
    pooled.fit(counted, ToyBatches(scattered(6, seed=0)))
    assert sum(calls) == 12


def test_only_the_levels_of_one_batch_are_held_at_a_time() -> None:
    """Those of thousands of normals would fill the memory."""
    made: list[weakref.ref[Tensor]] = []

    def watched(images_B3HW: Tensor) -> Pair:
        assert sum(one() is not None for one in made) <= 1
        levels = levels_of(images_B3HW)
        made.append(weakref.ref(levels[0]))
        return levels

    batches = ToyBatches(scattered(12, seed=0), batch_size=2)
    PooledDistance(CHANNELS, grids=(1, 2)).fit(watched, batches)
    assert len(made) == 6 * 8

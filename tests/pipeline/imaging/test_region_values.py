"""Values of a region: what NumPy says, to the last bit."""

import numpy as np
import pytest

from pipeline.imaging.region_values import (
    copy_region,
    labels_in,
    median,
    percentile,
    put_values,
    quantile,
    values_in,
    with_labels,
)

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(100, 20, (23, 17, 3)).astype(np.float32)
OTHER = RNG.normal(100, 20, (23, 17, 3)).astype(np.float32)
# Regions of an even number of pixels, of an odd one, and of one.
REGIONS = [np.arange(23 * 17).reshape(23, 17) % step == 1 for step in (2, 6, 23 * 17)]


@pytest.mark.parametrize("where", REGIONS)
def test_ranks_are_those_of_numpy(where: np.ndarray) -> None:
    values = values_in(IMAGE, where)
    assert np.array_equal(values, IMAGE[where])
    assert np.array_equal(median(values), np.median(values, axis=0))
    for share in (0.0, 0.35, 0.5, 0.9, 1.0):
        assert np.array_equal(quantile(values, share), np.quantile(values, share, axis=0))


@pytest.mark.parametrize("where", REGIONS)
@pytest.mark.parametrize("percent", [0, 40, 90, 100])
def test_a_percentile_is_that_of_numpy(where: np.ndarray, percent: float) -> None:
    values = IMAGE[where][:, 0]
    expected = float(np.percentile(values, percent))
    assert percentile(values.copy(), percent) == pytest.approx(expected, rel=2e-7)


@pytest.mark.parametrize("where", REGIONS)
def test_pixels_of_a_region_are_replaced(where: np.ndarray) -> None:
    expected = np.where(where[..., None], OTHER, IMAGE)
    copied, put = IMAGE.copy(), IMAGE.copy()
    copy_region(OTHER, where, copied)
    put_values(put, where, OTHER[where])
    assert np.array_equal(copied, expected)
    assert np.array_equal(put, expected)


def test_a_window_of_an_image_is_written_into_the_image() -> None:
    image, where = IMAGE.copy(), REGIONS[0][3:9, 4:12]
    copy_region(OTHER[3:9, 4:12], where, image[3:9, 4:12])
    assert np.array_equal(image[3:9, 4:12][where], OTHER[3:9, 4:12][where])
    assert np.array_equal(image[:3], IMAGE[:3])


def test_labels_of_a_region() -> None:
    labels = RNG.integers(0, 9, (23, 17)).astype(np.int32)
    found = labels_in(labels, labels % 2 == 1)
    assert found.tolist() == [1, 3, 5, 7]
    assert np.array_equal(with_labels(labels, found), labels % 2 == 1)
    assert not with_labels(labels, np.zeros(0, np.int64)).any()

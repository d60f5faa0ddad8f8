"""The pixel stream: exact counts in bounded memory, input checks, images that are left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_maps import CONFIG, LOGICAL, STRUCTURAL, images, measure, numbers

from detectors.metrics.pixel_stream import METRICS, PixelStream
from detectors.metrics.value_counts import ValueCounts, reaching
from pipeline.errors import UserError


@settings(deadline=None, max_examples=40)
@given(images(), st.integers(1, 40))
def test_the_size_of_the_buffer_changes_nothing(found, buffer):
    assert numbers(measure(found, buffer=buffer)) == numbers(measure(found))


def test_the_area_does_not_depend_on_the_block_size(monkeypatch):
    rng = np.random.default_rng(0)
    map_HW, mask_HW = rng.random((20, 20), np.float32).round(2), rng.random((20, 20)) < 0.2
    image = (map_HW, mask_HW[None], np.uint8([255]), LOGICAL)
    whole = numbers(measure([image]))
    for block in (1, 2, 7):
        monkeypatch.setattr("detectors.metrics.aupro._BLOCK", block)
        assert numbers(measure([image])) == pytest.approx(whole, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(images(), st.randoms())
def test_the_order_of_images_changes_nothing(found, random):
    shuffled = random.sample(found, len(found))
    assert numbers(measure(shuffled)) == pytest.approx(numbers(measure(found)), abs=1e-12)


def test_values_are_counted_exactly_in_any_order_and_split():
    rng = np.random.default_rng(0)
    values = rng.choice(
        np.float32([-np.inf, -1e30, -1, -0.0, 0.0, 1e-45, 1, 1 + 2**-23, 3e38]), 999
    )
    values = np.append(values[np.isfinite(values)], rng.random(500, np.float32))
    parts = [ValueCounts(buffer=50), ValueCounts(buffer=10**6)]
    for start in range(0, len(values), 30):
        parts[start // 30 % 2].add(values[start : start + 30])
        if start % 90 == 0:
            # A query in between must not change later results.
            parts[0].reaching(values[:3])
    thresholds = np.append(values, np.float32([-3e38, 2, 3.4e38, 0.5]))
    at_V, above_V = reaching(parts, thresholds)
    np.testing.assert_array_equal(at_V, (values >= thresholds[:, None]).sum(1))
    np.testing.assert_array_equal(above_V, (values > thresholds[:, None]).sum(1))
    assert sum(part.total for part in parts) == len(values)


def test_equal_pixels_need_no_memory():
    """Memory grows with the number of distinct values, not with the number of images."""
    counts = ValueCounts(buffer=1000)
    image = np.arange(5000, dtype=np.float32)
    for _ in range(50):
        counts.add(image)
    assert len(counts._values) == 5000
    assert len(counts._waiting) * image.size <= 5000
    at_V, _ = counts.reaching(np.float32([4999, 0]))
    assert at_V.tolist() == [50, 250_000]


def test_counts_get_a_wider_type_before_they_overflow():
    counts, value = ValueCounts(buffer=4), np.float32([1])
    sizes = []
    for times in (200, 200, 70_000):
        counts.add(np.repeat(value, times))
        counts.add(np.float32([2, 0, 3]))
        at_V, above_V = counts.reaching(value)
        assert at_V[0] - above_V[0] == counts.total - 3 * len(sizes) - 3
        sizes.append(counts._counts.dtype)
    assert sizes == [np.uint8, np.uint16, np.uint32]


MASK = np.zeros((1, 4, 6), np.bool_)
MASK[0, 1, 1:3] = True
MAP = np.arange(24, dtype=np.float32).reshape(4, 6)
VALUE = np.uint8([255])
NAN = np.float32(np.nan)
NOTHING = (MASK[:0], VALUE[:0])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((MAP.T, MASK, VALUE, LOGICAL), r"the map is \(6, 4\), expected the masks' size \(4, 6\)"),
        ((MAP.astype(np.float64), MASK, VALUE, LOGICAL), "float32 array, got float64"),
        ((np.where(MAP == 8, NAN, MAP), MASK, VALUE, LOGICAL), r"map_HW\[1, 2\] is nan"),
        ((MAP, MASK.astype(np.uint8), VALUE, LOGICAL), r"masks_KHW must be \(K, H, W\) bool"),
        ((MAP, MASK[0], VALUE, LOGICAL), r"masks_KHW must be \(K, H, W\) bool"),
        ((MAP, MASK, VALUE.astype(np.int64), LOGICAL), r"values_K must be \(1,\) uint8"),
        ((MAP, MASK, VALUE[:0], LOGICAL), r"values_K must be \(1,\) uint8"),
        ((MAP, MASK, VALUE - np.uint8(9), LOGICAL), "grey value 246 is not in defects_config.json"),
        ((MAP, MASK, VALUE, "good"), "7.png is 'good', but 2 of its pixels are marked"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_named_and_not_added(parts, message):
    stream = PixelStream(CONFIG)
    stream.add(MAP, MASK, VALUE, LOGICAL)
    before = numbers(stream.result())
    with pytest.raises(UserError, match=message):
        stream.add(*parts, "7.png")
    assert numbers(stream.result()) == before


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ([], "no anomalous image"),
        ([(MAP, *NOTHING, "good")], "no anomalous image"),
        ([(None, MASK, VALUE, LOGICAL), (None, *NOTHING, "good")], "no map"),
        ([(MAP, *NOTHING, LOGICAL), (MAP, *NOTHING, "good")], "no anomalous image has a mask"),
        ([(MAP, MASK | True, VALUE, LOGICAL)], "every pixel is marked"),
    ],
)
def test_undefined_metrics_are_none_with_a_reason(added, reason):
    found = measure(added).pooled
    assert found.values == dict.fromkeys(METRICS)
    assert all(reason in found.reasons[name] for name in METRICS)


def test_without_a_configuration_only_spro_is_missing():
    stream = PixelStream()
    stream.add(MAP, MASK, VALUE, LOGICAL)
    found = stream.result().pooled
    assert [name for name in METRICS if found.values[name] is None] == ["spro"]
    assert "defects_config" in found.reasons["spro"]


def test_an_anomalous_image_without_marked_pixels_is_left_out_entirely():
    stream = PixelStream(CONFIG)
    stream.add(MAP, MASK, VALUE, LOGICAL)
    before = numbers(stream.result())
    stream.add(MAP * 2, *NOTHING, LOGICAL)
    stream.add(MAP * 2, MASK & False, VALUE, LOGICAL)
    stream.add(None, MASK, VALUE, LOGICAL)
    assert numbers(stream.result()) == before
    assert sum(stream.left_out.values()) == 3
    stream.add(MAP, *NOTHING, STRUCTURAL)
    found = stream.result()
    assert found.groups["structural"].values == dict.fromkeys(METRICS)
    assert found.pooled.values["aupro"] is not None
    # spro is a mean over groups, and one of the two has none.
    assert found.pooled.values["spro"] is None
    assert found.pooled.reasons["spro"].startswith("structural: no anomalous image has a mask")

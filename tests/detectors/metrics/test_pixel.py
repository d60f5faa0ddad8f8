"""Pixel and region metrics against the official programs' numbers, scikit-learn, and plain loops.

The loops follow the definitions one threshold at a time over whole images; the tested code reads
one image after another and keeps no maps.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score
from small_maps import CONFIG, LOGICAL, STRUCTURAL, Image, images, measure, numbers

from detectors.metrics.aupro import LIMITS, Regions, ThresholdCounts, overlap_area
from detectors.metrics.instance_ap import instance_scores
from detectors.metrics.pixel_stream import PixelStream
from detectors.metrics.spro import saturation_area
from detectors.metrics.value_counts import ValueCounts


@pytest.fixture(scope="session")
def vectors(shared: Path) -> dict:
    """Inputs with the values that the official programs give for them."""
    return json.loads((shared / "design" / "metric_vectors.json").read_text())


def area_by_loop(found: list[Image], overlap, limit: float) -> float:
    """The area under (false positive rate, overlap at the threshold) up to a limit."""
    unmarked = np.concatenate([m[~k.any(0)] for m, k, _, _ in found])
    points = [(0.0, 0.0)]
    for threshold in sorted({v for m, *_ in found for v in m.ravel().tolist()}, reverse=True):
        points.append(((unmarked >= threshold).mean(), overlap(threshold)))
    inside = [point for point in points if point[0] <= limit]
    if inside[-1][0] < limit:
        (x0, y0), (x1, y1) = inside[-1], points[len(inside)]
        inside.append((limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)))
    return np.trapezoid(*np.array(inside).T[::-1]) / limit


def components(mask_HW: np.ndarray) -> list[np.ndarray]:
    owner_HW, count = ndimage.label(mask_HW, np.ones((3, 3)))
    return [owner_HW == number for number in range(1, count + 1)]


def by_loop(found: list[Image]) -> dict[str, float]:
    """Every pixel metric of one set of images, computed from its definition."""
    scores = np.concatenate([m.ravel() for m, *_ in found])
    marked = np.concatenate([k.any(0).ravel() for _, k, _, _ in found])
    regions = [m[part] for m, k, _, _ in found for part in components(k.any(0))]
    saturated = {253: lambda n: min(3, n), 254: lambda n: max(1, int(n / 2)), 255: lambda n: n}
    channels = [
        (m[k], saturated[value](k.sum()))
        for m, masks, values, _ in found
        for k, value in zip(masks, values.tolist(), strict=True)
    ]

    def pro(threshold):
        return np.mean([(region >= threshold).mean() for region in regions])

    def spro(threshold):
        return np.mean([min((pixels >= threshold).sum() / s, 1) for pixels, s in channels])

    # The highest threshold that more than half of a region's pixels reach, lowest region first.
    reached = sorted(
        max(t for t in region if (region >= t).sum() > len(region) / 2) for region in regions
    )
    precision = [marked[scores >= t].mean() for t in reached]
    envelope = [max(precision[: n + 1]) for n in range(len(precision))]
    enough = [n for n in range(len(reached)) if 10 * (len(reached) - n) >= 9 * len(reached)]
    return {
        "pixel_auroc": roc_auc_score(marked, scores),
        "pixel_ap": average_precision_score(marked, scores),
        "iap": np.mean(envelope),
        "iap90": envelope[max(enough)],
        **{f"aupro {limit}": area_by_loop(found, pro, limit) for limit in LIMITS},
        **{f"spro {limit}": area_by_loop(found, spro, limit) for limit in LIMITS},
    }


def test_the_official_values(vectors):
    for case in vectors["pixel_level"]:
        stream = PixelStream()
        for map_HW, mask_HW in zip(case["maps"], case["masks"], strict=True):
            mask_HW = np.array(mask_HW, np.bool_)
            type = "broken" if mask_HW.any() else "good"
            stream.add(np.float32(map_HW), mask_HW[None], np.uint8([255]), type)
        found, wanted = stream.result().pooled, case["expected"]
        assert found.regions == wanted["regions_8conn"]
        names = {"pixel_ap": "pixel_ap_step", "iap90": "iap_at_90"}
        for name in ("pixel_auroc", "pixel_ap", "iap", "iap90"):
            value = wanted[names.get(name, name)]
            assert found.values[name] == pytest.approx(value, abs=1e-6), (case["name"], name)
        for limit in LIMITS:
            value = wanted[f"aupro_{limit}"]
            assert found.aupro_at[limit] == pytest.approx(value, abs=1e-6), (case["name"], limit)


def test_the_official_saturated_overlap(vectors):
    case = vectors["spro"]
    size = case["height"], case["width"]
    stream = PixelStream(case["defects_config"])
    for image in case["images"]:
        masks_KHW = np.zeros((len(image["channels"]), *size), np.bool_)
        for mask_HW, channel in zip(masks_KHW, image["channels"], strict=True):
            mask_HW[slice(*channel["rows"]), slice(*channel["cols"])] = True
        values_K = np.array([channel["pixel_value"] for channel in image["channels"]], np.uint8)
        map_HW = np.array(image["map"], np.float32).reshape(size)
        stream.add(map_HW, masks_KHW, values_K, image["kind"])
    found = stream.result()
    for limit in LIMITS:
        for group in ("logical", "structural"):
            wanted = case["expected"][f"{group}_anomalies"]
            for program in ("exact", "official_curve_max_distance_1e_5"):
                assert found.groups[group].spro_at[limit] == pytest.approx(
                    wanted[program][str(limit)], abs=1e-6
                )
        mean = case["expected"]["mean"][str(limit)]
        assert found.pooled.spro_at[limit] == pytest.approx(mean, abs=1e-6)
    assert found.pooled.values["spro"] == found.pooled.spro_at[0.05]


def test_one_outlier_does_not_change_the_auroc(vectors):
    """With bins of equal width this map has an AUROC of 0.5."""
    # The legacy generator, because the expected values were computed with it.
    rng = np.random.RandomState(0)
    outside = np.append(rng.rand(100_000) * 1e-3, 1.0).astype(np.float32)
    inside = (rng.rand(2000) * 1e-3 + 5e-4).astype(np.float32)
    map_HW = np.append(inside, outside)[None]
    mask_1HW = np.arange(map_HW.size)[None, None] < len(inside)
    stream = PixelStream()
    stream.add(map_HW, mask_1HW, np.uint8([255]), "broken")
    found = stream.result().pooled.values["pixel_auroc"]
    assert found == pytest.approx(vectors["binning_demo"]["exact"], abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(images())
def test_every_metric_equals_the_loops(found):
    result = measure(found, buffer=7)
    for group, types in (("logical", [LOGICAL]), ("structural", [STRUCTURAL])):
        subset = [image for image in found if image[3] in ("good", *types)]
        if group not in result.groups:
            assert not any(image[3] in types for image in found)
            continue
        part = result.groups[group]
        flat = part.values | {f"aupro {limit}": area for limit, area in part.aupro_at.items()}
        flat |= {f"spro {limit}": area for limit, area in part.spro_at.items()}
        wanted = by_loop(subset)
        assert {name: flat[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
        assert (flat["aupro"], flat["spro"]) == (flat["aupro 0.3"], flat["spro 0.05"])
    pooled, wanted = result.pooled, by_loop(found)
    for name in ("pixel_auroc", "pixel_ap", "iap", "iap90"):
        assert pooled.values[name] == pytest.approx(wanted[name], abs=1e-12)
    for limit in LIMITS:
        assert pooled.aupro_at[limit] == pytest.approx(wanted[f"aupro {limit}"], abs=1e-12)
        mean = np.mean([part.spro_at[limit] for part in result.groups.values()])
        assert pooled.spro_at[limit] == pytest.approx(mean)


@settings(deadline=None, max_examples=40)
@given(images())
def test_only_the_ranking_of_pixels_matters(found):
    """Also below 0, where the authors' code for IAP counts the whole background."""
    wanted = numbers(measure(found))
    for transform in (lambda m: m - 100, lambda m: m**3, np.exp2, lambda m: -1 / (m + 2)):
        changed = [(np.float32(transform(m)), *rest) for m, *rest in found]
        assert numbers(measure(changed)) == wanted


@settings(deadline=None, max_examples=40)
@given(images())
def test_duplicated_images_change_nothing(found):
    once, twice = numbers(measure(found)), numbers(measure([*found, *found]))
    # 0.9 of 5 regions is rounded up to 5, but 0.9 of 10 is 9.
    same = [name for name in once if "iap90" not in name]
    assert {n: twice[n] for n in same} == pytest.approx({n: once[n] for n in same}, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(images())
def test_one_more_good_image_changes_no_recall(found):
    map_HW, masks_KHW, _, _ = found[0]
    good = (map_HW[::-1].copy(), masks_KHW[:0], np.empty(0, np.uint8), "good")
    regions = Regions.joined([Regions.of(m, k.any(0)) for m, k, _, _ in found])
    counted = []
    for these in (found, [*found, good]):
        outside = ValueCounts()
        for m, k, _, _ in these:
            outside.add(m[~k.any(0)])
        counted.append(ThresholdCounts.of(regions, [outside]))
    for name in ("values_V", "true_V", "overlap_V"):
        np.testing.assert_array_equal(*(getattr(counts, name) for counts in counted))
    assert counted[1].outside == counted[0].outside + map_HW.size
    assert (counted[1].false_V >= counted[0].false_V).all()


@settings(deadline=None, max_examples=40)
@given(images())
def test_spro_that_saturates_at_whole_components_is_pro(found):
    split = []
    for map_HW, masks_KHW, _, type in found:
        parts = components(masks_KHW.any(0))
        masks = np.array(parts, np.bool_).reshape(-1, *map_HW.shape)
        split.append((map_HW, masks, np.full(len(parts), 255, np.uint8), type))
    for part in measure(split).groups.values():
        assert part.spro_at == pytest.approx(part.aupro_at, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_a_constant_map_scores_half_the_limit(value):
    mask_1HW = np.zeros((1, 9, 9), np.bool_)
    mask_1HW[0, 2:5, 2:5] = True
    result = measure([(np.full((9, 9), value, np.float32), mask_1HW, np.uint8([255]), LOGICAL)])
    for limit in LIMITS:
        assert result.pooled.aupro_at[limit] == pytest.approx(limit / 2)
        assert result.groups["logical"].spro_at[limit] == pytest.approx(limit / 2)
    assert result.pooled.values["pixel_auroc"] == 0.5
    assert result.pooled.values["iap"] == pytest.approx(9 / 81)


def test_a_perfect_map_scores_one():
    mask_1HW = np.zeros((1, 8, 8), np.bool_)
    # Two regions, one of them a single pixel.
    mask_1HW[0, 0, 0] = mask_1HW[0, 4:, 4:] = True
    found = measure([(mask_1HW[0].astype(np.float32), mask_1HW, np.uint8([255]), LOGICAL)])
    assert set(found.pooled.values.values()) == {1.0}
    assert found.pooled.regions == 2


def test_more_than_half_means_more_than_half():
    """Two of four pixels are not enough; two of three are, and one of one."""
    map_HW = np.float32([[9, 8, 7, 6, 0, 5, 4, 3, 0, 2]])
    regions = Regions.of(map_HW, map_HW > 0)
    assert regions.sizes_K.tolist() == [4, 3, 1]
    assert instance_scores(regions).tolist() == [7, 4, 2]


def test_regions_touch_at_corners():
    mask_HW = np.eye(4, dtype=np.bool_)
    assert Regions.of(np.zeros((4, 4), np.float32), mask_HW).sizes_K.tolist() == [4]


@pytest.mark.parametrize(
    ("threshold", "relative", "area", "scale", "wanted"),
    [
        (6, False, 100, 1.0, 6),
        (6.9, False, 100, 1.0, 6),
        (1000, False, 16, 1.0, 16),
        (0.5, True, 31, 1.0, 15),
        (1.0, True, 16, 0.01, 16),
        (0.001, True, 100, 1.0, 1),  # 0 pixels would divide by 0
        (6300, False, 500, 256 * 256 / (1700 * 1000), 242),  # the mask is smaller than its image
        (6, False, 500, 0.01, 1),
    ],
)
def test_saturation_areas(threshold, relative, area, scale, wanted):
    defect = {"saturation_threshold": threshold, "relative_saturation": relative}
    assert saturation_area(defect, area, scale) == wanted


def test_saturation_areas_scale_with_the_masks():
    """The same image at twice the size, with saturation areas in pixels of that size."""
    rng = np.random.default_rng(0)
    map_HW, mask_HW = rng.random((8, 8), np.float32), np.zeros((8, 8), np.bool_)
    mask_HW[2:5, 2:6] = True
    small = (map_HW, mask_HW[None], np.uint8([253]), LOGICAL)
    large = tuple(np.kron(a, np.ones((2, 2), a.dtype)) for a in (map_HW, mask_HW))
    config = [CONFIG[2] | {"saturation_threshold": 12}]
    scaled, original = PixelStream(config, saturation_scale=1 / 4), PixelStream(config)
    scaled.add(*small)
    original.add(large[0], large[1][None].astype(np.bool_), np.uint8([253]), LOGICAL)
    assert numbers(scaled.result()) == pytest.approx(numbers(original.result()))


def test_the_area_stops_at_any_limit():
    """One region of two pixels; four pixels outside, one of them above both, one between."""
    outside = ValueCounts()
    outside.add(np.float32([5, 3, 1, 0]))
    counts = ThresholdCounts.of(Regions(np.float32([4, 2]), np.array([2])), [outside])
    assert overlap_area(counts, 0.25) == 0
    assert overlap_area(counts, 0.5) == pytest.approx(0.25 * 0.5 / 0.5)
    assert overlap_area(counts, 1.0) == pytest.approx(0.25 * 0.5 + 0.5 * 1)

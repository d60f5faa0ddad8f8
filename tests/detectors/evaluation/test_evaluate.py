"""Evaluation: scores straight from the detector, metrics against other libraries, remarks."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, roc_auc_score
from small_evaluations import (
    AD_TYPES,
    CONFIG,
    LOCO_TYPES,
    loco_version,
    photographs,
    tiny_known,
    trained,
    version_of,
)

from detectors.evaluation.evaluate import (
    LOCO_SIZES,
    detections,
    evaluate,
    measure,
    saturation_scale,
)
from detectors.evaluation.labelled_images import VersionImages
from detectors.evaluation.results import THRESHOLDS, EvaluationReport, ImageRow
from detectors.training.calibration import Calibration
from detectors.training.checkpoint import load
from detectors.training.progress import Watcher
from pipeline.dataset.version import Version
from pipeline.errors import UserError

CONTRACT = (
    "image_auroc", "image_ap", "image_f1", "precision_at_recall_90", "iap", "iap90", "pixel_auroc",
    "aupro", "spro", "per_type",
)  # fmt: skip
CPU = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with tiny_known():
        yield


@pytest.fixture(scope="module")
def ad(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return version_of(tmp_path_factory.mktemp("ad"), AD_TYPES)


@pytest.fixture(scope="module")
def loco(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return loco_version(tmp_path_factory.mktemp("loco"))


@pytest.fixture(scope="module")
def checkpoint(ad: Version, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(ad, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def found(checkpoint: Path, ad: Version) -> EvaluationReport:
    return evaluate(checkpoint, ad, **CPU)


def scored_one_by_one(checkpoint: Path, version: Version) -> tuple[np.ndarray, np.ndarray]:
    """Scores and maps, one image at a time, straight from the detector."""
    detector = load(checkpoint, **CPU).detector
    scores, maps = [], []
    for pixels, *_ in version.test_images():
        with torch.inference_mode():
            one = detector(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        scores.append(one.image_B.item())
        maps.append(one.maps_BHW[0].numpy())
    return np.array(scores), np.array(maps)


def test_the_metrics_equal_other_libraries_on_scores_of_single_images(found, checkpoint, ad):
    scores, maps = scored_one_by_one(checkpoint, ad)
    labels = [record["defect"] != "good" for *_, record in ad.test_images()]
    masks = np.array([masks.any(0) for _, masks, *_ in ad.test_images()])
    np.testing.assert_allclose([row.score for row in found.rows], scores, rtol=1e-5)
    content = found.to_json()
    assert content["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert content["image_ap"] == pytest.approx(average_precision_score(labels, scores))
    pixels = roc_auc_score(masks.ravel(), maps.ravel())
    # Batches of other sizes round differently, which can swap pixels of nearly equal score.
    assert content["pixel_auroc"] == pytest.approx(pixels, abs=1e-4)
    assert 0 <= content["aupro"] <= 1


def test_the_json_has_the_promised_keys_and_a_reason_for_every_null(found):
    content = found.to_json()
    assert set(CONTRACT) <= set(content)
    for name in CONTRACT:
        assert content[name] is not None or content["notes"][name]
    assert content["spro"] is None
    assert set(content["per_type"]) == {"broken", "cut"}
    assert content["intervals"]["image_auroc"][0] <= content["image_auroc"]
    assert content["images"] == 10
    assert content["checkpoint"]["version_digest"] == content["version"]["digest"]
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert "scores" not in content
    assert len(found.to_json(details=True)["scores"]) == 10


def test_the_batch_size_changes_nothing(found, checkpoint, ad):
    other = evaluate(checkpoint, ad, batch_size=3, **CPU)
    for one, two in zip(found.rows, other.rows, strict=True):
        assert one.name == two.name
        assert one.score == pytest.approx(two.score, rel=1e-5)


def test_a_watcher_receives_the_progress(checkpoint, ad):
    class Log(Watcher):
        lines: list[Any]

        def __init__(self) -> None:
            self.lines = []

        def begin(self, title: str, total: int, done: int = 0) -> None:
            self.lines.append((title, total))

        def step(self, done: int, losses: Any) -> None:
            self.lines.append(done)

        def end(self) -> None:
            self.lines.append("end")

    log = Log()
    evaluate(checkpoint, ad, batch_size=4, watcher=log, **CPU)
    assert log.lines == [("test images", 10), 4, 8, 10, "end"]


def test_loco_has_its_groups_their_mean_its_defects_and_spro(checkpoint, loco):
    content = evaluate(checkpoint, loco, **CPU).to_json()
    logical, structural = content["per_type"]["logical"], content["per_type"]["structural"]
    mean = (logical["image_auroc"] + structural["image_auroc"]) / 2
    assert content["mean"]["image_auroc"] == pytest.approx(mean)
    assert content["spro"] is not None
    images = {name: row["images"] for name, row in content["per_defect"].items()}
    assert images == {"extra_nut": 2, "missing_nut": 3, "scratch": 3}
    scores, _ = scored_one_by_one(checkpoint, loco)
    defects = [{CONFIG[255 - v]["defect_name"] for v in values} for _, values in LOCO_TYPES]
    labels = np.array([not names or "missing_nut" in names for names in defects])
    has_defect = ["missing_nut" in names for names in np.array(defects)[labels]]
    expected = roc_auc_score(has_defect, scores[labels])
    assert content["per_defect"]["missing_nut"]["image_auroc"] == pytest.approx(expected)


def test_detections_count_scores_at_and_above_the_threshold():
    def row(kind: str, score: float) -> ImageRow:
        return ImageRow("a", kind, (), score, {"threshold_1": score >= 2.0})

    rows = [row("good", 1.9), row("good", 2.0), row("cut", 2.5), row("cut", 0), row("worn", 3)]
    found = detections(rows, Calibration(threshold_1=2.0))
    one = found["threshold_1"]
    assert one is not None
    assert (one.false_alarms, one.good, one.found, one.anomalous) == (1, 2, 2, 3)
    assert (one.false_positive_rate, one.recall) == (0.5, pytest.approx(2 / 3))
    assert one.recall_by_type == {"cut": 0.5, "worn": 1.0}
    assert found["threshold_5"] is None


def test_the_thresholds_are_the_checkpoints_and_the_csv_has_a_column_for_each(found):
    calibration = found.card.calibration
    for name in THRESHOLDS:
        limit = getattr(calibration, name)
        result = found.at_thresholds[name]
        assert result.threshold == limit
        assert result.found == sum(row.score >= limit for row in found.rows if row.label)
    table = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [row["name"] for row in table] == [row.name for row in found.rows]
    for line, row in zip(table, found.rows, strict=True):
        assert float(line["score"]) == row.score
        assert line["threshold_5"] == str(int(row.score >= calibration.threshold_5))


def test_held_out_scores_belong_to_the_version_of_the_training(found, checkpoint, loco):
    assert len(found.held_out_scores) == found.card.calibration.normals == 2
    assert all(score < found.card.calibration.threshold_1 for score in found.held_out_scores)
    assert evaluate(checkpoint, loco, **CPU).held_out_scores == ()


@pytest.mark.parametrize("types", [(), [("good", ())] * 3, [("cut", (255,))] * 3])
def test_a_test_split_of_one_class_gives_reasons_not_errors(types, checkpoint, tmp_path):
    content = evaluate(checkpoint, version_of(tmp_path, types), **CPU).to_json()
    assert content["image_auroc"] is None
    assert content["notes"]["image_auroc"]
    assert content["images"] == len(types)
    kinds = {"good" if type == "good" else "anomalous" for type, _ in types}
    assert ("no image" in content["notes"]["test"]) == (not kinds)
    assert ("no good image" in content["notes"]["test"]) == (kinds == {"anomalous"})
    assert ("no anomalous image" in content["notes"]["test"]) == (kinds == {"good"})


def test_images_without_masks_still_have_image_metrics(checkpoint, tmp_path):
    types = [("good", ())] * 3 + [("CNV", ())] * 3
    content = evaluate(checkpoint, version_of(tmp_path, types), **CPU).to_json()
    assert content["image_auroc"] is not None
    assert content["pixel_auroc"] is None
    assert "mark" in content["notes"]["pixel_auroc"]


def test_another_version_or_category_gives_a_remark(checkpoint, loco, tmp_path):
    assert "another content" in evaluate(checkpoint, loco, **CPU).notes["version"]
    other = version_of(tmp_path, AD_TYPES, category="bag")
    assert "'tray'" in evaluate(checkpoint, other, **CPU).notes["category"]


def test_another_size_gives_a_remark_and_maps_at_the_size_of_the_masks(checkpoint, tmp_path):
    larger = version_of(tmp_path, AD_TYPES, size=(96, 96))
    found = evaluate(checkpoint, larger, **CPU)
    assert "64 x 64" in found.notes["image_size"]
    assert found.result.metrics["pixel_auroc"] is not None
    detector = load(checkpoint, **CPU).detector
    pixels = next(iter(photographs(AD_TYPES, (96, 96)))).pixels_HW3
    small = F.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), (64, 64), mode="bilinear",
        antialias=True,
    )  # fmt: skip
    with torch.inference_mode():
        expected = detector(small.round().to(torch.uint8)).image_B.item()
    assert found.rows[0].score == pytest.approx(expected, rel=1e-5)


def test_another_aspect_ratio_is_an_error(checkpoint, tmp_path):
    wide = version_of(tmp_path, AD_TYPES, size=(64, 128))
    with pytest.raises(UserError, match=r"128 x 64 px.*trained on 64 x 64"):
        evaluate(checkpoint, wide, **CPU)


def test_saturation_areas_follow_the_original_size(loco, ad):
    scale, notes = saturation_scale(loco, None)
    assert scale == 1.0
    assert "original size" in notes["saturation"]
    assert saturation_scale(loco, (128, 256)) == (0.125, {})
    assert saturation_scale(ad, None) == (1.0, {})
    kept = replace(loco, index=loco.index | {"original_size": [128, 256]})
    assert saturation_scale(kept, None) == (0.125, {})
    height, width = LOCO_SIZES["pushpins"]
    pins = replace(loco, index=loco.index | {"category": "pushpins"})
    assert saturation_scale(pins, None) == (pytest.approx(64 * 64 / height / width), {})
    mine = replace(loco, index=pins.index | {"licence": "CC0-1.0"})
    assert saturation_scale(mine, None)[1]


def test_scores_that_are_not_finite_are_an_error(checkpoint, ad):
    restored = load(checkpoint, **CPU)
    restored.detector.scale.fill_(0)
    restored.detector.mean.fill_(0)
    with pytest.raises(UserError, match="not a finite number"):
        measure(restored, VersionImages(ad))

"""The whole evaluation: all metrics of a split, their JSON, and the reasons for missing ones."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from detectors.metrics.evaluation import METRICS, Evaluation
from pipeline.errors import UserError

SIZE = (32, 32)
LOGICAL, STRUCTURAL = "logical_anomalies", "structural_anomalies"
CONFIG = [
    {
        "defect_name": "missing part",
        "pixel_value": 250,
        "saturation_threshold": 9,
        "relative_saturation": False,
    }
]
# The command's contract; scripts outside the repository read these.
PROMISED = {
    "image_auroc", "image_ap", "image_f1", "precision_at_recall_90", "iap", "iap90", "pixel_auroc",
    "aupro", "spro", "per_type", "notes",
}  # fmt: skip


def add_images(
    evaluation: Evaluation,
    types: list[str],
    *,
    maps: bool = True,
    masks: bool = True,
    seed: int = 0,
) -> None:
    """Images with a square defect, of random contrast in the map."""
    rng = np.random.default_rng(seed)
    for number, type in enumerate(types):
        map_HW = rng.normal(0, 1, SIZE).astype(np.float32)
        masks_KHW = np.zeros((int(masks and type != "good"), *SIZE), np.bool_)
        row, column = rng.integers(0, 24, 2)
        masks_KHW[:, row : row + 8, column : column + 8] = True
        map_HW += masks_KHW.any(0) * np.float32(rng.uniform(0, 4))
        score = np.sort(map_HW.ravel())[-20:].mean()
        values_K = np.full(len(masks_KHW), 250, np.uint8)
        evaluation.add(
            score, map_HW if maps else None, masks_KHW, values_K, type, f"{number:03d}.png"
        )


def test_a_loco_category_has_every_metric():
    evaluation = Evaluation(CONFIG, resamples=200)
    types = ["good"] * 12 + [LOGICAL] * 8 + [STRUCTURAL] * 6
    add_images(evaluation, types)
    found = evaluation.result()
    assert set(found.metrics) == set(METRICS)
    assert all(0 < value <= 1 for value in found.metrics.values())
    assert set(found.per_type) == {"logical", "structural"}
    assert found.labels_N.tolist() == [type != "good" for type in types]
    assert found.metrics["image_auroc"] == pytest.approx(
        roc_auc_score(found.labels_N, found.scores_N)
    )
    assert (found.types_N, found.names_N[-1]) == (tuple(types), "025.png")
    for name in METRICS:
        both = [found.per_type[group].metrics[name] for group in ("logical", "structural")]
        assert found.mean.metrics[name] == pytest.approx(np.mean(both))
    assert found.metrics["spro"] == pytest.approx(found.mean.metrics["spro"])
    assert found.per_type["logical"].anomalous == found.per_type["logical"].regions == 8
    for measured in (found.pooled, found.mean, *found.per_type.values()):
        assert set(measured.notes) & set(METRICS) == set()
        assert set(measured.intervals) == {
            "image_auroc", "image_ap", "image_f1", "precision_at_recall_90",
        }  # fmt: skip
        for name, (low, high) in measured.intervals.items():
            assert low <= measured.metrics[name] <= high


def test_the_json_has_the_promised_keys_and_reads_back_equal():
    evaluation = Evaluation(CONFIG, resamples=50)
    add_images(evaluation, ["good"] * 4 + [LOGICAL] * 3 + [STRUCTURAL] * 3)
    found = evaluation.result()
    text = json.dumps(found.to_json(), allow_nan=False)
    content = json.loads(text)
    assert set(content) >= PROMISED
    assert content == found.to_json()
    assert set(content["per_type"]["logical"]) >= PROMISED - {"per_type"}
    assert (content["images"], content["good"], content["anomalous"]) == (10, 4, 6)
    full = json.loads(json.dumps(found.to_json(details=True), allow_nan=False))
    assert {name: full[name] for name in content} == content
    assert full["scores"][4]["type"] == LOGICAL
    assert full["curves"]["roc"][0] == [0, 0]
    assert full["curves"]["roc"][-1] == [1, 1]


def test_every_none_has_a_reason_and_no_number_has_one():
    cases = {
        "no anomalous image": {"types": ["good"] * 3},
        "no good image": {"types": ["hole"] * 3},
        "is no image": {"types": []},
        "no map": {"types": ["good", "hole"], "maps": False},
        "no anomalous image has a mask": {"types": ["good", "hole"], "masks": False},
        "no defects_config": {"types": ["good", "hole"]},
    }
    for reason, how in cases.items():
        evaluation = Evaluation(resamples=20)
        add_images(evaluation, **how)
        found = evaluation.result()
        for measured in (found.pooled, *found.per_type.values()):
            missing = {name for name, value in measured.metrics.items() if value is None}
            assert missing == set(measured.notes) & set(METRICS)
        assert reason in " ".join(found.notes.values()), reason
        json.dumps(found.to_json(details=True), allow_nan=False)


def test_without_masks_there_are_image_metrics():
    evaluation = Evaluation()
    add_images(evaluation, ["good"] * 5 + ["DME"] * 5, masks=False)
    found = evaluation.result()
    assert found.metrics["image_auroc"] is not None
    assert {name for name in METRICS if found.metrics[name] is None} == {
        "iap", "iap90", "pixel_auroc", "pixel_ap", "aupro", "spro",
    }  # fmt: skip
    assert found.notes["left_out"] == (
        "5 of 5 anomalous images have no mask or an empty one: image metrics count them, pixel "
        "metrics leave them out"
    )


def test_one_image_without_a_mask_is_left_out_of_pixel_metrics_only():
    evaluation, with_one_more = Evaluation(CONFIG), Evaluation(CONFIG)
    for each in (evaluation, with_one_more):
        add_images(each, ["good"] * 5 + [LOGICAL] * 5)
    add_images(with_one_more, [LOGICAL], masks=False, seed=9)
    before, after = evaluation.result(), with_one_more.result()
    assert after.pooled.anomalous == before.pooled.anomalous + 1
    assert after.metrics["image_ap"] != before.metrics["image_ap"]
    for name in ("iap", "pixel_auroc", "aupro", "spro"):
        assert after.metrics[name] == before.metrics[name]
    assert after.notes["left_out"].startswith("1 of 6 anomalous images")
    assert "only logical" in after.notes["pooled"]


def test_a_score_that_is_not_finite_is_named_and_not_added():
    evaluation = Evaluation()
    add_images(evaluation, ["good", "hole"])
    nothing = np.zeros((0, *SIZE), np.bool_), np.zeros(0, np.uint8)
    with pytest.raises(UserError, match=r"image 2 \(x.png\): the score is nan, expected a finite"):
        evaluation.add(np.nan, None, *nothing, "good", "x.png")
    with pytest.raises(UserError, match=r"image 2: the map is \(3, 3\), expected .* \(32, 32\)"):
        evaluation.add(0.5, np.zeros((3, 3), np.float32), *nothing, "good")
    assert len(evaluation.result().names_N) == 2


def test_the_same_images_and_seed_give_the_same_result():
    contents = []
    for seed in (0, 0, 1):
        evaluation = Evaluation(CONFIG, seed=seed, resamples=100)
        add_images(evaluation, ["good"] * 6 + [LOGICAL] * 6)
        contents.append(evaluation.result().to_json(details=True))
        # `result` does not change the evaluation.
        assert evaluation.result().to_json(details=True) == contents[-1]
    assert contents[0] == contents[1]
    assert contents[0]["intervals"] != contents[2]["intervals"]
    assert contents[0]["aupro"] == contents[2]["aupro"]

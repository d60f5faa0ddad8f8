"""Judging a trained detector on a small version: whose scores, which rules, which images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from small_comparisons import ruled_version
from small_results import small_version

from detectors.comparison.examples import pictures
from detectors.comparison.held_out import held_out_scores, shared
from detectors.comparison.judge import judge, measure
from detectors.registry import configure
from detectors.scoring import score, stack_images
from detectors.training.checkpoint import load
from detectors.training.job import TrainJob
from detectors.training.trainer import train
from pipeline.errors import UserError


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return ruled_version(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def checkpoint(version, tmp_path_factory):
    """A detector that was not cross-fitted."""
    return trained(version, tmp_path_factory.mktemp("run"), folds=0)


@pytest.fixture(scope="module")
def restored(checkpoint):
    return load(checkpoint, "cpu", "fp32")


@pytest.fixture(scope="module")
def measured(version, checkpoint, restored):
    return measure("nearest", checkpoint, restored, version)


@pytest.fixture(scope="module")
def judged(measured):
    return judge([measured], 0.05)


def trained(version, out: Path, **changes: int) -> Path:
    recipe = configure("nearest", "tiny", {"size": 64, "bank": 64} | changes)
    job = TrainJob(recipe=recipe, version=version.dir, out=out, device="cpu", precision="fp32")
    return train(job).checkpoint


def samples_of(version, split: str | None = None) -> list[dict]:
    records = [shard.record(row) for shard in version.shards for row in range(shard.samples)]
    return [record for record in records if split in (None, record["source"]["split"])]


@pytest.mark.parametrize("stored", [True, False])
def test_held_out_are_the_validation_images_with_their_own_scores(version, restored, stored):
    # Without the file of the training, the validation split is scored again.
    judged = restored if stored else dataclasses.replace(restored, held_out=None)
    held = held_out_scores(judged, version)
    expected = {record["name"]: image_HW3 for image_HW3, record in version.images("validation")}
    assert held.normal_ids == tuple(expected)
    for name, found in zip(held.normal_ids, held.normal_scores_N, strict=True):
        alone = score(restored.detector, restored.compute, stack_images([expected[name]]))
        assert found == pytest.approx(float(alone.scores_B[0]), rel=1e-4)
    wanted = samples_of(version, "validation")
    assert held.sample_ids == tuple(record["id"] for record in wanted)
    assert held.kinds == tuple(record["kind"] for record in wanted)
    assert held.labels_M.tolist() == [record["label"] for record in wanted]
    assert "validation" in held.source


def test_a_cross_fitted_detector_is_judged_on_every_image(version, tmp_path):
    folder = trained(version, tmp_path, folds=2)
    held = held_out_scores(load(folder, "cpu", "fp32"), version)
    assert set(held.normal_ids) == {record["name"] for _, record in version.images()}
    assert set(held.sample_ids) == {record["id"] for record in samples_of(version)}
    assert "cross-fitting" in held.source


def test_images_that_one_detector_lacks_are_used_for_none(version, measured, tmp_path):
    folder = trained(version, tmp_path, folds=2)
    more = measure("folded", folder, load(folder, "cpu", "fp32"), version)
    one, other = shared([more.held, measured.held])
    assert one.normal_ids == other.normal_ids == measured.held.normal_ids
    assert one.sample_ids == other.sample_ids
    assert other.sample_scores_M.tolist() == measured.held.sample_scores_M.tolist()
    _, (folded, plain) = judge([more, measured], 0.05)
    assert (folded.set_aside, plain.set_aside) == (8, 0)


def test_rules_come_from_the_records(judged):
    rows, (one,) = judged
    rules = dict(zip(one.held.kinds, one.held.rules, strict=True))
    assert rules == {
        "missing": ("bolt.count",), "extra": ("bolt.count", "order"), "control_noop": (),
    }  # fmt: skip
    words = {row.words for row in rows if row.group == "rule"}
    assert words == {"too few: bolt", "too many: bolt", "parts in a wrong order"}


def test_cost_is_measured(measured):
    assert 0 < measured.seconds_per_image < 5
    assert measured.training_seconds > 0


def test_every_cell_has_pictures_of_its_own_samples(judged, restored, version):
    rows, (one,) = judged
    shown = pictures(one, restored, version, rows)
    for row in rows:
        ids = {one.held.sample_ids[place] for place in row.samples}
        assert shown[row.key]
        assert {picture.sample for picture in shown[row.key]} <= ids
        for picture in shown[row.key]:
            assert picture.outlined.startswith("data:image/")
            assert picture.found == (
                np.float32(picture.score) >= np.float32(one.sensitivity.threshold)
            )


def test_only_the_version_of_the_training_is_judged_on(checkpoint, restored, tmp_path):
    other = small_version(tmp_path, images=12, size=(64, 64))
    with pytest.raises(UserError, match="train on this version"):
        measure("nearest", checkpoint, restored, other)


def test_a_version_that_holds_nothing_out_cannot_judge(restored, tmp_path):
    bare = small_version(tmp_path, images=4, size=(64, 64))
    with pytest.raises(UserError, match="holds out no normal"):
        held_out_scores(dataclasses.replace(restored, held_out=None), bare)


def test_detectors_without_an_image_in_common_are_not_compared(measured):
    held = measured.held
    renamed = dataclasses.replace(held, normal_ids=tuple(f"x{n}" for n in held.normal_ids))
    with pytest.raises(UserError, match="no held-out images in common"):
        shared([held, renamed])

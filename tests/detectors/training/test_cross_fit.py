"""Cross-fitting: which fit judges which image, and what becomes of its scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
import torch
from small_results import image_result, small_version

from detectors import registry
from detectors.base import Schedule
from detectors.data.batches import to_device
from detectors.data.dataset import VersionDataset, collate
from detectors.registry import configure
from detectors.training.checkpoint import CARD, load, read_card
from detectors.training.fit_data import FitData
from detectors.training.held_out import VALIDATION, HeldOut, read_held_out
from detectors.training.job import TrainJob
from detectors.training.progress import Watcher
from detectors.training.trainer import train
from pipeline.dataset.sample_table import SampleTable
from pipeline.dataset.version import Version
from pipeline.errors import UserError

# One thread: folds follow each other in this process, which alone knows the tiny detector.
EXACT = {"device": "cpu", "precision": "fp32", "board": False, "threads": 1}


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Ten images of 64 px, two of them for validation, with three accepted samples each."""
    results = [image_result(number, (64, 64)) for number in range(10)]
    return small_version(tmp_path_factory.mktemp("store"), results=results, tests=0)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.DETECTORS, tiny_detector.NAME, tiny_detector.ENTRY)


def run(version: Version, out: Path, watcher: Watcher | None = None, **changes: object) -> HeldOut:
    recipe = configure(tiny_detector.NAME, "tiny", changes)
    train(TrainJob(recipe=recipe, version=version.dir, out=out, **EXACT), watcher)  # type: ignore[arg-type]
    found = read_held_out(out)
    assert found is not None
    return found


# --- who sees what --------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [2, 3, 8, 20])
def test_folds_partition_the_training_split_and_samples_follow_their_original(
    version: Version, folds: int
) -> None:
    whole = FitData.of(version)
    parts = FitData.folds(version, folds)
    assert len(parts) == min(folds, len(whole.fitted))
    assert sorted(place for part in parts for place in part.held) == sorted(whole.fitted)
    # Each part is a run of neighbours.
    assert [place for part in parts for place in part.held] == list(whole.fitted)
    for part in parts:
        assert sorted(part.fitted + part.held) == sorted(whole.fitted)
        samples = SampleTable(version, "train")
        held = {
            (int(shard), int(row))
            for shard, row, source in zip(
                samples.shards_N, samples.rows_N, samples.sources_N, strict=True
            )
            if (int(shard), int(source)) in part.held
        }
        table = part.held_pairs().view.table  # type: ignore[attr-defined]
        assert set(zip(table.shards_N.tolist(), table.rows_N.tolist(), strict=True)) == held
        fitted = part.fitted_sources().view.table  # type: ignore[attr-defined]
        assert len(fitted) + len(table) == len(samples)
    assert sorted(map(len, (part.held for part in parts)))[-1] <= -(
        -len(whole.fitted) // len(parts)
    )


def test_one_training_normal_cannot_be_cross_fitted(tmp_path: Path) -> None:
    lonely = small_version(tmp_path, results=[image_result(1, (64, 64))], tests=0)
    with pytest.raises(UserError, match="needs at least two training normals"):
        FitData.folds(lonely, 5)


# --- what is written ------------------------------------------------------------------------------


def test_every_normal_and_every_sample_is_judged_once_by_a_fit_without_it(
    version: Version, tmp_path: Path
) -> None:
    found = run(version, tmp_path / "run", folds=4)
    normals = [tuple(place) for place in found.normal_places_N2.tolist()]
    assert sorted(normals) == sorted(VersionDataset.normals(version, None).view.places)  # type: ignore[attr-defined]
    assert len(set(map(tuple, found.pair_places_M2.tolist()))) == len(SampleTable(version))
    validation = FitData.of(version).held
    judged_by_itself = {
        place
        for place, fold in zip(normals, found.normal_folds_N.tolist(), strict=True)
        if fold == VALIDATION
    }
    assert judged_by_itself == set(validation)
    assert sorted(set(found.normal_folds_N.tolist())) == [VALIDATION, 0, 1, 2, 3]
    # Thresholds rest on all of them, and nothing of the folds is left behind.
    card = read_card(tmp_path / "run")
    assert (card.calibration.normals, card.calibration.rate_5) == (10, pytest.approx(1 / 11))
    assert not (tmp_path / "run" / "folds").exists()


def test_a_fold_is_the_training_without_its_images(version: Version, tmp_path: Path) -> None:
    """Its scores are those of a version that never had these images, all lower by one number."""
    found = run(version, tmp_path / "run", folds=2)
    data = FitData.folds(version, 2)[1]
    from detectors.training.distributed import Ranks
    from detectors.training.fit import Fit
    from detectors.training.precision import resolve
    from detectors.training.run_identity import Inputs

    recipe = configure(tiny_detector.NAME, "tiny", {"folds": 2})
    job = TrainJob(recipe=recipe, version=version.dir, out=tmp_path / "alone", **EXACT)  # type: ignore[arg-type]
    alone = Fit(
        job, data, job.out, resolve("cpu", "fp32"), Ranks(), Watcher(),
        Inputs.of(job), {},
    )  # fmt: skip
    alone.run()
    judged = alone.validation.judge(alone.compute)
    of_fold = found.normal_folds_N == 1
    assert found.normal_places_N2[of_fold].tolist() == [list(place) for place in data.held]
    # See `fold_shift`: what a fit scores too high as it has seen fewer images.
    lower_NP = judged.normal_parts_NP - found.normal_parts_NP[of_fold]
    assert (lower_NP >= 0).all()
    np.testing.assert_allclose(lower_NP, lower_NP[:1].repeat(len(lower_NP), 0), atol=1e-12)


def test_scores_of_the_validation_split_are_those_of_the_checkpoint(
    version: Version, tmp_path: Path
) -> None:
    found = run(version, tmp_path / "run", folds=3)
    restored = load(tmp_path / "run", "cpu", "fp32")
    data = FitData.of(version)
    batch = to_device(collate(data.held_normals().__getitems__([0, 1])), 64, torch.device("cpu"))
    with torch.inference_mode():
        expected = restored.detector(batch["image"]).image_B
    own = found.normal_folds_N == VALIDATION
    np.testing.assert_allclose(found.normal_scores_N[own], expected, rtol=1e-6)


def test_a_kill_in_a_fold_costs_no_finished_step(version: Version, tmp_path: Path) -> None:
    class Killed(Watcher):
        """Ends the run in the middle of the second fold."""

        def __init__(self) -> None:
            self.title, self.begun = "", []

        def begin(self, title: str, total: int, done: int = 0) -> None:
            self.title = title
            self.begun.append((title.partition(", ")[2], done))

        def step(self, done: int, losses: object) -> None:
            if self.title.endswith("fold 2 of 3") and done == 9:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(version, tmp_path / "run", Killed(), folds=3)
    again = Killed()
    again.step = lambda done, losses: None  # type: ignore[method-assign]
    found = run(version, tmp_path / "run", again, folds=3)
    steps = configure(tiny_detector.NAME, "tiny").schedule.steps
    assert again.begun[:2] == [("", steps), ("fold 1 of 3", steps)]
    whole = run(version, tmp_path / "whole", folds=3)
    np.testing.assert_array_equal(found.normal_parts_NP, whole.normal_parts_NP)
    np.testing.assert_array_equal(found.pair_scores_M, whole.pair_scores_M)


def test_without_folds_only_the_validation_split_is_judged(
    version: Version, tmp_path: Path
) -> None:
    found = run(version, tmp_path / "run")
    assert set(found.normal_folds_N.tolist()) == {VALIDATION}
    assert len(found.normal_scores_N) == 2


@pytest.mark.parametrize(
    ("normals", "expected"),
    [(20, 4), (90, 4), (119, 4), (120, 4), (134, 4), (135, 3), (179, 3), (180, 2), (1000, 2)],
)
def test_many_normals_need_fewer_parts(normals: int, expected: int) -> None:
    schedule = Schedule(steps=1, batch_size=1, folds=4, fold_normals=90)
    assert schedule.folds_of(normals) == expected
    assert schedule.model_copy(update={"fold_normals": 0}).folds_of(normals) == 4
    assert schedule.model_copy(update={"folds": 0}).folds_of(normals) == 0


def test_the_training_has_as_many_parts_as_its_normals_need(
    version: Version, tmp_path: Path
) -> None:
    said: list[str] = []
    heard = Watcher()
    heard.say = said.append  # type: ignore[method-assign]
    found = run(version, tmp_path / "run", heard, folds=4, fold_normals=5)
    # Of eight normals a fit without one of two parts sees four, without one of three parts five.
    assert sorted(set(found.normal_folds_N.tolist())) == [VALIDATION, 0, 1, 2]
    assert len(found.normal_scores_N) == 10
    assert any("3 parts instead of 4" in text for text in said)


def test_a_training_from_before_many_normals_needed_fewer_parts_is_the_same(
    version: Version, tmp_path: Path
) -> None:
    """Where the number has no effect; what is younger must not disown finished trainings."""
    run(version, tmp_path / "run", folds=2)
    card = json.loads((tmp_path / "run" / CARD).read_bytes())
    assert card["schedule"].pop("fold_normals") == 0
    (tmp_path / "run" / CARD).write_text(json.dumps(card))
    before = (tmp_path / "run" / "model.safetensors").stat()
    run(version, tmp_path / "run", folds=2)
    assert (tmp_path / "run" / "model.safetensors").stat() == before
    with pytest.raises(UserError, match="fold_normals is None there and 3 here"):
        run(version, tmp_path / "run", folds=2, fold_normals=3)


def test_a_single_fold_is_refused() -> None:
    with pytest.raises(UserError, match="folds is 0 or at least 2"):
        configure(tiny_detector.NAME, "tiny", {"folds": 1})


def test_detectors_with_other_numbers_of_folds_are_judged_on_the_same_samples(
    version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detectors.training.fold.PAIRS", 11)
    places = [
        {tuple(place) for place in run(version, tmp_path / str(folds), folds=folds, steps=1)
         .pair_places_M2.tolist()}
        for folds in (2, 5)
    ]  # fmt: skip
    assert places[0] == places[1]
    assert len(places[0]) == 11 + len(FitData.of(version).held_pairs())


def test_fp32_thresholds_belong_to_the_detector_that_is_saved(
    version: Version, tmp_path: Path
) -> None:
    """EfficientAD's map scale depends on the precision; its fp32 scores must be of the kept one."""
    recipe = configure("efficientad", "tiny", {"size": 64, "steps": 2})
    train(
        TrainJob(
            recipe=recipe, version=version.dir, out=tmp_path / "run", device="cpu",
            precision="bf16", board=False,
        )
    )  # fmt: skip
    restored = load(tmp_path / "run", "cpu", "fp32")
    assert restored.held_out is None
    held = FitData.of(version).held_normals()
    batch = to_device(collate(held.__getitems__([0, 1])), 64, torch.device("cpu"))
    with torch.inference_mode():
        highest = restored.detector(batch["image"]).image_B.max()
    expected = float(torch.nextafter(highest, torch.tensor(torch.inf)))
    assert restored.card.calibration.threshold_5 == pytest.approx(expected, rel=1e-5)

"""What reviews change in a training: what is drawn, what is judged, and which training it is."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import tiny_detector
from small_results import image_result, small_version
from small_reviews import decide, ids

from detectors import registry
from detectors.comparison.held_out import held_out_scores
from detectors.data.dataset import VersionDataset
from detectors.data.source_sampler import SourceSampler, SourceSettings
from detectors.registry import configure
from detectors.training.checkpoint import load, read_card
from detectors.training.fit_data import FitData, sample_places
from detectors.training.held_out import read_held_out
from detectors.training.job import TrainJob
from detectors.training.reviewed import UNSURE_WEIGHT, Reviewed
from detectors.training.run_identity import Inputs, identity
from detectors.training.trainer import train
from pipeline.dataset.version import Version
from pipeline.errors import UserError


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Ten images of 64 px in two shards, two of them for validation, with three samples each."""
    results = [image_result(number, (64, 64)) for number in range(10)]
    store = tmp_path_factory.mktemp("store")
    return small_version(store, results=results, tests=0, shard_images=6)


@pytest.fixture(scope="module")
def reviews(version, tmp_path_factory):
    """Of both splits one sample is rejected and one unsure, and one of training is disputed."""
    found = ids(version)
    validation = [s for s in found if s.startswith("train/good/009")]
    verdicts = {found[0]: "reject", found[1]: "unsure", found[4]: "keep", found[8]: "keep"}
    verdicts |= {validation[0]: "reject", validation[1]: "unsure"}
    file = tmp_path_factory.mktemp("reviews") / "all.jsonl"
    decide(version, verdicts, path=file)
    return decide(version, {found[8]: "reject"}, "Berta", path=file)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.DETECTORS, tiny_detector.NAME, tiny_detector.ENTRY)


def named(version: Version, dataset: VersionDataset) -> list[str]:
    places = sample_places(dataset)
    return [version.shards[shard].record(row)["id"] for shard, row in places]


def test_rejected_samples_are_neither_trained_nor_judged_on(version, reviews):
    whole = FitData.of(version)
    weights = Reviewed.of(version, reviews).weights
    for part in (FitData.of(version, weights), *FitData.folds(version, 3, weights)):
        assert part.weights == weights
        for name in ("fitted_pairs", "held_pairs", "fitted_sources", "held_sources"):
            every = named(version, getattr(replace(part, weights={}), name)())
            left = [s for s in every if weights.get(_place(version, s), 1) > 0]
            assert named(version, getattr(part, name)()) == left
    rejected = set(ids(version)) - {
        sample
        for name in ("fitted_pairs", "held_pairs")
        for sample in named(version, getattr(FitData.of(version, weights), name)())
    }
    assert rejected == {ids(version)[0], next(s for s in ids(version) if "009" in s)}
    assert len(whole.fitted_pairs()) - len(FitData.of(version, weights).fitted_pairs()) == 1


def _place(version: Version, sample: str) -> tuple[int, int]:
    return next(
        (number, row)
        for number, shard in enumerate(version.shards)
        for row in range(shard.samples)
        if shard.record(row)["id"] == sample
    )


def test_a_doubtful_sample_is_drawn_half_as_often(version, reviews):
    weights = Reviewed.of(version, reviews).weights
    plain, doubted = (
        FitData.of(version, some).fitted_sources()
        for some in ({k: w for k, w in weights.items() if w == 0}, weights)
    )
    assert plain.view.weights == {}
    halves = doubted.view.weights
    assert sorted(halves.values()) == [UNSURE_WEIGHT] * 2
    steps = 2000
    drawn = []
    for dataset in (plain, doubted):
        sampler = SourceSampler(dataset, SourceSettings(clean_share=0.25), batch_size=8, seed=3)
        drawn.append([item for batch in islice(sampler, steps) for item in batch])
    # Nothing but turns of the doubtful ones has changed, and half of these.
    changed = [(a, b) for a, b in zip(*drawn, strict=True) if a != b]
    assert {a for a, _ in changed} == set(halves)
    assert all(b < doubted.view.normals for _, b in changed)
    before, after = Counter(drawn[0]), Counter(drawn[1])
    for item in halves:
        assert after[item] / before[item] == pytest.approx(UNSURE_WEIGHT, abs=0.07)
    # A step can be drawn alone, as after a resume.
    late = SourceSampler(
        doubted, SourceSettings(clean_share=0.25), batch_size=8, seed=3, start_step=1000
    )
    assert next(iter(late)) == drawn[1][8000:8008]


def test_a_training_records_its_reviews_and_other_reviews_are_another_training(
    version, reviews, tmp_path
):
    recipe = configure(tiny_detector.NAME, "tiny", {"folds": 2})
    # One thread: folds follow each other in this process, which alone knows the tiny detector.
    job = TrainJob(
        recipe=recipe, version=version.dir, out=tmp_path / "run", device="cpu", precision="fp32",
        board=False, reviews=reviews, threads=1,
    )  # fmt: skip
    train(job)
    card, found = read_card(job.out), ids(version)
    held = next(s for s in found if "009" in s)
    assert card.reviews.rejected == (found[0], held)
    assert card.reviews.unsure == (found[1], found[8], found[found.index(held) + 1])
    # Judged on all samples but the rejected ones, by the folds as well.
    scored = read_held_out(job.out)
    judged = [version.shards[s].record(r)["id"] for s, r in scored.pair_places_M2.tolist()]
    assert sorted(judged) == sorted(set(found) - {found[0], held})
    restored = load(job.out, "cpu")
    for stored in (restored, replace(restored, held_out=None)):
        samples = held_out_scores(stored, version).sample_ids
        assert held not in samples
        assert found[found.index(held) + 1] in samples
    # The same file, and one that changes nothing more, find the training; others do not.
    train(job)
    more = tmp_path / "more.jsonl"
    more.write_bytes(reviews.read_bytes())
    decide(version, {found[5]: "keep"}, path=more)
    train(replace(job, reviews=more))
    decide(version, {found[5]: "unsure"}, path=more)
    for other in (more, None):
        with pytest.raises(UserError, match="other settings: reviews is"):
            train(replace(job, reviews=other))


def test_without_reviews_a_training_is_what_it_was(version, tmp_path):
    recipe = configure(tiny_detector.NAME, "tiny")
    job = TrainJob(recipe=recipe, version=version.dir, out=tmp_path, device="cpu", board=False)
    found = identity(job, version, Inputs.of(job))
    assert set(found) == {
        "detector", "settings", "schedule", "version", "seed", "teacher", "start"
    }  # fmt: skip


def test_a_version_without_any_sample_left_is_refused(version, tmp_path):
    file = decide(version, dict.fromkeys(ids(version), "reject"), path=tmp_path / "r.jsonl")
    with pytest.raises(UserError, match=r"all samples of .* are rejected; generate others"):
        Reviewed.of(version, file)


def test_weights_do_not_change_what_is_read(version, reviews):
    data = FitData.of(version, Reviewed.of(version, reviews).weights)
    dataset = data.fitted_sources()
    first = dataset.view.normals
    item = dataset[first]
    shard, row = sample_places(dataset)[0]
    edited = version.shards[shard].edited(row)
    np.testing.assert_array_equal(item["edited"].permute(1, 2, 0).numpy(), edited)

"""The ablation of SemRec: the version of a row, shared trainings, and differences of rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_results import header, image_result, real_image

from benchmarks.ablation import __main__ as ablation
from benchmarks.ablation.__main__ import ROWS, chosen, planned
from benchmarks.ablation.tables import difference, mean, report, samples
from detectors.metrics.image import image_metrics
from pipeline.dataset.version import Version, versions
from pipeline.errors import IntegrityError, UserError
from pipeline.generation.publish import publish

TYPES = ["good"] * 12 + ["logical_anomalies"] * 8 + ["structural_anomalies"] * 6


def made(store: Path, preset: str, inpainter: str, seed: int) -> Version:
    """A version whose index records how it was generated; the content differs between seeds."""
    head = header(
        settings={"edits": {"preset": preset, "kinds": None}},
        weights={f"inpaint/{inpainter}": "0" * 64},
    )
    results = [image_result(number + 10 * seed, (64, 64)) for number in range(5)]
    tests = [real_image(number, (64, 64)) for number in range(6)]
    return publish(store, "tray", results, tests, head, gallery=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    ways = (("full", "small_lama"), ("paper", "small_lama"), ("full", "telea"))
    for seed, (preset, inpainter) in enumerate(ways):
        made(folder, preset, inpainter, seed)
    return folder


def result(seed: int, shift: float, types=TYPES) -> dict:
    """A run whose anomalies score higher by `shift`."""
    rng = np.random.default_rng(seed)
    bad = np.array([type != "good" for type in types])
    scores = rng.normal(size=len(types)) + shift * bad
    rows = [
        {"name": str(n), "type": t, "score": float(s)}
        for n, (t, s) in enumerate(zip(types, scores, strict=True))
    ]
    metrics = image_metrics(bad.astype(int), scores).values()
    return {
        "category": "tray",
        "seed": seed,
        "steps": 4,
        "metrics": metrics | {"iap": shift / 10, "iap90": None, "per_type": {}, "scores": rows},
    }


def runs(shift: float, seeds=(0, 1, 2)) -> dict:
    return {"tray": {seed: result(seed, shift) for seed in seeds}}


def test_a_row_reads_the_newest_version_made_its_way(store):
    known = versions(store, "tray")
    names = {way: chosen(known, way).name[:4] for way in ("full", "paper", "telea", "small_lama")}
    assert names == {"full": "0001", "paper": "0002", "telea": "0003", "small_lama": "0001"}
    assert chosen(known, "lama") is None


def test_equal_rows_share_one_training(store):
    jobs, remarks = planned(ROWS, [store], ["tray"], [0, 1], "tiny", {"steps": "2"})
    assert remarks == []
    assert len(jobs) == 2 * len(ROWS)
    assert jobs["e", "tray", 0] == jobs["f2", "tray", 0] != jobs["e", "tray", 1]
    assert len(set(jobs.values())) == 2 * (len(ROWS) - 1)
    assert jobs["a", "tray", 0].recipe.settings.branches == "local"
    with pytest.raises(UserError, match="no version of bag"):
        planned(ROWS, [store], ["bag"], [0], "tiny", {})


def test_rows_that_cannot_be_trained_are_reported(tmp_path):
    made(tmp_path, "full", "telea", 0)
    jobs, remarks = planned(ROWS, [tmp_path], ["tray"], [0], "tiny", {})
    assert {row for row, *_ in jobs} == {"f1"}
    assert len(remarks) == len(ROWS) - 1
    assert "paper" in " ".join(remarks)


def test_means_run_over_seeds_and_categories():
    row = {"tray": {0: result(0, 1), 1: result(1, 1)}, "bag": {0: result(2, 1)}}
    values = [[of["metrics"]["image_auroc"] for of in seeds.values()] for seeds in row.values()]
    assert mean(row, "pooled", "image_auroc") == pytest.approx(
        np.mean([np.mean(v) for v in values])
    )
    assert mean(row, "pooled", "iap90") is None
    centre = samples(row, "pooled", "image_auroc").mean()
    assert centre == pytest.approx(mean(row, "pooled", "image_auroc"), abs=0.03)


def test_a_row_does_not_differ_from_itself_and_a_better_one_is_starred():
    same = difference(runs(1), runs(1), "pooled", "image_auroc")
    assert same == "+0.000 (+0.000 to +0.000)"
    better = difference(runs(3), runs(0), "logical", "image_ap")
    # These runs have no numbers per type.
    assert better == "–"
    better = difference(runs(3), runs(0), "pooled", "image_auroc")
    assert better.startswith("+")
    assert "*" in better
    assert difference(runs(1, seeds=(0,)), runs(1, seeds=(1,)), "pooled", "image_auroc") == "–"


def test_pairing_is_tighter_than_two_separate_intervals():
    one, other = runs(1.0), runs(1.2)
    draws = [samples(row, "pooled", "image_auroc") for row in (one, other)]
    paired = np.std(draws[1] - draws[0])
    assert paired < 0.5 * np.hypot(np.std(draws[0]), np.std(draws[1]))


def test_versions_with_other_test_images_are_not_compared():
    other = {"tray": {0: result(0, 1, TYPES[:-1])}}
    with pytest.raises(IntegrityError, match="different test images"):
        difference(runs(1, seeds=(0,)), other, "pooled", "image_auroc")


def test_the_page_has_a_table_per_group_and_one_of_differences():
    text = report({"a": runs(0), "e": runs(2)}, {"a": "without", "e": "with"}, ["c: none"], "tiny")
    assert text.count("| a | without |") == 3
    assert "| a - e |" in text
    assert "Left out: c: none." in text


@pytest.mark.slow
def test_the_whole_command_trains_and_repeats_nothing(store, tmp_path, capsys):
    arguments = ["--store", str(store), "--categories", "tray", "--rows", "a", "e", "--seeds", "0",
                 "--steps", "2", "--set", "size=64", "batch_size=4",
                 "--out", str(tmp_path)]  # fmt: skip
    ablation.main(arguments)
    first = capsys.readouterr()
    assert "Paired differences" in first.out
    found = json.loads((tmp_path / "ablation.json").read_text())
    assert set(found) == {"a", "e"}
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    ablation.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == stamps
    assert capsys.readouterr().out == first.out

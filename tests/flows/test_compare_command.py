"""`anomalysmith compare` as its users see it, on a version that trains within seconds."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_comparisons import ruled_version
from small_results import small_version

from detectors.comparison import recommendation
from detectors.training.progress import Watcher
from flows.jobs import compare as compare_module
from flows.jobs.compare import CompareJob, compared, planned, train_all
from pipeline.dataset.version import Version
from pipeline.errors import UserError

SMALL = ("--profile", "tiny", "--size", "64", "--device", "cpu", "--precision", "fp32")
BOTH = ("--detector", "nearest", "--set", "nearest.bank=64", "--detector", "efficientad")
QUICK = (*SMALL, *BOTH, "--steps", "3")


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Ten images of 64 px, two of them held out, with rules; six real test images."""
    return ruled_version(tmp_path_factory.mktemp("home") / "store")


def small_job(version: Version, out: Path) -> CompareJob:
    """The comparison of the options `QUICK`."""
    return CompareJob(
        version=version.dir, out=out, detectors=("nearest", "efficientad"), profile="tiny",
        size=64, steps=3, changes=("nearest.bank=64",), device="cpu", precision="fp32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(version, tmp_path_factory) -> dict[str, Any]:
    """One comparison, shared by the tests that only look."""
    job = small_job(version, tmp_path_factory.mktemp("out"))
    plan = planned(job)
    assert train_all(plan, Watcher()) == {}
    return {"out": job.out, **compared(job, plan, {}, Watcher())}


def test_json_has_everything_a_program_needs(done):
    assert done["recommendation"]["detector"] in ("nearest", "efficientad")
    assert done["held_out"] == {
        "normals": 2, "synthetics": 4, "controls": 2,
        "source": "the validation split, which the training did not see",
    }  # fmt: skip
    assert done["smallest_false_alarms"] == pytest.approx(1 / 3)
    keys = {row["key"]: row for row in done["rows"]}
    assert {"missing", "extra", "control_noop"} <= keys.keys()
    assert "bolt.count: too many: bolt" in keys
    for detector in done["detectors"]:
        assert detector["cells"].keys() == keys.keys()
        for key, cell in detector["cells"].items():
            assert cell["of"] == len(keys[key]["samples"])
            over = sum(
                detector["scores"]["samples"][name] >= detector["threshold"]
                for name in keys[key]["samples"]
            )
            assert cell["found"] == over
        assert 0 < detector["seconds_per_image"] < 5
        assert (Path(detector["checkpoint"]) / "checkpoint.json").is_file()
    assert done["real_test"].keys() == {"nearest", "efficientad"}
    assert Path(done["real_test"]["nearest"]["report"]).is_file()


def test_the_page_and_the_json_file_are_there(done):
    assert Path(done["page"]) == done["out"] / "compare.html"
    text = Path(done["page"]).read_text()
    assert "Sensitivity" in text
    assert text.count("data:image/") > 10
    stored = json.loads((done["out"] / "compare.json").read_text())
    assert stored["detectors"] == done["detectors"]


def test_the_command_reuses_what_is_trained(anomalysmith, version, done):
    tensors = sorted(done["out"].glob("*/model.safetensors"))
    assert len(tensors) == 2
    before = [path.stat().st_mtime_ns for path in tensors]
    words = ("compare", version.dir, *QUICK, "--out", done["out"])
    run = anomalysmith(*words, "--json")
    assert run.code == 0, run.err
    assert [path.stat().st_mtime_ns for path in tensors] == before
    same = ("rows", "held_out", "real_test")
    assert {key: run.json[key] for key in same} == {key: done[key] for key in same}
    # Of equal detectors the faster one is taken, and seconds differ from run to run.
    equal, again = (
        {found["recommendation"]["detector"], *found["recommendation"]["equal"]}
        for found in (done, run.json)
    )
    assert equal == again
    shown = anomalysmith(*words)
    assert shown.code == 0
    assert any(f"Take {name}" in shown.out for name in equal)
    assert "an object is missing" in shown.out
    assert str(done["out"] / "compare.html") in shown.out


def test_an_interrupted_comparison_goes_on(anomalysmith, version, done, tmp_path, monkeypatch):
    trained = compare_module.train

    def interrupted(job: Any, watcher: Any) -> Any:
        if job.recipe.name == "efficientad":
            raise KeyboardInterrupt
        return trained(job, watcher)

    words = ("compare", version.dir, *QUICK, "--out", tmp_path, "--no-test", "--json")
    monkeypatch.setattr(compare_module, "train", interrupted)
    run = anomalysmith(*words)
    assert run.code == 130
    assert "the same command continues" in run.err
    (first,) = tmp_path.glob("*/model.safetensors")
    before = first.stat().st_mtime_ns
    monkeypatch.setattr(compare_module, "train", trained)
    again = anomalysmith(*words)
    assert again.code == 0, again.err
    assert first.stat().st_mtime_ns == before
    assert again.json["real_test"] is None
    # What was scored is the same as without the interruption.
    assert [one["scores"] for one in again.json["detectors"]] == [
        one["scores"] for one in done["detectors"]
    ]


def test_the_real_test_cannot_change_the_recommendation(version, done, monkeypatch):
    order: list[str] = []
    chosen, opened = recommendation.recommend, compare_module.evaluate_once
    monkeypatch.setattr(
        recommendation, "recommend", lambda *a: (order.append("chosen"), chosen(*a))[1]
    )
    monkeypatch.setattr(
        compare_module, "evaluate_once", lambda *a: (order.append("opened"), opened(*a))[1]
    )
    job = small_job(version, done["out"])
    compared(job, planned(job), {}, Watcher())
    assert order == ["chosen", "opened", "opened"]


def test_a_dry_run_says_what_would_be_trained_and_touches_nothing(
    anomalysmith, version, done, tmp_path
):
    words = ("compare", version.dir, *QUICK, "--dry-run")
    new = anomalysmith(*words, "--out", tmp_path, "--json").json
    assert [row["detector"] for row in new["detectors"]] == ["nearest", "efficientad"]
    assert [row["steps"] for row in new["detectors"]] == [0, 3]
    assert new["held_out"] == {"images": 2, "samples": 6}
    assert [row["seconds"] for row in new["detectors"]] == [None, None]
    assert list(tmp_path.iterdir()) == []
    known = anomalysmith(*words, "--out", done["out"])
    assert known.code == 0
    assert known.out.count("finished") == 2
    # A training with the same settings lets the next one be estimated.
    more = anomalysmith(*words, "--out", done["out"], "--seed", 1, "--json").json
    assert all(row["seconds"] > 0 for row in more["detectors"])
    assert all(row["resumes"]["state"] == "nothing" for row in more["detectors"])


def test_detectors_without_their_weights_are_left_out_by_default(anomalysmith, version, tmp_path):
    words = ("compare", version.dir, "--device", "cpu", "--dry-run", "--out", tmp_path)
    paper = anomalysmith(*words, "--profile", "paper", "--json").json
    # The suite finds no official weights, and there is no GPU for the papers' sizes.
    assert [row["detector"] for row in paper["detectors"]] == ["parts"]
    why = " ".join(row["why"] for row in paper["left_out"])
    assert "need a GPU" in why
    assert "weights pull" in why
    cpu = anomalysmith(*words, "--profile", "cpu", "--json").json
    assert {row["detector"]: row["why"] for row in cpu["left_out"]}["puad"] == (
        "in the profile cpu it is the same as laead"
    )
    tiny = anomalysmith(*words, "--profile", "tiny", "--json").json
    assert len(tiny["detectors"]) >= 7
    assert tiny["left_out"] == []


def test_a_training_that_fails_leaves_the_others(anomalysmith, version, tmp_path, monkeypatch):
    trained = compare_module.train

    def one_breaks(job: Any, watcher: Any) -> Any:
        if job.recipe.name == "efficientad":
            raise UserError("the loss is not finite at step 3")
        return trained(job, watcher)

    monkeypatch.setattr(compare_module, "train", one_breaks)
    run = anomalysmith("compare", version.dir, *QUICK, "--out", tmp_path, "--no-test", "--json")
    assert run.code == 2
    assert run.json["recommendation"] | {"rule": ""} == {
        "detector": "nearest", "decided_by": "only", "equal": [], "uncertain": [], "rule": "",
    }  # fmt: skip
    (left,) = run.json["left_out"]
    assert left == {
        "detector": "efficientad", "why": "the loss is not finite at step 3", "failed": True,
    }  # fmt: skip
    assert "not finite" in (tmp_path / "compare.html").read_text()


def test_a_category_stands_for_its_version(anomalysmith, version, tmp_path):
    store = version.dir.parent.parent
    (tmp_path / "m.yaml").write_text(
        f"store: {store}\nsources: {{parts: {{kind: folder, path: parts}}}}\n"
        "categories: {tray: {source: parts}, bag: {source: parts}}\n"
    )
    words = (*SMALL, "--detector", "nearest", "--manifest", tmp_path / "m.yaml", "--dry-run")
    run = anomalysmith("compare", "tray", *words, "--json")
    assert run.json["version"] == str(version.dir)
    assert run.json["out"] == str(store.parent / "detectors" / "tray" / version.name)
    missing = anomalysmith("compare", "bag", *words)
    assert missing.code == 2
    assert "generate" in missing.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--detector", "magic"), "no detector is called 'magic'"),
        (("--profile", "huge"), "expected a profile among"),
        (("--false-alarms", "5"), "between 0 and 1"),
        (("--false-alarms", "0"), "between 0 and 1"),
        (("--set", "bank=3"), "DETECTOR.KEY=VALUE"),
        (("--set", "magic.bank=3"), "'magic'"),
        (("--set", "nearest.bnak=3"), "no setting 'bnak'"),
    ],
)
def test_a_user_error_is_one_line(anomalysmith, version, tmp_path, words, said):
    run = anomalysmith("compare", version.dir, *QUICK, "--out", tmp_path, *words)
    assert run.code == 2
    (line,) = run.err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_versions_that_cannot_answer_are_refused_before_any_training(anomalysmith, tmp_path):
    # Images 0 to 3 are all for training.
    bare = small_version(tmp_path / "store", images=4, size=(64, 64))
    run = anomalysmith("compare", bare.dir, *QUICK, "--out", tmp_path / "out")
    assert run.code == 2
    assert "holds out no normals" in run.err
    nowhere = anomalysmith("compare", tmp_path / "nowhere", *QUICK)
    assert nowhere.code == 2
    assert "no dataset version" in nowhere.err
    assert not (tmp_path / "out").exists()

"""The trainer: bit-exact resume, early stopping, one-line errors, several processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_detector
import torch
from safetensors.torch import load_file
from small_results import TURNS, image_result, small_version

from detectors import registry
from detectors.registry import configure
from detectors.training import trainer
from detectors.training.checkpoint import MODEL, load, read_card
from detectors.training.job import TrainJob, TrainReport
from detectors.training.progress import Watcher
from detectors.training.resume import RESUME, THREADS
from detectors.training.seeds import derived_seed, set_seeds
from detectors.training.trainer import train
from pipeline.dataset.version import Version
from pipeline.errors import DeviceError, IntegrityError, UserError
from pipeline.utils.files import locked_if_free

ROOT = Path(__file__).resolve().parents[3]
HELPERS = ROOT / "tests" / "helpers"
PROGRAM = HELPERS / "tiny_detector.py"
# Early stopping is on, so that its state is saved and resumed too, but never ends the run.
RESUMABLE = {"stop_on": "loss", "patience": 50}

Train = Callable[..., TrainReport]


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Ten images of 64 px, two of them for validation, with three accepted samples each."""
    results = [image_result(number, (64, 64)) for number in range(10)]
    return small_version(tmp_path_factory.mktemp("store"), results=results, tests=0)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.DETECTORS, tiny_detector.NAME, tiny_detector.ENTRY)


@pytest.fixture
def run(version: Version) -> Train:
    """Train the tiny detector with some settings changed."""

    def run(out: Path, options: dict[str, Any] | None = None, **changes: Any) -> TrainReport:
        given = {"version": version.dir, "device": "cpu", "precision": "fp32", "board": False}
        given |= {"threads": 1} | (options or {})
        watcher = given.pop("watcher", None)
        recipe = configure(tiny_detector.NAME, "tiny", changes)
        return train(TrainJob(recipe=recipe, out=out, **given), watcher)

    return run


class Killer(Watcher):
    """Ends a run after so many steps, as Ctrl-C would."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, done: int, losses: Any) -> None:
        if done == self.at:
            raise KeyboardInterrupt


def same_tensors(one: Path, other: Path) -> bool:
    """Every tensor of two checkpoints, bit for bit."""
    first, second = load_file(one / MODEL), load_file(other / MODEL)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_writes_a_checkpoint_and_is_reused(run, tmp_path, version):
    report = run(tmp_path / "run")
    assert report.steps == 20
    assert not report.stopped_early
    card = read_card(tmp_path / "run")
    assert card.version.digest == version.digest
    assert card.version.category == "tray"
    assert [one.step for one in card.history] == [7, 14, 20]
    losses = [one.loss for one in card.history]
    assert losses[-1] < losses[0]
    assert card.calibration.normals == 2
    assert card.calibration.synthetics == 4
    assert report.validation["loss"] == losses[-1]
    assert not (tmp_path / "run" / RESUME).exists()
    stamp = (tmp_path / "run" / MODEL).stat().st_mtime_ns
    again = run(tmp_path / "run", options={"precision": "auto"})
    assert (again.steps, again.seconds) == (20, report.seconds)
    assert again.validation == report.validation
    assert (tmp_path / "run" / MODEL).stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="precision is fp32 there and bf16 here"):
        run(tmp_path / "run", options={"precision": "bf16"})
    (tmp_path / "run" / MODEL).write_bytes(b"cut short")
    with pytest.raises(IntegrityError, match="damaged"):
        run(tmp_path / "run")


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(run, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(tmp_path / name, options={"seed": seed}, steps=4)
    assert same_tensors(tmp_path / "a", tmp_path / "b")
    assert not same_tensors(tmp_path / "a", tmp_path / "c")


def test_seeds_are_those_of_torch_and_differ_by_purpose():
    set_seeds(derived_seed(3, 4, "rank 0"), torch.device("cpu"))
    ours = torch.randn(5)
    torch.manual_seed(derived_seed(3, 4, "rank 0"))
    assert torch.equal(ours, torch.randn(5))
    places = [(3, 4, "rank 0"), (3, 4, "rank 1"), (4, 3, "rank 0"), (34, 0, "rank 0")]
    assert len({derived_seed(*place) for place in places}) == 4


def test_workers_and_tensorboard_do_not_change_the_weights(run, tmp_path):
    run(tmp_path / "plain", steps=4)
    run(tmp_path / "workers", options={"workers": 2}, steps=4)
    run(tmp_path / "board", options={"board": True}, steps=4)
    assert same_tensors(tmp_path / "plain", tmp_path / "workers")
    assert same_tensors(tmp_path / "plain", tmp_path / "board")


def test_another_training_in_the_same_folder_is_a_one_line_error(run, tmp_path):
    run(tmp_path, steps=2)
    with pytest.raises(UserError, match=r"schedule\.steps is 2 there and 3 here") as caught:
        run(tmp_path, steps=3)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"seed is 0 there and 1 here"):
        run(tmp_path, options={"seed": 1}, steps=2)


def test_a_resume_state_of_another_precision_is_an_error(run, tmp_path):
    killed = {"save_every": 2, "watcher": Killer(5)}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, options=killed)
    with pytest.raises(UserError, match=r"precision is fp32 there and bf16 here"):
        run(tmp_path, options={"precision": "bf16"})


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("at", [3, 8, 19])
def test_an_interrupted_run_resumes_bit_for_bit(run, tmp_path, optimizer, at):
    settings = RESUMABLE | {"optimizer": optimizer}
    run(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", options={"save_every": 3, "watcher": Killer(at)}, **settings)
    watcher = Killer(0)
    report = run(tmp_path / "broken", options={"watcher": watcher}, **settings)
    # The state of step 3 is written after the watcher has seen step 3.
    if at > 3:
        assert f"resumed at step {(at - 1) // 3 * 3} of 20" in watcher.said
    assert report.steps == 20
    assert same_tensors(tmp_path / "whole", tmp_path / "broken")
    assert read_card(tmp_path / "whole").history == read_card(tmp_path / "broken").history


@pytest.mark.slow
def test_a_killed_process_resumes_bit_for_bit(run, tmp_path, version):
    """Killed twice at random moments; with a state per step, most kills interrupt a write."""
    run(tmp_path / "whole", **RESUMABLE)
    changes = [f"{key}={value}" for key, value in RESUMABLE.items()]
    command = [sys.executable, str(PROGRAM), str(version.dir), str(tmp_path / "killed"), *changes]
    for step in (6, 13):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment()
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.strip() == f"step {step}":
                    child.kill()
                    break
        assert child.returncode == -9
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    assert same_tensors(tmp_path / "whole", tmp_path / "killed")
    assert not (tmp_path / "killed" / RESUME).exists()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HELPERS}"}


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_state(run, tmp_path):
    with pytest.raises(UserError, match=r"step 6 is not finite: distance = nan, size = ") as e:
        run(tmp_path, options={"save_every": 2}, nan_at=5)
    assert "\n" not in str(e.value)
    names = sorted(path.name for path in (tmp_path / RESUME).iterdir())
    assert names == ["000000004", THREADS]
    states = list((tmp_path / RESUME).glob("*/model.st"))
    assert all(value.isfinite().all() for value in load_file(states[0]).values())


def test_it_stops_when_validation_gets_worse_and_keeps_the_best(run, tmp_path):
    changes = {"stop_on": "loss", "validate_every": 1, "patience": 3, "steps": 60, "rate": 0.5}
    report = run(tmp_path, **changes)
    card = read_card(tmp_path)
    best = min(card.history, key=lambda one: one.loss)
    assert report.stopped_early
    assert report.steps == best.step + 3 == card.history[-1].step
    assert (report.validation["best_step"], report.validation["loss"]) == (best.step, best.loss)


def test_it_does_not_stop_before_min_steps(run, tmp_path):
    changes = {"stop_on": "loss", "validate_every": 1, "patience": 1, "min_steps": 15, "rate": 0.5}
    assert run(tmp_path, **changes).steps >= 15


def test_early_stopping_on_synthetics_keeps_the_highest_auroc(run, tmp_path):
    run(tmp_path, stop_on="synthetics", validate_every=4)
    card = read_card(tmp_path)
    best = max(card.history, key=lambda one: (one.auroc, -one.loss))
    assert card.best_step == best.step
    assert card.calibration.auroc == best.auroc


def test_a_detector_without_steps_is_prepared_calibrated_and_saved(run, tmp_path):
    report = run(tmp_path, steps=0)
    assert report.steps == 0
    assert report.validation["threshold_1"] > 0
    assert load(tmp_path, "cpu", "fp32").detector.scale > 0


@pytest.mark.parametrize(
    ("numbers", "turns", "missing"),
    [
        ((0, 1, 2, 3), TURNS, "no normal was held out"),
        ((0, 4), (), "no synthetic anomaly"),
        ((0, 1, 4), TURNS[3:4], "no synthetic anomaly"),
    ],
    ids=["no validation split", "no samples", "controls only"],
)
def test_versions_without_normals_or_samples_train_and_note_what_is_missing(
    run, tmp_path, numbers, turns, missing
):
    results = [image_result(number, (64, 64), turns) for number in numbers]
    poor = small_version(tmp_path / "store", results=results, tests=0)
    report = run(
        tmp_path / "run", options={"version": poor.dir}, steps=3, stop_on="synthetics",
        validate_every=3,
    )  # fmt: skip
    assert report.steps == 3
    assert report.validation["auroc"] is report.validation["threshold_f1"] is None
    assert missing in report.validation["notes"]["auroc"]
    has_normals = 4 in numbers
    assert (report.validation["threshold_5"] is not None) == has_normals
    assert load(tmp_path / "run", "cpu").detector.scale > 0


def test_a_version_without_training_images_is_an_error(run, tmp_path):
    results = [replace(image_result(n, (64, 64)), split="validation") for n in range(2)]
    empty = small_version(tmp_path / "store", results=results, tests=0)
    with pytest.raises(UserError, match="no image to train on"):
        run(tmp_path / "run", options={"version": empty.dir})


def test_training_starts_from_the_tensors_that_fit(run, tmp_path):
    run(tmp_path / "first", steps=3)
    watcher = Killer(0)
    run(tmp_path / "second", options={"start": tmp_path / "first", "watcher": watcher}, steps=0)
    # Of the six tensors, the two of the frozen teacher are not copied.
    assert watcher.said == [f"copied 4 tensors from {tmp_path / 'first'}"]
    assert same_tensors(tmp_path / "first", tmp_path / "second")
    card = read_card(tmp_path / "second")
    assert card.start is not None
    assert card.start.sha256 == read_card(tmp_path / "first").sha256


def test_threads_are_the_free_cpus_and_a_resumed_training_keeps_its_own(monkeypatch, tmp_path):
    before, watcher = torch.get_num_threads(), Killer(0)
    recipe = configure(tiny_detector.NAME, "tiny", {})
    job = TrainJob(recipe=recipe, version=tmp_path, out=tmp_path)
    asked, note = replace(job, threads=2), tmp_path / RESUME / THREADS
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        trainer._choose_threads(job, watcher, first=True)
        assert 1 <= torch.get_num_threads() <= len(os.sched_getaffinity(0))
        # Asked for three, it was killed before its first state: it starts over.
        torch.set_num_threads(3)
        trainer._choose_threads(asked, watcher, first=True)
        assert note.read_text() == "3"
        trainer._choose_threads(job, watcher, first=False)
        assert torch.get_num_threads() <= len(os.sched_getaffinity(0))
        # Killed after it, it goes on with three.
        (tmp_path / RESUME / "000000004").mkdir()
        trainer._choose_threads(job, watcher, first=True)
        assert torch.get_num_threads() == 3
        # A number that is asked for now counts, but is not what it started with.
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        trainer._choose_threads(job, watcher, first=True)
        assert (torch.get_num_threads(), note.read_text()) == (2, "3")
    finally:
        torch.set_num_threads(before)
    assert all(line.endswith("free; --threads N overrides") for line in watcher.said[:2])
    assert watcher.said[2:] == [
        "threads: 3, as at the start of this training; --threads N overrides"
    ]


def test_only_one_process_writes_into_a_folder(run, tmp_path):
    with locked_if_free(tmp_path), pytest.raises(UserError, match="another training writes"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "fp16"}, UserError, "fp32, tf32, bf16"),
        ({"device": "tpu"}, UserError, "auto, cpu, cuda"),
        ({"precision": "tf32", "device": "cpu"}, DeviceError, "tf32 needs a CUDA device"),
        ({"compile": "max"}, UserError, "off, default or reduce-overhead"),
    ],
)
def test_wrong_options_are_user_errors(run, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path, options=options)


def test_tensorboard_has_curves_and_images(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, options={"board": True})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    expected = {"loss/distance", "loss/size", "rate/learning", "validation/loss"}
    assert expected <= set(tags["scalars"])
    assert tags["images"] == ["validation/pairs"]
    assert [event.step for event in events.Scalars("validation/auroc")] == [7, 14]
    rates = [event.value for event in events.Scalars("rate/learning")]
    assert (rates[0], rates[-1]) == (pytest.approx(0.01), pytest.approx(0.001))
    sheet = events.Images("validation/pairs")[0]
    assert (sheet.height, sheet.width) == (128, 4 * 64)


@pytest.mark.slow
def test_a_compiled_step_trains_like_a_plain_one(run, tmp_path):
    # Without noise, because compiled code draws other random numbers.
    run(tmp_path / "plain", steps=6, noise=0)
    run(tmp_path / "compiled", options={"compile": "default"}, steps=6, noise=0)
    plain, compiled = (load_file(tmp_path / name / MODEL) for name in ("plain", "compiled"))
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(run, tmp_path, version):
    done = torchrun(version, tmp_path / "two", "noise=0", "batch_size=2", "steps=9")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"step {number}" for number in range(1, 10)]
    run(tmp_path / "one", noise=0, batch_size=4, steps=9)
    one, two = (load_file(tmp_path / name / MODEL) for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
    assert read_card(tmp_path / "two").processes == 2


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit_after_rank_0_was_killed(tmp_path, version):
    assert torchrun(version, tmp_path / "whole", "steps=9").returncode == 0
    assert torchrun(version, tmp_path / "killed", "steps=9", dies_at=5).returncode != 0
    again = torchrun(version, tmp_path / "killed", "steps=9")
    assert again.stdout.splitlines() == [f"step {number}" for number in range(5, 10)], again.stderr
    assert same_tensors(tmp_path / "whole", tmp_path / "killed")


def torchrun(
    version: Version, out: Path, *changes: str, dies_at: int = 0
) -> subprocess.CompletedProcess[str]:
    """Train with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(PROGRAM), str(version.dir), str(out), *changes]
    env = environment() | {"TINY_DIES_AT": str(dies_at)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

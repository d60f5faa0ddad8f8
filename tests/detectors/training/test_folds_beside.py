"""Folds in processes of their own: the same numbers as one after the other, stopped and resumed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from small_results import image_result, small_version

from detectors.registry import configure
from detectors.training.checkpoint import read_card
from detectors.training.fold import FoldTask
from detectors.training.fold_process import STOPPED, order, ordered
from detectors.training.folds_beside import FoldsBeside, shared_by
from detectors.training.held_out import HeldOut, read_held_out
from detectors.training.job import TrainJob
from detectors.training.precision import resolve
from detectors.training.progress import Watcher
from detectors.training.resume import newest
from detectors.training.run_identity import Inputs, identity
from detectors.training.trainer import train
from pipeline.dataset.version import Version
from pipeline.errors import IntegrityError, UserError

STEPS = 4


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Ten images of 64 px, two of them for validation, with three accepted samples each."""
    results = [image_result(number, (64, 64)) for number in range(10)]
    return small_version(tmp_path_factory.mktemp("store"), results=results, tests=0)


def job(version: Version, out: Path, threads: int, steps: int = STEPS) -> TrainJob:
    changes = {"size": 64, "steps": steps, "folds": 2}
    return TrainJob(
        recipe=configure("semrec", "tiny", changes), version=version.dir, out=out, threads=threads,
        device="cpu", precision="bf16", board=False,
    )  # fmt: skip


def run(job: TrainJob, watcher: Watcher | None = None) -> HeldOut:
    train(job, watcher)
    found = read_held_out(job.out)
    assert found is not None
    return found


class Heard(Watcher):
    """Remembers what it is told; asks to stop in the stage of that title."""

    def __init__(self, stops_in: str = "nowhere") -> None:
        self.stops_in, self.said, self.begun = stops_in, list[str](), list[tuple[str, int, int]]()

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, title: str, total: int, done: int = 0) -> None:
        self.begun.append((title, total, done))

    def wants_to_stop(self) -> bool:
        return self.stops_in in self.begun[-1][0]


@pytest.fixture(scope="module")
def in_turn(version: Version, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """A training that has finished, its folds one after the other."""
    done = job(version, tmp_path_factory.mktemp("in_turn") / "run", threads=1)
    train(done)
    return done


def same(found: HeldOut, expected: Path) -> None:
    other = read_held_out(expected)
    assert other is not None
    for name in ("normal_places_N2", "normal_parts_NP", "normal_folds_N", "pair_scores_M"):
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name))


def test_folds_beside_give_what_folds_in_turn_give(
    version: Version, in_turn: TrainJob, tmp_path: Path
) -> None:
    heard = Heard()
    both = job(version, tmp_path / "run", threads=2)
    same(run(both, heard), in_turn.out)
    cards = [read_card(one.out) for one in (both, in_turn)]
    assert cards[0].sha256 == cards[1].sha256
    # In fp32, too, which these processes also judge.
    assert cards[0].calibration_fp32 == cards[1].calibration_fp32
    assert any("3 fits at once, 1 thread each" in text for text in heard.said)
    assert heard.begun[1][:2] == ("tray: semrec, 2 folds", 2 * STEPS)
    assert not (both.out / "folds").exists()


@pytest.mark.parametrize(
    ("fits", "threads", "expected"),
    [(4, 1, 1), (2, 4, 2), (4, 2, 2), (3, 2, 3), (6, 4, 6), (12, 16, 8), (15, 8, 8)],
)
def test_no_thread_is_idle_while_a_last_fit_runs(fits: int, threads: int, expected: int) -> None:
    assert shared_by(fits, threads) == expected


def test_a_stop_is_heard_by_all_folds_and_costs_no_finished_step(
    version: Version, in_turn: TrainJob, tmp_path: Path
) -> None:
    stopped = job(version, tmp_path / "run", threads=2)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, Heard("2 folds"))
    again = Heard()
    same(run(stopped, again), in_turn.out)
    # The fit of all had finished.
    assert again.begun[0][1:] == (STEPS, STEPS)


@pytest.mark.parametrize("steps", [1, 100_000])
def test_the_error_of_a_fold_is_that_of_the_training(
    version: Version, tmp_path: Path, steps: int
) -> None:
    """Told at the end of the fit of all, or at once, with its steps saved."""
    damaged = tmp_path / "run" / "folds" / "1" / "resume" / f"{1:09}" / "state.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    with pytest.raises(IntegrityError, match=r"state.json is damaged"):
        train(job(version, tmp_path / "run", threads=2, steps=steps))
    assert newest(tmp_path / "run") is not None


def fold(version: Version, out: Path) -> FoldTask:
    alone = job(version, out, threads=1)
    inputs = Inputs.of(alone)
    begun = identity(alone, version, inputs)
    return FoldTask(
        alone, version, out, resolve("cpu", "bf16"), inputs, begun, kept=10_000, number=0, count=2
    )


def test_a_fold_arrives_as_it_was_sent(version: Version, tmp_path: Path) -> None:
    sent = fold(version, tmp_path / "caf\udce9")
    arrived, threads = ordered(order(sent, threads=3))
    assert threads == 3
    for one in fields(FoldTask):
        assert getattr(arrived, one.name) == getattr(sent, one.name)


def test_a_fold_that_the_system_kills_is_named(version: Version, tmp_path: Path) -> None:
    with FoldsBeside([fold(version, tmp_path)], at_once=1, threads=1) as beside:
        beside.start(1)
        while not (running := list(beside._running.values())):
            time.sleep(0.01)
        os.kill(running[0].pid, signal.SIGKILL)
        with pytest.raises(UserError, match=r"fold 1 of 2 was killed, .*--threads 1"):
            beside.finish(Watcher(), "folds", 10_000)


def test_a_fold_refuses_files_that_changed_since_the_training_began(
    version: Version, tmp_path: Path
) -> None:
    sent = fold(version, tmp_path)
    other = replace(sent, identity=sent.identity | {"teacher": "0" * 64})
    with pytest.raises(UserError, match="a training that began with other settings: teacher is"):
        ordered(order(other, threads=1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_fold_saves_its_step(
    version: Version, tmp_path: Path, number: signal.Signals
) -> None:
    """Worker processes that read images do not keep it from hearing."""
    sent = fold(version, tmp_path)
    sent = replace(sent, job=replace(sent.job, workers=1))
    with FoldsBeside([sent], at_once=1, threads=1) as beside:
        beside.start(1)
        while not beside.steps[0]:
            time.sleep(0.01)
        beside._running[0].send_signal(number)
        with pytest.raises(UserError, match="was stopped from outside"):
            beside.finish(Watcher(), "folds", 10_000)
    assert newest(tmp_path) is not None


def test_a_fold_ends_when_its_training_dies(version: Version, tmp_path: Path) -> None:
    """Ten thousand steps would take minutes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "detectors.training.fold_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(order(fold(version, tmp_path), threads=1))
    process.stdin.flush()
    assert process.stdout.readline() == b'{"steps": 0}\n'
    process.stdin.close()
    assert process.wait(timeout=30) == STOPPED
    process.stdout.close()

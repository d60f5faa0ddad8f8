"""The one training loop: any detector, any device, resumed bit for bit after a kill.

    report = train(configure("efficientad", "tiny"), version, Path("out/run"))

    assemble -> prepare(training normals) -> steps -> calibrate -> thresholds -> checkpoint

Every step is seeded by (seed, step, rank), so nothing random has to be saved. Losses stay on the
device until they are asked for: a step of a small detector must not wait for a GPU. Under
`torchrun` all processes call this; the first one validates and writes.
"""

import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler

from detectors.base import Batch, Detector
from detectors.data.batches import Feed, StepSampler, Stream
from detectors.data.dataset import VersionDataset
from detectors.data.source_sampler import SourceSampler
from detectors.registry import Recipe, assemble
from detectors.training import resume
from detectors.training.checkpoint import (
    Card,
    ValidationPass,
    VersionCard,
    fill,
    read_tensors,
    save,
    software,
)
from detectors.training.distributed import Ranks, joined, spread_out
from detectors.training.loss_log import Clock, LossLog
from detectors.training.precision import name_of, resolve
from detectors.training.precision_parity import DEVIATIONS, RANKS
from detectors.training.progress import Watcher
from detectors.training.run_identity import Inputs, finished, identity, require_same
from detectors.training.seeds import mixed, sow
from detectors.training.tensorboard import Board
from detectors.training.validation import Stopping, Validation, scoring_batch, total_of
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.models.device import Compute
from pipeline.utils.files import locked_if_free, require_writable


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training came to. `validation` is JSON: calibration, loss, parity, best step."""

    checkpoint: Path
    steps: int
    seconds: float
    validation: dict[str, Any] = field(default_factory=dict)
    stopped_early: bool = False
    rates: dict[str, float] = field(default_factory=dict)


def train(
    recipe: Recipe,
    version: Version,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    compile: str = "off",
    workers: int = 0,
    teacher: Path | None = None,
    start: Path | None = None,
    save_every: int | None = None,
    board: bool = True,
    watcher: Watcher | None = None,
) -> TrainReport:
    """Train a detector on a version and leave a checkpoint in `out`.

    The same call again goes on where a killed run stopped, or returns at once when it is done;
    UserError when `out` holds another training. `compile` is off, default or reduce-overhead (CUDA
    graphs). `teacher` replaces the registry's file, `start` is a checkpoint whose fitting tensors
    are taken over first. Resume states are written by the clock, or every `save_every` steps.
    UserError when a loss stops being finite.
    """
    out = Path(out)
    if compile not in ("off", "default", "reduce-overhead"):
        raise UserError(f"compile is off, default or reduce-overhead; got {compile!r}")
    with joined(device) as ranks, ExitStack() as stack:
        compute = resolve(ranks.device(device), precision)
        inputs = Inputs.of(recipe, teacher, start)
        wanted = identity(recipe, version, seed, inputs)
        if card := finished(out, wanted, precision):
            if ranks.first:  # what a run leaves that is killed between its last two breaths
                shutil.rmtree(out / resume.RESUME, ignore_errors=True)
            return _report(out, card, {})
        if ranks.first:
            require_writable(out)
            if not stack.enter_context(locked_if_free(out)):
                raise UserError(f"another training writes to {out}; wait for it or name another")
        watcher = watcher if watcher and ranks.first else Watcher()
        run = _Run(recipe, version, out, seed, compute, ranks, workers, watcher, inputs)
        run.identity = wanted | {"precision": name_of(compute), "processes": ranks.ranks}
        report = run.train(compile, save_every, board and ranks.first)
        ranks.agree(0)  # nobody leaves before the checkpoint is there
        return report


@dataclass(eq=False)
class _Run:
    """One call of `train`: what was asked for, and how far it is."""

    recipe: Recipe
    version: Version
    out: Path
    seed: int
    compute: Compute
    ranks: Ranks
    workers: int
    watcher: Watcher
    inputs: Inputs
    identity: dict[str, Any] = field(default_factory=dict)
    done: int = 0
    seconds: float = 0.0

    def train(self, compile: str, save_every: int | None, on_board: bool) -> TrainReport:
        self.clock = time.monotonic()
        self.detector = self._assembled()
        schedule = self.recipe.schedule
        self.validation = Validation(self.detector, self.version, schedule, self.compute, self.seed)
        self.stopping = Stopping(schedule)
        rates: dict[str, float] = {}
        if schedule.steps:
            saver = resume.Saver(self.out, save_every) if self.ranks.first else None
            rates = self._steps(compile, saver, on_board)
        if not self.ranks.first:
            return TrainReport(self.out, self.done, self._spent(), rates=rates)
        card = self._finish()
        shutil.rmtree(self.out / resume.RESUME, ignore_errors=True)
        return _report(self.out, card, rates)

    def _assembled(self) -> Detector:
        """The detector before its first step: on the device, its frozen parts prepared."""
        sow(mixed(self.seed, 0, "weights"), self.compute.device)
        detector = assemble(self.recipe.name, self.recipe.settings, teacher=self.inputs.teacher)
        if self.inputs.start and self.inputs.start_card:
            state = read_tensors(self.inputs.start, self.inputs.start_card.sha256)
            taken = take_over(detector, state)
            self.watcher.say(f"took over {taken} tensors of {self.inputs.start.parent}")
        device = self.compute.device
        torch.backends.cudnn.benchmark = True  # one size all along: the search pays
        detector.to(device).to(memory_format=torch.channels_last)
        normals = VersionDataset.normals(self.version, "train")
        if not len(normals):
            raise UserError(
                f"{self.version.dir} holds no image to train on: all are in its validation split"
            )
        feed = Feed(normals, scoring_batch(device), self.recipe.settings.size, device)
        with torch.no_grad(), self.compute.autocast():
            detector.eval().prepare(feed)
        return detector

    def _steps(self, compile: str, saver: resume.Saver | None, on_board: bool) -> dict[str, float]:
        """Train to the last step, or until validation says stop; returns the rates."""
        steps, device = self.recipe.schedule.steps, self.compute.device
        optimizer, schedule = self.detector.optimizer(steps)
        self._resume(optimizer, schedule)
        module = spread_out(self.detector, self.ranks, device)
        if compile != "off":
            module = torch.compile(module, mode=None if compile == "default" else compile)  # type: ignore[assignment]
        board = Board(self.out, on_board, self.done)
        log = LossLog(steps, device.type == "cuda", self.watcher, board)
        batches = iter(self._stream())
        clock = Clock()
        stop = self.stopping.over
        self.watcher.begin(f"{self.version.category}: {self.recipe.name}", steps, self.done)
        self.detector.train()
        try:
            while self.done < steps and not stop:
                optimizer.zero_grad(set_to_none=True)
                terms = self._gradients(module, next(batches))
                log.add(self.done + 1, terms)  # before the weights move: a NaN stops here on a CPU
                optimizer.step()
                schedule.step()
                self.done += 1
                clock.tick()
                if log.due(self.done):
                    learning = float(schedule.get_last_lr()[0])
                    log.plot(self.done, {"steps per second": clock.rate, "learning": learning})
                if self._due():
                    log.fetch()
                    stop = bool(self.ranks.agree(self._look(board)))
                    self.detector.train()
                    clock.pause()
                leaving = self.watcher.wants_to_stop()
                if saver and (leaving or saver.due(self.done)):
                    log.fetch()
                    state = self._state(optimizer, schedule)
                    saver.save(state, self.detector, optimizer, self.stopping.best)
                    clock.pause()
                if leaving:
                    raise KeyboardInterrupt
            log.fetch()
        finally:
            board.close()
            self.watcher.end()
        images = self.recipe.schedule.batch_size * self.ranks.ranks
        return {"steps_per_second": clock.rate, "images_per_second": clock.rate * images}

    def _gradients(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The terms of one step, after their sum went backward."""
        sow(mixed(self.seed, self.done, f"rank {self.ranks.rank}"), self.compute.device)
        if self.compute.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        with self.compute.autocast():
            terms = module(batch, self.done, self.recipe.schedule.steps)
        total_of(terms).backward()
        return terms

    def _stream(self) -> Stream:
        """What the detector's view trains on, from the next step on."""
        place = {
            "batch_size": self.recipe.schedule.batch_size, "seed": self.seed,
            "start_step": self.done, "rank": self.ranks.rank, "ranks": self.ranks.ranks,
        }  # fmt: skip
        sampler: Sampler[list[int]]
        if self.detector.view == "sources":
            dataset = VersionDataset.sources(self.version, "train")
            sampler = SourceSampler(dataset, self.recipe.settings.sources(), **place)  # type: ignore[attr-defined]
        else:
            dataset = VersionDataset.normals(self.version, "train")
            sampler = StepSampler(len(dataset), **place)
        size = self.recipe.settings.size
        return Stream(dataset, sampler, size, self.compute.device, self.workers)

    def _due(self) -> bool:
        schedule = self.recipe.schedule
        if schedule.validate_every and self.done % schedule.validate_every == 0:
            return True
        return self.done == schedule.steps and schedule.stop_on != "never"

    def _look(self, board: Board) -> int:
        """1 when the first process, which alone looks, wants to stop."""
        if not self.ranks.first:
            return 0
        look = self.validation.look(self.done, board)
        self.stopping.take(look, self.detector)
        return int(self.stopping.over)

    def _resume(self, optimizer: Optimizer, schedule: LambdaLR) -> None:
        """Go on from the newest state in the folder, if there is one of the same training."""
        folder = resume.newest(self.out)
        if folder is not None:
            state = resume.read_state(folder)
            require_same(self.out, state.identity, self.identity, "an unfinished training")
            best = resume.restore(folder, state, self.detector, optimizer, schedule)
            self.done, self.seconds = state.step, state.seconds
            self.stopping.restore(state.history, state.best_step, state.stale, best)
            self.watcher.say(f"resumed at step {self.done} of {self.recipe.schedule.steps}")
        if self.ranks.agree(self.done) != self.done:
            raise UserError(
                f"process {self.ranks.rank} sees another state in {self.out} than the first one; "
                "the folder must be on a disk that all processes share"
            )

    def _state(self, optimizer: Optimizer, schedule: LambdaLR) -> resume.State:
        return resume.State(
            identity=self.identity,
            step=self.done,
            seconds=self._spent(),
            optimizer=resume.optimizer_numbers(optimizer),
            schedule=resume.schedule_numbers(schedule),
            history=tuple(self.stopping.history),
            best_step=self.stopping.best_step,
            stale=self.stopping.stale,
        )

    def _finish(self) -> Card:
        """Best weights, statistics of the scores, thresholds, parity, checkpoint."""
        kept = self.done
        if self.stopping.best is not None:
            kept = self.stopping.best_step
            fill(self.detector, self.stopping.best, self.out)
        calibration = self.validation.calibrate()
        calibration_fp32 = self.validation.calibrate_fp32()
        history = self.stopping.history
        if not any(look.step == kept for look in history):
            loss = self.validation.loss(kept) if self.recipe.schedule.steps else None
            by_kind = calibration.auroc_by_kind
            look = ValidationPass(
                step=kept, loss=loss, auroc=calibration.auroc, auroc_by_kind=by_kind
            )
            history = [*history, look]
        parity = self.validation.parity()
        if parity.verdict == "differs":
            self.watcher.say(
                f"scores in {parity.precision} are up to {parity.difference:.2f} deviations from "
                f"fp32 (rank correlation {parity.ranks:.3f}; expected at most {DEVIATIONS} and at "
                f"least {RANKS}): train and score with precision fp32"
            )
        card = Card(
            detector=self.recipe.name,
            settings=self.recipe.settings.model_dump(mode="json"),
            schedule=self.recipe.schedule.model_dump(mode="json"),
            version=VersionCard.of(self.version),
            teacher=self.inputs.teacher_card,
            start=self.inputs.start_card,
            seed=self.seed,
            processes=self.ranks.ranks,
            steps=self.done,
            best_step=kept,
            stopped_early=self.done < self.recipe.schedule.steps,
            seconds=self._spent(),
            precision=name_of(self.compute),
            device=self.compute.describe(),
            software=software(),
            calibration=calibration,
            calibration_fp32=calibration_fp32,
            parity=parity,
            history=tuple(history),
            parameters=sum(value.numel() for value in self.detector.parameters()),
        )
        return save(self.out, self.detector, card)

    def _spent(self) -> float:
        """Seconds of work, those of killed runs up to their last state included."""
        return self.seconds + time.monotonic() - self.clock


def take_over(detector: Detector, state: dict[str, Tensor]) -> int:
    """Copy every tensor that fits by name and shape; UserError when none does.

    Frozen parts keep the weights that this training names.
    """
    own = detector.state_dict()
    frozen = {
        n.split(".")[0] for n, value in detector.named_parameters() if not value.requires_grad
    }
    fitting = {
        name: tensor
        for name, tensor in state.items()
        if name in own and own[name].shape == tensor.shape and name.split(".")[0] not in frozen
    }
    if not fitting:
        raise UserError("no tensor of the checkpoint to start from fits; start from another one")
    detector.load_state_dict(own | fitting)
    return len(fitting)


def _report(out: Path, card: Card, rates: dict[str, float]) -> TrainReport:
    """The report of a checkpoint that is there."""
    look = next((look for look in card.history if look.step == card.best_step), None)
    validation = card.calibration.model_dump(mode="json") | {
        "loss": look.loss if look else None,
        "best_step": card.best_step,
        "parity": card.parity.model_dump(mode="json"),
    }
    return TrainReport(out, card.steps, card.seconds, validation, card.stopped_early, rates)

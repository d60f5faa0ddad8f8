"""The one training loop: any detector, any device, resumed bit for bit after a kill.

    report = train(TrainJob(recipe=configure("efficientad", "tiny"), version=folder, out=out))

    assemble -> prepare(training normals) -> steps -> calibrate -> thresholds -> checkpoint

Every step is seeded by (seed, step, rank), so no state of a random generator has to be saved.
Losses stay on the device until they are read together, because a small detector's step must not
wait for a GPU. Under `torchrun` all processes call `train`; rank 0 validates and writes.
"""

import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
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
from detectors.registry import assemble
from detectors.training import resume
from detectors.training.checkpoint import (
    Card,
    ValidationPass,
    VersionCard,
    copy_matching,
    load_state,
    read_tensors,
    save,
    software,
)
from detectors.training.distributed import Ranks, data_parallel, process_group
from detectors.training.job import COMPILE_MODES, TrainJob, TrainReport
from detectors.training.loss_log import Clock, LossLog
from detectors.training.precision import precision_name, resolve
from detectors.training.precision_parity import DEVIATIONS, RANKS
from detectors.training.progress import Watcher
from detectors.training.run_identity import Inputs, finished, identity, require_same
from detectors.training.seeds import derived_seed, set_seeds
from detectors.training.tensorboard import Board
from detectors.training.validation import EarlyStopping, Validation, scoring_batch, total_loss
from pipeline.dataset.version import Version, open_version
from pipeline.errors import UserError
from pipeline.models.device import Compute
from pipeline.utils.files import locked_if_free, require_writable


def train(job: TrainJob, watcher: Watcher | None = None) -> TrainReport:
    """Train a detector on a version and leave a checkpoint in `job.out`.

    The same job again continues where a killed run stopped, or returns at once when it is done.
    UserError when `job.out` holds another training, and when a loss stops being finite.
    """
    if job.compile not in COMPILE_MODES:
        *most, last = COMPILE_MODES
        raise UserError(f"compile is {', '.join(most)} or {last}; got {job.compile!r}")
    # Opening checks the index and the sizes of the shards.
    version = open_version(job.version)
    with process_group(job.device) as ranks, ExitStack() as stack:
        # Under torchrun every process has a GPU of its own.
        compute = resolve(ranks.device(job.device), job.precision)
        inputs = Inputs.of(job)
        wanted = identity(job, version, inputs)
        if card := finished(job.out, wanted, job.precision):
            # A run killed between its checkpoint and its cleanup leaves resume states behind.
            if ranks.first:
                shutil.rmtree(job.out / resume.RESUME, ignore_errors=True)
            return _report(job, card, {})
        if ranks.first:
            require_writable(job.out)
            # The lock is held until the training ends, and released by the system if it is killed.
            if not stack.enter_context(locked_if_free(job.out)):
                raise UserError(
                    f"another training writes to {job.out}; wait for it or name another folder"
                )
        # Other ranks report nothing.
        watcher = watcher if watcher and ranks.first else Watcher()
        run = _Run(job, version, compute, ranks, watcher, inputs)
        # A resume state is bound to precision and processes as well; a finished checkpoint is not.
        run.identity = wanted | {
            "precision": precision_name(compute),
            "processes": ranks.ranks,
        }
        report = run.train()
        # No process returns before rank 0 has written the checkpoint.
        ranks.broadcast(0)
        return report


@dataclass(eq=False)
class _Run:
    """One call of `train`: its job, and its progress."""

    job: TrainJob
    version: Version
    compute: Compute
    ranks: Ranks
    watcher: Watcher
    inputs: Inputs
    identity: dict[str, Any] = field(default_factory=dict)
    done: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.recipe = self.job.recipe
        self.clock = time.monotonic()

    def train(self) -> TrainReport:
        """All steps that are left, then calibration and the checkpoint."""
        self.detector = self._assembled()
        schedule = self.recipe.schedule
        # After `prepare`: the view and the input size belong to the assembled detector.
        self.validation = Validation(
            self.detector, self.version, schedule, self.compute, self.job.seed
        )
        self.stopping = EarlyStopping(schedule)
        rates: dict[str, float] = {}
        # Detectors without a loss, such as nearest neighbours, have no steps.
        if schedule.steps:
            rates = self._steps()
        if not self.ranks.first:
            return TrainReport(self.job.out, self.done, self._spent(), rates=rates)
        card = self._finish()
        shutil.rmtree(self.job.out / resume.RESUME, ignore_errors=True)
        return _report(self.job, card, rates)

    def _assembled(self) -> Detector:
        """The detector before its first step: on the device, its frozen parts prepared."""
        # Random initial weights depend on the seed alone, on every device.
        set_seeds(derived_seed(self.job.seed, 0, "weights"), self.compute.device)
        detector = assemble(self.recipe.name, self.recipe.settings, teacher=self.inputs.teacher)
        if self.inputs.start and self.inputs.start_card:
            state = read_tensors(self.inputs.start, self.inputs.start_card.sha256)
            copied = copy_matching(detector, state)
            self.watcher.say(f"copied {copied} tensors from {self.inputs.start.parent}")
        device = self.compute.device
        # All batches have one size, so cuDNN's search for the fastest kernel is made once.
        torch.backends.cudnn.benchmark = True
        detector.to(device).to(memory_format=torch.channels_last)
        normals = VersionDataset.normals(self.version, "train")
        if not len(normals):
            raise UserError(
                f"{self.version.dir} holds no image to train on: all are in its validation split"
            )
        feed = Feed(normals, scoring_batch(device), self.recipe.settings.size, device)
        # Statistics of frozen networks in the precision in which they are used.
        with torch.no_grad(), self.compute.autocast():
            detector.eval().prepare(feed)
        return detector

    def _steps(self) -> dict[str, float]:
        """Train to the last step, or until early stopping; returns the rates."""
        steps, device = self.recipe.schedule.steps, self.compute.device
        # The optimiser first: its state is loaded into it.
        optimizer, schedule = self.detector.optimizer(steps)
        self._resume(optimizer, schedule)
        # After the state is loaded: DistributedDataParallel broadcasts the weights of rank 0.
        module = self._compiled(data_parallel(self.detector, self.ranks, device))
        saver = resume.Saver(self.job.out, self.job.save_every) if self.ranks.first else None
        # From `done` on, so that events of a killed run are not plotted twice.
        board = Board(self.job.out, self.job.board and self.ranks.first, self.done)
        log = LossLog(steps, device.type == "cuda", self.watcher, board)
        batches = iter(self._stream())
        # Rates count steps only, without validation and saving.
        clock = Clock()
        # A resumed run may have met the stopping criterion already.
        stop = self.stopping.should_stop
        self.watcher.begin(f"{self.version.category}: {self.recipe.name}", steps, self.done)
        self.detector.train()
        try:
            while self.done < steps and not stop:
                optimizer.zero_grad(set_to_none=True)
                terms = self._gradients(module, next(batches))
                # Before the weights change: on a CPU a NaN stops the run here, and the last saved
                # state stays good.
                log.add(self.done + 1, terms)
                optimizer.step()
                schedule.step()
                self.done += 1
                clock.tick()
                if log.due(self.done):
                    learning = float(schedule.get_last_lr()[0])
                    log.plot(self.done, {"steps per second": clock.rate, "learning": learning})
                if self._validation_due():
                    log.fetch()
                    # Only rank 0 validates; all processes leave the loop at the same step.
                    stop = bool(self.ranks.broadcast(self._validate(board)))
                    self.detector.train()
                    clock.pause()
                # Ctrl-C waits for the end of a step, so that the saved state is consistent.
                leaving = self.watcher.wants_to_stop()
                if saver and (leaving or saver.due(self.done)):
                    # Losses on the device may hide a NaN; read them before the state is written.
                    log.fetch()
                    state = self._state(optimizer, schedule)
                    saver.save(state, self.detector, optimizer, self.stopping.best)
                    clock.pause()
                if leaving:
                    # The command turns this into its exit code, after the state is safe.
                    raise KeyboardInterrupt
            log.fetch()
        finally:
            board.close()
            self.watcher.end()
        # The batch size is per process.
        images = self.recipe.schedule.batch_size * self.ranks.ranks
        return {"steps_per_second": clock.rate, "images_per_second": clock.rate * images}

    def _compiled(self, module: nn.Module) -> nn.Module:
        if self.job.compile == "off":
            return module
        # None is the default mode of torch.compile.
        mode = None if self.job.compile == "default" else self.job.compile
        return torch.compile(module, mode=mode)  # type: ignore[return-value]

    def _gradients(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of one step, after backpropagation of their sum."""
        # The rank is part of the seed, so processes do not draw the same noise.
        seed = derived_seed(self.job.seed, self.done, f"rank {self.ranks.rank}")
        set_seeds(seed, self.compute.device)
        if self.compute.device.type == "cuda":
            # Outputs of the step before are no longer needed: CUDA graphs may reuse their memory.
            torch.compiler.cudagraph_mark_step_begin()
        with self.compute.autocast():
            terms = module(batch, self.done, self.recipe.schedule.steps)
        total_loss(terms).backward()
        return terms

    def _stream(self) -> Stream:
        """Batches of the detector's view, from the next step on."""
        # Samplers compute a batch from seed and step, so a resumed run continues in the middle.
        place = {
            "batch_size": self.recipe.schedule.batch_size, "seed": self.job.seed,
            "start_step": self.done, "rank": self.ranks.rank, "ranks": self.ranks.ranks,
        }  # fmt: skip
        sampler: Sampler[list[int]]
        # Detectors that train on samples get pairs, the others get normals.
        if self.detector.view == "sources":
            dataset = VersionDataset.sources(self.version, "train")
            sampler = SourceSampler(dataset, self.recipe.settings.sources(), **place)  # type: ignore[attr-defined]
        else:
            dataset = VersionDataset.normals(self.version, "train")
            sampler = StepSampler(len(dataset), **place)
        size = self.recipe.settings.size
        return Stream(dataset, sampler, size, self.compute.device, self.job.workers)

    def _validation_due(self) -> bool:
        schedule = self.recipe.schedule
        if schedule.validate_every and self.done % schedule.validate_every == 0:
            return True
        # The last step too, or the weights after it could not become the best ones.
        return self.done == schedule.steps and schedule.stop_on != "never"

    def _validate(self, board: Board) -> int:
        """1 when rank 0, the only one that validates, wants to stop."""
        if not self.ranks.first:
            return 0
        validation_pass = self.validation.validate(self.done, board)
        self.stopping.record(validation_pass, self.detector)
        return int(self.stopping.should_stop)

    def _resume(self, optimizer: Optimizer, schedule: LambdaLR) -> None:
        """Continue from the newest state in the folder, if there is one of the same training."""
        out = self.job.out
        folder = resume.newest(out)
        if folder is not None:
            state = resume.read_state(folder)
            require_same(out, state.identity, self.identity, "an unfinished training")
            # Weights, optimiser and schedule are loaded in place.
            best = resume.restore(folder, state, self.detector, optimizer, schedule)
            self.done, self.seconds = state.step, state.seconds
            self.stopping.restore(state.history, state.best_step, state.stale, best)
            self.watcher.say(f"resumed at step {self.done} of {self.recipe.schedule.steps}")
        if self.ranks.broadcast(self.done) != self.done:
            raise UserError(
                f"process {self.ranks.rank} finds another state in {out} than rank 0; "
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
        """Best weights, statistics of the scores, thresholds, precision parity, checkpoint."""
        # Without early stopping the last weights are kept, otherwise the best ones.
        kept = self.done
        if self.stopping.best is not None:
            kept = self.stopping.best_step
            load_state(self.detector, self.stopping.best, self.job.out)
        # On all pairs; passes during training used a subset.
        calibration = self.validation.calibrate()
        calibration_fp32 = self.validation.calibrate_fp32()
        history = self.stopping.history
        # Without a pass at the kept step, the final calibration supplies its AUROC.
        if not any(earlier.step == kept for earlier in history):
            loss = self.validation.loss(kept) if self.recipe.schedule.steps else None
            by_kind = calibration.auroc_by_kind
            final = ValidationPass(
                step=kept, loss=loss, auroc=calibration.auroc, auroc_by_kind=by_kind
            )
            history = [*history, final]
        parity = self.validation.parity()
        if parity.verdict == "differs":
            self.watcher.say(
                f"scores in {parity.precision} are up to {parity.difference:.2f} standard "
                f"deviations from fp32 (rank correlation {parity.ranks:.3f}; expected at most "
                f"{DEVIATIONS} and at least {RANKS}): train and score with precision fp32"
            )
        card = Card(
            detector=self.recipe.name,
            settings=self.recipe.settings.model_dump(mode="json"),
            schedule=self.recipe.schedule.model_dump(mode="json"),
            version=VersionCard.of(self.version),
            teacher=self.inputs.teacher_card,
            start=self.inputs.start_card,
            seed=self.job.seed,
            processes=self.ranks.ranks,
            steps=self.done,
            best_step=kept,
            stopped_early=self.done < self.recipe.schedule.steps,
            seconds=self._spent(),
            precision=precision_name(self.compute),
            device=self.compute.describe(),
            software=software(),
            calibration=calibration,
            calibration_fp32=calibration_fp32,
            parity=parity,
            history=tuple(history),
            parameters=sum(value.numel() for value in self.detector.parameters()),
        )
        return save(self.job.out, self.detector, card)

    def _spent(self) -> float:
        """Seconds of work, including those of killed runs up to their last state."""
        return self.seconds + time.monotonic() - self.clock


def _report(job: TrainJob, card: Card, rates: dict[str, float]) -> TrainReport:
    """The report of a finished checkpoint."""
    # The loss of the kept weights; None for detectors without a loss.
    best = next((one for one in card.history if one.step == card.best_step), None)
    validation = card.calibration.model_dump(mode="json") | {
        "loss": best.loss if best else None,
        "best_step": card.best_step,
        "parity": card.parity.model_dump(mode="json"),
    }
    return TrainReport(job.out, card.steps, card.seconds, validation, card.stopped_early, rates)

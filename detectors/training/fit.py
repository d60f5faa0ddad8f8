"""One fit of a detector: assembled, prepared, trained step by step, resumed bit for bit.

    fit = Fit(job, FitData.of(version), job.out, compute, ranks, watcher, inputs, identity)
    fit.run()                       # assemble -> prepare(fitted normals) -> steps
    fit.detector, fit.validation    # at its best weights

Every step is seeded by (seed, step, rank), so no state of a random generator has to be saved.
Losses stay on the device until they are read together, because a small detector's step must not
wait for a GPU.
"""

import time
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
from detectors.data.source_sampler import SourceSampler
from detectors.registry import assemble
from detectors.training import resume
from detectors.training.checkpoint import copy_matching, load_state, read_tensors
from detectors.training.distributed import Ranks, data_parallel
from detectors.training.fit_data import FitData
from detectors.training.job import TrainJob
from detectors.training.loss_log import Clock, LossLog
from detectors.training.progress import Watcher
from detectors.training.run_identity import Inputs, require_same
from detectors.training.seeds import derived_seed, set_seeds
from detectors.training.tensorboard import Board
from detectors.training.validation import EarlyStopping, Validation, scoring_batch, total_loss
from pipeline.errors import UserError
from pipeline.models.device import Compute


@dataclass(eq=False)
class Fit:
    """A detector, what it learns from, and its progress.

    `out` holds its resume states; `name` tells a fold from the fit of all, whose detector is its
    `parent`.
    """

    job: TrainJob
    data: FitData
    out: Path
    compute: Compute
    ranks: Ranks
    watcher: Watcher
    inputs: Inputs
    identity: dict[str, Any]
    name: str = ""
    parent: Detector | None = None
    done: int = 0
    seconds: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.recipe = self.job.recipe
        self.clock = time.monotonic()

    def run(self) -> None:
        """All steps that are left; then the detector has its best weights."""
        self.detector = self._assembled()
        schedule = self.recipe.schedule
        # After `prepare`: the view and the input size belong to the assembled detector.
        self.validation = Validation(
            self.detector, self.data, schedule, self.compute, self.job.seed
        )
        self.stopping = EarlyStopping(schedule)
        # Detectors without a loss, such as nearest neighbours, have no steps.
        trains = any(value.requires_grad for value in self.detector.parameters())
        if schedule.steps and not trains:
            raise UserError(
                f"{self.recipe.name} with these settings has nothing to train, but steps is "
                f"{schedule.steps}; leave --steps out"
            )
        if trains and not (schedule.steps or self.inputs.start or self.name):
            self.watcher.say(f"0 steps: the networks of {self.recipe.name} stay random")
        if schedule.steps:
            self.rates = self._steps()
        # Without early stopping the last weights are kept, otherwise the best ones.
        if self.ranks.first and self.stopping.best is not None:
            load_state(self.detector, self.stopping.best, self.out)

    @property
    def kept(self) -> int:
        """The step whose weights the detector has."""
        return self.stopping.best_step if self.stopping.best is not None else self.done

    def spent(self) -> float:
        """Seconds of work, including those of killed runs up to their last state."""
        return self.seconds + time.monotonic() - self.clock

    def _assembled(self) -> Detector:
        """The detector before its first step: on the device, its frozen parts prepared."""
        # Random initial weights depend on the seed alone, on every device.
        set_seeds(derived_seed(self.job.seed, 0, "weights"), self.compute.device)
        detector = assemble(self.recipe.name, self.recipe.settings, teacher=self.inputs.teacher)
        # Once per training, not again by each fold.
        if not self.name:
            for note in self.recipe.settings.notes():
                self.watcher.say(note)
        # A fold starts afresh: the tensors of an older training may have seen its held-out images.
        if self.inputs.start and self.inputs.start_card and not self.name:
            state = read_tensors(self.inputs.start, self.inputs.start_card.sha256)
            copied = copy_matching(detector, state)
            self.watcher.say(f"copied {copied} tensors from {self.inputs.start.parent}")
        device = self.compute.device
        # All batches have one size, so cuDNN's search for the fastest kernel is made once.
        torch.backends.cudnn.benchmark = True
        detector.to(device).to(memory_format=torch.channels_last)
        if self.parent is not None:
            detector.inherit(self.parent)
        normals = self.data.fitted_normals()
        if not len(normals):
            raise UserError(
                f"{self.data.version.dir} holds no image to train on: all are in its validation "
                "split"
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
        saver = resume.Saver(self.out, self.job.save_every) if self.ranks.first else None
        # From `done` on, so that events of a killed run are not plotted twice.
        board = Board(self.out, self.job.board and self.ranks.first, self.done)
        log = LossLog(steps, device.type == "cuda", self.watcher, board)
        batches = iter(self._stream())
        # Rates count steps only, without validation and saving.
        clock = Clock()
        # A resumed run may have met the stopping criterion already.
        stop, began = self.stopping.should_stop, self.done
        self.watcher.begin(
            f"{self.data.version.category}: {self.recipe.name}{self.name}", steps, self.done
        )
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
            # Cross-fitting may take longer than these steps, which a kill must not cost again.
            if saver and self.recipe.schedule.folds and self.done > began:
                state = self._state(optimizer, schedule)
                saver.save(state, self.detector, optimizer, self.stopping.best)
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
            dataset = self.data.fitted_sources()
            sampler = SourceSampler(dataset, self.detector.sources(), **place)
        else:
            dataset = self.data.fitted_normals()
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
        out = self.out
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
            seconds=self.spent(),
            optimizer=resume.optimizer_numbers(optimizer),
            schedule=resume.schedule_numbers(schedule),
            history=tuple(self.stopping.history),
            best_step=self.stopping.best_step,
            stale=self.stopping.stale,
        )

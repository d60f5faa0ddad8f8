"""Resume states: what an unfinished training saves, so that a killed run continues bit for bit.

`out/resume/<step>/` is written under another name and renamed; then older states are deleted. It
holds the tensors of model and optimiser as safetensors, and a JSON file with everything else.
States of random generators are not needed: every step is seeded by its number.
"""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detectors.base import Detector
from detectors.training.checkpoint import ValidationPass, load_state, snapshot
from pipeline.errors import IntegrityError, UserError
from pipeline.settings import Settings
from pipeline.utils.files import named_disk_errors, sync, write_atomic
from pipeline.utils.yaml_lines import first_error

RESUME = "resume"
# Beside the states: how many threads the training started with.
THREADS = "threads"
# File names inside a state folder.
STATE, MODEL, OPTIMIZER, BEST = "state.json", "model.st", "optimizer.st", "best.st"
# A state is written every two minutes, or more seldom where writing it (a large model, a slow
# disk) would take more than this share of the time.
SAVE_SECONDS = 120.0
SAVE_SHARE = 0.02
# Names of complete states; unfinished ones start with a dot and do not match.
_STEP = re.compile(r"\d{9}")


class State(Settings):
    """The JSON of a state: identity of the training, progress, optimiser, validation passes."""

    identity: dict[str, Any]
    step: int
    seconds: float
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    history: tuple[ValidationPass, ...] = ()
    best_step: int = 0
    stale: int = 0


class Saver:
    """Writes states by the clock, or every so many steps."""

    def __init__(self, out: Path, every: int | None) -> None:
        self.out, self.every = out, every
        # Seconds that the last write took; 0 before the first one.
        self.last, self.cost = time.monotonic(), 0.0

    def due(self, done: int) -> bool:
        """True when a state should be written after `done` steps."""
        if self.every:
            return done % self.every == 0
        return time.monotonic() - self.last > max(SAVE_SECONDS, self.cost / SAVE_SHARE)

    def save(
        self,
        state: State,
        detector: Detector,
        optimizer: Optimizer,
        best: dict[str, Tensor] | None,
    ) -> None:
        """Write a state, and remember how long that took."""
        began = time.monotonic()
        write(self.out, state, detector, optimizer, best)
        self.last = time.monotonic()
        self.cost = self.last - began


def write(
    out: Path,
    state: State,
    detector: Detector,
    optimizer: Optimizer,
    best: dict[str, Tensor] | None,
) -> None:
    """Write the state of a step atomically, then delete older ones."""
    folder = out / RESUME
    target = folder / f"{state.step:09d}"
    # Hidden and with a suffix, so that `newest` never returns an unfinished state.
    aside = folder / f".{target.name}.tmp"
    # Its file of best weights may be linked instead of written again.
    before = newest(out)
    with named_disk_errors(out):
        # A killed run may have left an unfinished state of the same step.
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        write_atomic(aside / MODEL, bytes_of(snapshot(detector)))
        write_atomic(aside / OPTIMIZER, bytes_of(_optimizer_tensors(optimizer)))
        if best is not None:
            _write_best(aside / BEST, state, best, before)
        # The JSON goes last: a state without it is incomplete.
        write_atomic(aside / STATE, state.model_dump_json().encode())
        # A resumed run may save a step that it already has.
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
        # The rename must reach the disk before older states are deleted.
        sync(folder)
    # Only now is the older state superfluous.
    for other in folder.iterdir():
        if other != target and other.name != THREADS:
            shutil.rmtree(other, ignore_errors=True)


def newest(out: Path) -> Path | None:
    """The folder of the last complete state, or None."""
    folder = out / RESUME
    if not folder.is_dir():
        return None
    return max((path for path in folder.iterdir() if _STEP.fullmatch(path.name)), default=None)


def read_state(folder: Path) -> State:
    """The JSON of a state; IntegrityError when it is damaged."""
    try:
        return State.model_validate_json((folder / STATE).read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"{folder / STATE} is missing; delete {folder.parent}") from None
    except ValidationError as error:
        raise _damaged(folder / STATE, first_error(error, "content", show_input=False)) from None


def restore(
    folder: Path, state: State, detector: Detector, optimizer: Optimizer, schedule: LambdaLR
) -> dict[str, Tensor] | None:
    """Load a state into detector, optimiser and schedule; returns the best weights so far.

    IntegrityError for a damaged or missing file, UserError for tensors that do not fit.
    """
    load_state(detector, _tensors(folder / MODEL), folder)
    _load_optimizer(optimizer, _tensors(folder / OPTIMIZER), state.optimizer, folder)
    # PyTorch expects an entry per lambda; None leaves the ones that the detector built.
    schedule.load_state_dict(state.schedule | {"lr_lambdas": [None] * len(schedule.lr_lambdas)})
    return _tensors(folder / BEST) if (folder / BEST).is_file() else None


def optimizer_numbers(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's state without tensors: options per group, numbers per parameter."""
    content = optimizer.state_dict()
    groups = [
        {name: value for name, value in group.items() if name != "params"}
        for group in content["param_groups"]
    ]
    plain = {
        str(number): {n: v for n, v in values.items() if not isinstance(v, Tensor)}
        for number, values in content["state"].items()
    }
    return {"groups": groups, "plain": plain}


def schedule_numbers(schedule: LambdaLR) -> dict[str, Any]:
    """The schedule's counters; its functions are part of the detector's code."""
    return {name: v for name, v in schedule.state_dict().items() if name != "lr_lambdas"}


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Moments and other tensors of the optimiser as `<parameter number>.<name>`."""
    return {
        f"{number}.{name}": value.detach().to("cpu", copy=True).contiguous()
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _load_optimizer(
    optimizer: Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any], folder: Path
) -> None:
    """The inverse of `_optimizer_tensors` and `optimizer_numbers`."""
    state: dict[int, dict[str, Any]] = {
        int(number): dict(values) for number, values in numbers["plain"].items()
    }
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        # Parameters whose state is all tensors have no entry in `plain`.
        state.setdefault(int(number), {})[name] = value
    content = optimizer.state_dict()
    groups = [
        saved | {"params": own["params"]}
        for own, saved in zip(content["param_groups"], numbers["groups"], strict=False)
    ]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise UserError(f"{folder} is the state of another optimiser: {error}; delete it") from None
    # Moments get the memory layout of their weights (channels_last). In another layout the fused
    # kernels add the same numbers in another order, and the run is no longer bit for bit the same.
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim == 4:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _write_best(path: Path, state: State, best: dict[str, Tensor], before: Path | None) -> None:
    """Write the best weights, or hard-link the previous state's file while they are the same."""
    if before and (before / BEST).is_file() and read_state(before).best_step == state.best_step:
        os.link(before / BEST, path)
    else:
        write_atomic(path, bytes_of(best))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return tensors_of(path.read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; delete {path.parent.parent}") from None
    # The parser raises several unrelated types for damaged bytes.
    except Exception as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is damaged: {reason}; delete {path.parent.parent} to start over")

"""The state of a training that is not over, so that a killed run goes on bit for bit.

`out/resume/<step>/` is made under another name and renamed; then older ones go. It holds the
tensors of model and optimiser as safetensors, and a JSON with everything else. Random numbers need
no saving: every step is seeded by its number.
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
from detectors.training.checkpoint import ValidationPass, fill, first_fault, snapshot
from pipeline.errors import IntegrityError, UserError
from pipeline.settings import Settings
from pipeline.utils.files import naming_the_disk, sync, write_whole

RESUME = "resume"
STATE, MODEL, OPTIMIZER, BEST = "state.json", "model.st", "optimizer.st", "best.st"
SAVE_SECONDS = 120.0
SAVE_SHARE = 0.02
"""A state is written this often, unless writing would take a larger share of the time."""
_STEP = re.compile(r"\d{9}")


class State(Settings):
    """What a state says about itself: whose it is, how far it is, what validation has found."""

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
        self.last, self.cost = time.monotonic(), 0.0

    def due(self, done: int) -> bool:
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
    """Write the state of a step, whole, and drop the one before."""
    folder = out / RESUME
    target = folder / f"{state.step:09d}"
    aside = folder / f".{target.name}.tmp"
    before = newest(out)
    with naming_the_disk(out):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        write_whole(aside / MODEL, bytes_of(snapshot(detector)))
        write_whole(aside / OPTIMIZER, bytes_of(_moments(optimizer)))
        if best is not None:
            _write_best(aside / BEST, state, best, before)
        write_whole(aside / STATE, state.model_dump_json().encode())
        if target.exists():  # a run that was told to save the same step again
            shutil.rmtree(target)
        aside.rename(target)
        sync(folder)
    for other in folder.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def newest(out: Path) -> Path | None:
    """The folder of the last whole state, or None."""
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
        raise _damaged(folder / STATE, first_fault(error)) from None


def restore(
    folder: Path, state: State, detector: Detector, optimizer: Optimizer, schedule: LambdaLR
) -> dict[str, Tensor] | None:
    """Put a state back into detector, optimiser and schedule; returns the best weights so far."""
    fill(detector, _tensors(folder / MODEL), folder)
    _put_moments(optimizer, _tensors(folder / OPTIMIZER), state.optimizer, folder)
    schedule.load_state_dict(state.schedule | {"lr_lambdas": [None] * len(schedule.lr_lambdas)})
    return _tensors(folder / BEST) if (folder / BEST).is_file() else None


def optimizer_numbers(optimizer: Optimizer) -> dict[str, Any]:
    """The part of the optimiser's state that is no tensor: rates by group, and what has a state."""
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
    """The schedule's counters; its functions come with the code."""
    return {name: v for name, v in schedule.state_dict().items() if name != "lr_lambdas"}


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": value.detach().to("cpu", copy=True).contiguous()
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _put_moments(
    optimizer: Optimizer, moments: dict[str, Tensor], numbers: dict[str, Any], folder: Path
) -> None:
    state: dict[int, dict[str, Any]] = {
        int(number): dict(values) for number, values in numbers["plain"].items()
    }
    for key, value in moments.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    content = optimizer.state_dict()
    groups = [
        theirs | {"params": ours["params"]}
        for ours, theirs in zip(content["param_groups"], numbers["groups"], strict=False)
    ]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise UserError(f"{folder} is the state of another optimiser: {error}; delete it") from None
    # The same memory layout as that of the weights: else the same sums are added in another way.
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim == 4:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _write_best(path: Path, state: State, best: dict[str, Tensor], before: Path | None) -> None:
    """The best weights so far; the file of the state before, where they are still the same."""
    if before and (before / BEST).is_file() and read_state(before).best_step == state.best_step:
        os.link(before / BEST, path)
    else:
        write_whole(path, bytes_of(best))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return tensors_of(path.read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; delete {path.parent.parent}") from None
    except Exception as error:  # whatever damaged bytes provoke in the parser
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is damaged: {reason}; delete {path.parent.parent} to start over")

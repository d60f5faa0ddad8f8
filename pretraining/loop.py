"""The training loop of the bundled models: AdamW, warm-up and cosine, averaged weights, resume.

    model = train(model, batches, loss, steps=20_000, folder=Path("out/run"), minutes=50)

`batches(step, progress)` returns the batch of a step: any nesting of tensors, tuples, lists and
dicts. It must depend on its arguments only, so that a resumed run sees the same batches as an
uninterrupted one. `loss(model, batch)` returns a scalar, or a dict of scalars of which `loss` is
minimised and the others are displayed. On CPUs with AMX and on CUDA the forward pass runs in
bfloat16 with channels-last memory, which is three to five times faster there; weights stay float32.

With `minutes` the schedule follows the steps or the clock, whichever is further, so a run on a busy
machine still completes its cosine. Leave it out when results must be reproducible bit by bit.
"""

import copy
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.errors import UserError
from pipeline.models.device import choose

Batches = Callable[[int, float], Any]
Loss = Callable[[nn.Module, Any], Tensor | dict[str, Tensor]]


def train(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    steps: int,
    folder: Path,
    *,
    rate: float = 1e-3,
    warm_up: int = 200,
    decay: float = 0.01,
    clip: float = 1.0,
    average: float = 0.999,
    minutes: float | None = None,
    save_minutes: float = 3.0,
    seed: int = 0,
    device: torch.device | None = None,
    on_save: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Train in place, resuming from `folder/last.pt`; return the averaged model in eval mode.

    `rate` is the peak learning rate, `warm_up` its linear rise in steps, `decay` the weight decay,
    `clip` the largest norm of the gradient, `average` the decay of the averaged weights.
    `on_save(averaged, step)` runs after every checkpoint, for example to export the current state.
    """
    compute = choose(device.type if device else "auto")
    device = device or compute.device
    model.to(device).to(memory_format=torch.channels_last).train()
    # The averaged copy is what is exported: it is smoother than the weights of any single step.
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(_groups(model, decay), lr=rate, betas=(0.9, 0.99), fused=True)
    folder.mkdir(parents=True, exist_ok=True)
    last, step, spent = folder / "last.pt", 0, 0.0
    if last.exists():
        step, spent = _load(last, model, averaged, optimizer)

    began = saved = time.monotonic()
    # Progress goes to standard error, and rarely when that is a log file.
    bar = tqdm(
        total=steps, initial=step, file=sys.stderr, unit="step", dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 15.0,
    )  # fmt: skip
    shown: dict[str, float] = {}
    while True:
        now = time.monotonic()
        used = spent + (now - began) / 60
        # Schedule by steps or by the clock, whichever is further.
        progress = max(step / steps, used / minutes if minutes else 0.0)
        ended = step >= steps or progress >= 1
        if ended or now - saved > save_minutes * 60:
            _save(last, model, averaged, optimizer, step, used)
            if on_save:
                on_save(averaged, step)
            saved = time.monotonic()
        if ended:
            break
        # Dropout and random losses depend on the step alone, so a resumed run repeats them.
        torch.manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = rate * _scale(step, warm_up, progress)
        batch = to_device(batches(step, progress), device)
        with compute.autocast():
            parts = loss(model, batch)
        parts = parts if isinstance(parts, dict) else {"loss": parts}
        # A loss function may return one scalar or named terms.
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
        if torch.isfinite(norm):
            # Skip the step of a batch with a NaN or infinite gradient instead of ending the run.
            optimizer.step()
            # A short average at first: early weights would otherwise stay in it for long.
            _average(averaged, model, min(average, (1 + step) / (10 + step)))
        for name, value in parts.items():
            latest = float(value.detach())
            # Displayed values are exponential averages, as single batches vary much.
            shown[name] = 0.98 * shown.get(name, latest) + 0.02 * latest
        step += 1
        bar.set_postfix({k: f"{v:.4f}" for k, v in shown.items()}, refresh=False)
        bar.update()
    bar.close()
    return averaged.to(memory_format=torch.contiguous_format)


def to_device(batch: Any, device: torch.device) -> Any:
    """The same nesting on the device; images (four axes) in channels-last memory."""
    if isinstance(batch, Tensor):
        # Four axes are images, which convolutions process faster in channels-last memory.
        if batch.ndim == 4:
            return batch.to(device=device, memory_format=torch.channels_last, non_blocking=True)
        return batch.to(device=device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def _scale(step: int, warm_up: int, progress: float) -> float:
    """Share of the peak rate: a linear rise, then half a cosine down to one hundredth."""
    return min(1.0, (step + 1) / max(1, warm_up)) * (
        0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    )


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameter groups: weight decay for matrices and kernels, none for scales and biases."""
    learned = [value for value in model.parameters() if value.requires_grad]
    return [
        {"params": [value for value in learned if value.ndim > 1], "weight_decay": decay},
        {"params": [value for value in learned if value.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, keep: float) -> None:
    ours: list[Tensor] = list(averaged.parameters())
    theirs: list[Tensor] = list(model.parameters())
    # One fused call instead of one per parameter.
    torch._foreach_lerp_(ours, theirs, 1 - keep)
    for mine, its in zip(averaged.buffers(), model.buffers(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(its, 1 - keep)
        else:
            # Integer buffers, such as batch norm's counter, cannot be averaged.
            mine.copy_(its)


def _save(
    path: Path,
    model: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    spent: float,
) -> None:
    # Write aside and rename: an interruption leaves the previous checkpoint intact.
    aside = path.with_suffix(".tmp")
    state = {
        "model": model.state_dict(), "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(), "step": step, "spent": spent,
    }  # fmt: skip
    torch.save(state, aside)
    aside.replace(path)


def _load(
    path: Path, model: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    try:
        # weights_only: a checkpoint must not run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as wrong:
        # A damaged file can raise almost any exception inside torch.load.
        raise UserError(
            f"{path} is not a checkpoint or is damaged; delete it to start again"
        ) from wrong
    try:
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError, TypeError) as wrong:
        raise UserError(
            f"{path} is a checkpoint of another model ({wrong}); name another folder"
        ) from wrong
    return int(state["step"]), float(state["spent"])

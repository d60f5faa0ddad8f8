"""The one training loop of the bundled models: AdamW, warm-up and cosine, averaged weights, resume.

    model = train(model, batches, loss, steps=20_000, folder=Path("out/run"), minutes=50)

`batches(step, progress)` gives the batch of a step, any nesting of tensors, tuples, lists and
dicts; it must depend on its arguments only, so that a resumed run sees what an unbroken one would.
`loss(model, batch)` gives a scalar, or a dict of scalars whose `loss` is minimised and whose rest
is shown. On CPUs with AMX and on CUDA the forward pass runs in bfloat16 with channels-last memory,
which is three to five times faster there; the weights stay float32.

With `minutes` the schedule runs against whichever is further, the steps or the clock, so a run on
a busy machine still ends on a finished cosine. Leave it out when bit-equal repetition matters.
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

    `on_save(averaged, step)` runs after every checkpoint, e.g. to export what there is so far.
    """
    compute = choose(device.type if device else "auto")
    device = device or compute.device
    model.to(device).to(memory_format=torch.channels_last).train()
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(_groups(model, decay), lr=rate, betas=(0.9, 0.99), fused=True)
    folder.mkdir(parents=True, exist_ok=True)
    last, step, spent = folder / "last.pt", 0, 0.0
    if last.exists():
        step, spent = _load(last, model, averaged, optimizer)

    began = saved = time.monotonic()
    bar = tqdm(
        total=steps, initial=step, file=sys.stderr, unit="step", dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 15.0,
    )  # fmt: skip
    shown: dict[str, float] = {}
    while True:
        now = time.monotonic()
        used = spent + (now - began) / 60
        progress = max(step / steps, used / minutes if minutes else 0.0)
        ended = step >= steps or progress >= 1
        if ended or now - saved > save_minutes * 60:
            _save(last, model, averaged, optimizer, step, used)
            if on_save:
                on_save(averaged, step)
            saved = time.monotonic()
        if ended:
            break
        torch.manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = rate * _scale(step, warm_up, progress)
        batch = to_device(batches(step, progress), device)
        with compute.autocast():
            parts = loss(model, batch)
        parts = parts if isinstance(parts, dict) else {"loss": parts}
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
        if torch.isfinite(norm):  # one bad batch must not end a night's run
            optimizer.step()
            _average(averaged, model, min(average, (1 + step) / (10 + step)))
        for name, value in parts.items():
            latest = float(value.detach())
            shown[name] = 0.98 * shown.get(name, latest) + 0.02 * latest
        step += 1
        bar.set_postfix({k: f"{v:.4f}" for k, v in shown.items()}, refresh=False)
        bar.update()
    bar.close()
    return averaged.to(memory_format=torch.contiguous_format)


def to_device(batch: Any, device: torch.device) -> Any:
    """The same nesting on the device; images (four axes) in channels-last memory."""
    if isinstance(batch, Tensor):
        if batch.ndim == 4:
            return batch.to(device=device, memory_format=torch.channels_last, non_blocking=True)
        return batch.to(device=device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def _scale(step: int, warm_up: int, progress: float) -> float:
    """Share of the full rate: a linear rise, then a half cosine down to one hundredth."""
    return min(1.0, (step + 1) / max(1, warm_up)) * (
        0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    )


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only; scales and biases stay free."""
    learned = [value for value in model.parameters() if value.requires_grad]
    return [
        {"params": [value for value in learned if value.ndim > 1], "weight_decay": decay},
        {"params": [value for value in learned if value.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, keep: float) -> None:
    ours: list[Tensor] = list(averaged.parameters())
    theirs: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - keep)
    for mine, its in zip(averaged.buffers(), model.buffers(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(its, 1 - keep)
        else:
            mine.copy_(its)


def _save(
    path: Path,
    model: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    spent: float,
) -> None:
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
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as wrong:  # whatever a damaged or hostile file provokes in the reader
        raise UserError(f"{path} is no checkpoint or damaged; delete it to start again") from wrong
    try:
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError, TypeError) as wrong:
        raise UserError(
            f"{path} is a checkpoint of another model ({wrong}); name another folder"
        ) from wrong
    return int(state["step"]), float(state["spent"])

"""Distil a teacher for the EfficientAD family: a small network that says what a large one says.

    source = extractor("torchvision:wide_resnet101_2", weights)
    pictures = PictureFolder.open(Path("imagenet/train"), recipe.size)
    distil(Recipe(), source, pictures, Path("teacher.safetensors"), compute=resolve())

Two layers of the backbone at 512 px, the coarser brought to the finer's 64 x 64 cells, are joined,
averaged over neighbouring channels down to 384 and normalised by channel; a padded patch
description network learns to say the same of the picture at 256 px, a tenth of them in grey
(Batzner, Heckler, König, "EfficientAD", WACV 2024, appendix). As targets have deviation 1, a loss
of 1 is knowing nothing, and 1 - loss the share of the variance that the student explains.

The file holds the student, and under `distilled` in its metadata where it comes from. A state
beside it lets the same call go on after a stop; on a CPU the result has the same bytes then.

Shapes: B batch; C channels; h, w cells (S/4); S side of the student's picture; 3 colour (RGB).
"""

import json
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, ValidationError
from torch import Tensor

from detectors.distillation.card import (
    UNSTATED,
    check_plan,
    read_card,
    save_student,
    state_file,
)
from detectors.distillation.images import LEAST, PictureFolder, TwoSizes
from detectors.networks.backbones import Extractor, joined
from detectors.networks.pdn import STRIDE, Kind, Pdn
from detectors.networks.teachers import CHANNELS, Moments
from detectors.training.precision import name_of
from detectors.training.progress import Watcher
from pipeline.errors import UserError
from pipeline.models.backbone import normalise
from pipeline.models.device import Compute
from pipeline.settings import Settings
from pipeline.utils.hashing import canonical_json

LATEST = 100
"""Steps over which the loss that is reported is a mean."""


class Recipe(Settings):
    """How a teacher is distilled; the defaults are the paper's."""

    pdn: Kind = Field("small", description="patch description network: small (S) or medium (M)")
    width: float = Field(
        1.0, gt=0, le=4, description="its hidden channels, times this; detectors expect 1"
    )
    size: int = Field(
        256, ge=64, le=1024, multiple_of=32, description="side of the student's picture, px; the "
        "backbone sees twice that",
    )  # fmt: skip
    steps: int = Field(60_000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="pictures per step")
    statistics: int = Field(10_000, ge=2, description="pictures that the channels are measured on")
    grey: float = Field(0.1, ge=0, le=1, description="share of the pictures shown in grey")
    rate: float = Field(1e-4, gt=0, description="learning rate of Adam")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine lets the rate fall to a hundredth; for short runs"
    )
    decay: float = Field(1e-5, ge=0, description="weight decay of Adam")
    seed: int = Field(0, ge=0, description="root of every choice")

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        if self.schedule == "constant":
            return self.rate
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


def recipe_of(**words: Any) -> Recipe:
    """The recipe with some words changed; UserError says what is wrong with one."""
    try:
        return Recipe.model_validate(words)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserError(f"{where}: {fault['msg']}, got {fault['input']!r}") from None


@dataclass(frozen=True, slots=True)
class Origin:
    """What the card says of the backbone's file."""

    weights: str = "random"
    sha256: str = ""
    licence: str = UNSTATED
    terms: str = ""


@dataclass(frozen=True, slots=True)
class Distilled:
    """How it went. `final_loss` is a mean over the last steps; `skipped` gives reasons by name."""

    path: Path
    steps: int
    final_loss: float
    seconds: float
    cached: bool
    skipped: Mapping[str, str]
    card: Mapping[str, Any]


@dataclass(slots=True)
class _State:
    """All that a stopped run needs to go on."""

    student: Pdn
    optimizer: torch.optim.Adam
    mean_C11: Tensor
    deviation_C11: Tensor
    step: int = 0
    seconds: float = 0.0
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    skipped: dict[str, str] = field(default_factory=dict)


def distil(
    recipe: Recipe,
    source: Extractor,
    pictures: PictureFolder,
    out: Path,
    *,
    compute: Compute,
    origin: Origin | None = None,
    workers: int = 0,
    save_minutes: float = 5.0,
    look_seconds: float = 1.0,
    watcher: Watcher | None = None,
) -> Distilled:
    """Distil into the safetensors file `out`; it is complete or not there.

    `look_seconds` lie between two looks at the loss, each of which makes a GPU wait. The same call
    again goes on from the last saved state, or returns at once when all is done.
    UserError when `out` or its state belong to another recipe, backbone or folder.
    """
    watcher = watcher or Watcher()
    plan = plan_of(recipe, source, pictures, origin or Origin())
    finished = read_card(out) if out.exists() else None
    if finished is not None:
        check_plan(out, finished["plan"], plan)
        return Distilled(
            out, recipe.steps, finished["final_loss"], 0.0, True, finished["skipped"], finished
        )
    source = source.to(compute.device).to(memory_format=torch.channels_last)
    state = _resumed(recipe, plan, state_file(out), compute)
    if state is None:
        state = _begun(recipe, source, pictures, compute, workers, watcher)
    watcher.begin("distilling", recipe.steps, state.step)
    began = saved = shown = time.monotonic()
    before = state.seconds
    waiting: list[Tensor] = []
    batches = pictures.stream(recipe.batch_size, recipe.seed, state.step, recipe.grey, workers)
    while state.step < recipe.steps:
        batch = next(batches)
        state.skipped.update(batch.failures)
        waiting.append(_step(recipe, state, source, batch, compute))
        state.step += 1
        now = time.monotonic()
        if now - shown >= look_seconds or state.step == recipe.steps:
            losses = torch.stack(waiting).tolist()
            if not all(map(math.isfinite, losses)):
                raise UserError(
                    f"the loss is no number any more at step {state.step}; lower the rate "
                    f"({recipe.rate:g}), or use precision fp32"
                )
            state.losses.extend(losses)
            watcher.step(state.step, {"loss": sum(losses) / len(losses)})
            waiting, shown = [], now
        if now - saved >= save_minutes * 60 and not waiting and state.step < recipe.steps:
            state.seconds = before + now - began
            _save_state(state, plan, state_file(out))
            saved = now
    watcher.end()
    state.seconds = before + time.monotonic() - began
    card = _card(state, plan, pictures, compute)
    save_student(state.student, card, out)
    state_file(out).unlink(missing_ok=True)
    return Distilled(out, state.step, card["final_loss"], state.seconds, False, state.skipped, card)


def plan_of(
    recipe: Recipe, source: Extractor, pictures: PictureFolder, origin: Origin
) -> dict[str, Any]:
    """All that decides the result, as JSON takes it."""
    return {
        "recipe": recipe.model_dump(), "backbone": source.name, "layers": list(source.layers),
        "weights_sha256": origin.sha256, "weights": origin.weights, "licence": origin.licence,
        "terms": origin.terms, "pictures": len(pictures), "pictures_sha256": pictures.listing,
    }  # fmt: skip


def _begun(
    recipe: Recipe,
    source: Extractor,
    pictures: PictureFolder,
    compute: Compute,
    workers: int,
    watcher: Watcher,
) -> _State:
    """A fresh student, and the channels measured over the first pictures of the training order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        student = Pdn(recipe.pdn, CHANNELS, recipe.width, padded=True)
    moments, skipped = Moments(CHANNELS), dict[str, str]()
    batches = pictures.stream(recipe.batch_size, recipe.seed, 0, recipe.grey, workers)
    count = -(-min(recipe.statistics, len(pictures)) // recipe.batch_size)
    watcher.begin("measuring the channels", count)
    for number, batch in zip(range(count), batches, strict=False):
        skipped.update(batch.failures)
        moments.add(_targets(recipe, source, batch, compute))
        watcher.step(number + 1, {})
    watcher.end()
    if len(pictures) - len(skipped) < LEAST:
        raise UserError(
            f"{pictures.root}: {len(skipped)} of {len(pictures)} image files cannot be read, and "
            f"at least {LEAST} are needed; first: {next(iter(skipped.values()))}"
        )
    deviation_C = moments.deviation_C
    # A channel that never changes has nothing to teach; it is left as it is.
    deviation_C = torch.where(deviation_C > 1e-6, deviation_C, torch.ones_like(deviation_C))
    state = _on_device(recipe, student, moments.mean_C.float(), deviation_C.float(), compute)
    state.skipped = skipped
    return state


def _on_device(
    recipe: Recipe, student: Pdn, mean_C: Tensor, deviation_C: Tensor, compute: Compute
) -> _State:
    student = student.to(compute.device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(
        student.parameters(), lr=recipe.rate, weight_decay=recipe.decay, fused=True
    )
    mean_C11, deviation_C11 = (
        values_C.to(compute.device).view(-1, 1, 1) for values_C in (mean_C, deviation_C)
    )
    return _State(student, optimizer, mean_C11, deviation_C11)


def _step(
    recipe: Recipe, state: _State, source: Extractor, batch: TwoSizes, compute: Compute
) -> Tensor:
    """One step of Adam; its loss, still on the device."""
    raw_BChw = _targets(recipe, source, batch, compute)
    wanted_BChw = (raw_BChw - state.mean_C11) / state.deviation_C11
    with compute.autocast():
        said_BChw = state.student(normalise(_placed(batch.small_B3SS, compute)))
    loss = F.mse_loss(said_BChw.float(), wanted_BChw)
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.rate_at(state.step)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    return loss.detach()


@torch.no_grad()
def _targets(recipe: Recipe, source: Extractor, batch: TwoSizes, compute: Compute) -> Tensor:
    """What the backbone says of a batch, not yet normalised."""
    with compute.autocast():
        maps = source(normalise(_placed(batch.large_B3LL, compute)))
    return joined(maps, recipe.size // STRIDE, CHANNELS)


def _placed(images_B3HW: Tensor, compute: Compute) -> Tensor:
    if compute.device.type == "cuda":
        images_B3HW = images_B3HW.pin_memory()
    return images_B3HW.to(compute.device, non_blocking=True, memory_format=torch.channels_last)


def _card(
    state: _State, plan: Mapping[str, Any], pictures: PictureFolder, compute: Compute
) -> dict[str, Any]:
    return {
        "plan": plan, "steps": state.step, "final_loss": sum(state.losses) / len(state.losses),
        "seconds": round(state.seconds, 1), "device": compute.describe(),
        "precision": name_of(compute), "torch": str(torch.__version__),
        "images_folder": pictures.root.name, "skipped": state.skipped,
        "note": "A student of its backbone: the terms of the backbone's weights and of the "
        "pictures that it was distilled on may bind whoever uses it.",
    }  # fmt: skip


def _save_state(state: _State, plan: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    torch.save(
        {
            "plan": canonical_json(plan).decode(), "student": state.student.state_dict(),
            "optimizer": state.optimizer.state_dict(), "mean_C": state.mean_C11.flatten(),
            "deviation_C": state.deviation_C11.flatten(), "step": state.step,
            "seconds": state.seconds, "losses": list(state.losses), "skipped": state.skipped,
        },
        aside,
    )  # fmt: skip
    aside.replace(path)


def _resumed(
    recipe: Recipe, plan: Mapping[str, Any], path: Path, compute: Compute
) -> _State | None:
    """The state of an earlier run of the same plan, or None."""
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        check_plan(path, json.loads(saved["plan"]), plan)
        student = Pdn(recipe.pdn, CHANNELS, recipe.width, padded=True)
        student.load_state_dict(saved["student"])
        state = _on_device(recipe, student, saved["mean_C"], saved["deviation_C"], compute)
        state.optimizer.load_state_dict(saved["optimizer"])
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file provokes in the reader
        raise UserError(f"{path} is a damaged state; delete it to start again") from error
    state.step, state.seconds = saved["step"], saved["seconds"]
    state.losses.extend(saved["losses"])
    state.skipped = dict(saved["skipped"])
    return state

"""Distil a teacher for the EfficientAD family: a small network that imitates a large one.

    source = extractor("torchvision:wide_resnet101_2", weights)
    images = DistillationImages.open(Path("imagenet/train"), recipe.size)
    distil(Recipe(), source, images, Path("teacher.safetensors"), compute=resolve())

The target is made of two layers of the backbone at 512 px. The coarser one is resized to the finer
one's 64 x 64 cells; both are concatenated, averaged over neighbouring channels down to 384, and
normalised per channel. A padded patch description network (PDN) is trained to predict it from the
image at 256 px, with a tenth of the images in grey (Batzner, Heckler, König, "EfficientAD", WACV
2024, appendix). Targets have a standard deviation of 1, so a constant student has a loss of 1, and
1 - loss is the share of the variance that the student explains.

The file holds the student and, under `distilled` in its metadata, its origin. A state beside it
lets the same call continue after a stop; on a CPU the result then has the same bytes.

Shapes: B batch; C channels; h, w cells (S/4); S side of the student's input; 3 colour (RGB).
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
from detectors.distillation.images import LEAST, DistillationImages, TwoSizes
from detectors.networks.backbones import Extractor, join_layers
from detectors.networks.pdn import STRIDE, Kind, Pdn
from detectors.networks.teachers import CHANNELS, Moments
from detectors.training.precision import precision_name
from detectors.training.progress import Watcher
from pipeline.errors import UserError
from pipeline.models.backbone import normalise
from pipeline.models.device import Compute
from pipeline.settings import Settings
from pipeline.utils.hashing import canonical_json
from pipeline.utils.yaml_lines import first_error

# The reported final loss is a mean over this many steps.
LATEST = 100


class Recipe(Settings):
    """How a teacher is distilled; the defaults are the paper's."""

    # Field names are keys of the plan, which is stored in the file.
    pdn: Kind = Field("small", description="patch description network: small (S) or medium (M)")
    width: float = Field(
        1.0, gt=0, le=4, description="its hidden channels, times this; detectors expect 1"
    )
    size: int = Field(
        256, ge=64, le=1024, multiple_of=32, description="side of the student's input, px; the "
        "backbone gets twice that",
    )  # fmt: skip
    steps: int = Field(60_000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="images per step")
    statistics: int = Field(10_000, ge=2, description="images for the statistics of the channels")
    grey: float = Field(0.1, ge=0, le=1, description="share of the images converted to grey")
    rate: float = Field(1e-4, gt=0, description="learning rate of Adam")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine decays the rate to a hundredth; for short runs"
    )
    decay: float = Field(1e-5, ge=0, description="weight decay of Adam")
    seed: int = Field(0, ge=0, description="random seed")

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        if self.schedule == "constant":
            return self.rate
        # Half a cosine from the full rate to a hundredth of it.
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


def recipe_of(**settings: Any) -> Recipe:
    """The default recipe with some settings changed; UserError for a wrong value."""
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise UserError(first_error(error)) from None


@dataclass(frozen=True, slots=True)
class Origin:
    """The backbone's weight file as the card records it."""

    weights: str = "random"
    sha256: str = ""
    licence: str = UNSTATED
    terms: str = ""


@dataclass(frozen=True, slots=True)
class Distilled:
    """The result. `final_loss` is a mean over the last steps; `skipped` has reasons by file name.

    `cached` says that the file was complete already.
    """

    path: Path
    steps: int
    final_loss: float
    seconds: float
    cached: bool
    skipped: Mapping[str, str]
    card: Mapping[str, Any]


@dataclass(slots=True)
class _State:
    """The resume state: everything that a stopped run needs to continue."""

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
    images: DistillationImages,
    out: Path,
    *,
    compute: Compute,
    origin: Origin | None = None,
    workers: int = 0,
    save_minutes: float = 5.0,
    log_seconds: float = 1.0,
    watcher: Watcher | None = None,
) -> Distilled:
    """Distil into the safetensors file `out`, which is complete or absent.

    The loss is read every `log_seconds`, since each reading makes a GPU wait, and a resume state is
    written every `save_minutes`. The same call again continues from the last saved state, or
    returns at once when the teacher is finished. UserError when `out` or its state belong to
    another recipe, backbone or folder, and when the loss stops being finite.
    """
    watcher = watcher or Watcher()
    # The plan is compared with a finished file first, then with a resume state.
    plan = plan_of(recipe, source, images, origin or Origin())
    finished = read_card(out) if out.exists() else None
    if finished is not None:
        check_plan(out, finished["plan"], plan)
        return Distilled(
            out, recipe.steps, finished["final_loss"], 0.0, True, finished["skipped"], finished
        )
    # Only when there is work: a finished teacher needs no backbone.
    source = source.to(compute.device).to(memory_format=torch.channels_last)
    state = _resumed(recipe, plan, state_file(out), compute)
    if state is None:
        state = _begun(recipe, source, images, compute, workers, watcher)
    watcher.begin("distilling", recipe.steps, state.step)
    # Times of start, of the last state and of the last reading of the loss.
    began = saved = shown = time.monotonic()
    before = state.seconds
    # Losses that are still on the device.
    waiting: list[Tensor] = []
    # From the current step on, so that a resumed run draws the same batches.
    batches = images.stream(recipe.batch_size, recipe.seed, state.step, recipe.grey, workers)
    while state.step < recipe.steps:
        batch = next(batches)
        state.skipped.update(batch.failures)
        waiting.append(_step(recipe, state, source, batch, compute))
        state.step += 1
        now = time.monotonic()
        if now - shown >= log_seconds or state.step == recipe.steps:
            losses = torch.stack(waiting).tolist()
            if not all(map(math.isfinite, losses)):
                raise UserError(
                    f"the loss is not finite at step {state.step}; lower the learning rate "
                    f"({recipe.rate:g}), or use precision fp32"
                )
            state.losses.extend(losses)
            watcher.step(state.step, {"loss": sum(losses) / len(losses)})
            waiting, shown = [], now
        # Only with all losses read and checked: a state must not hold weights with NaN.
        if now - saved >= save_minutes * 60 and not waiting and state.step < recipe.steps:
            state.seconds = before + now - began
            _save_state(state, plan, state_file(out))
            saved = now
    watcher.end()
    state.seconds = before + time.monotonic() - began
    card = _card(state, plan, images, compute)
    save_student(state.student, card, out)
    # The state is deleted only after the teacher is complete.
    state_file(out).unlink(missing_ok=True)
    return Distilled(out, state.step, card["final_loss"], state.seconds, False, state.skipped, card)


def plan_of(
    recipe: Recipe, source: Extractor, images: DistillationImages, origin: Origin
) -> dict[str, Any]:
    """Everything that determines the result, as JSON. Its keys are part of the file format."""
    return {
        "recipe": recipe.model_dump(), "backbone": source.name, "layers": list(source.layers),
        "weights_sha256": origin.sha256, "weights": origin.weights, "licence": origin.licence,
        "terms": origin.terms, "pictures": len(images), "pictures_sha256": images.listing,
    }  # fmt: skip


def _begun(
    recipe: Recipe,
    source: Extractor,
    images: DistillationImages,
    compute: Compute,
    workers: int,
    watcher: Watcher,
) -> _State:
    """A fresh student, and channel statistics over the first images of the training order."""
    # The caller's random state stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        student = Pdn(recipe.pdn, CHANNELS, recipe.width, padded=True)
    # Mean and deviation are accumulated batch by batch.
    moments, skipped = Moments(CHANNELS), dict[str, str]()
    batches = images.stream(recipe.batch_size, recipe.seed, 0, recipe.grey, workers)
    # Batches of the first pass over at most `statistics` images, rounded up.
    count = -(-min(recipe.statistics, len(images)) // recipe.batch_size)
    watcher.begin("channel statistics", count)
    for number, batch in zip(range(count), batches, strict=False):
        skipped.update(batch.failures)
        moments.add(_targets(recipe, source, batch, compute))
        watcher.step(number + 1, {})
    watcher.end()
    # Only now it is known how many files can be read.
    if len(images) - len(skipped) < LEAST:
        raise UserError(
            f"{images.root}: {len(skipped)} of {len(images)} image files cannot be read, and "
            f"at least {LEAST} are needed; first: {next(iter(skipped.values()))}"
        )
    deviation_C = moments.deviation_C
    # A dead channel of the backbone has no deviation to divide by; it stays as it is.
    deviation_C = torch.where(deviation_C > 1e-6, deviation_C, torch.ones_like(deviation_C))
    state = _on_device(recipe, student, moments.mean_C.float(), deviation_C.float(), compute)
    state.skipped = skipped
    return state


def _on_device(
    recipe: Recipe, student: Pdn, mean_C: Tensor, deviation_C: Tensor, compute: Compute
) -> _State:
    """Student, optimiser and statistics on the device, at step 0."""
    student = student.to(compute.device).to(memory_format=torch.channels_last).train()
    # One fused kernel updates all parameters.
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
    """One step of Adam; returns its loss, still on the device."""
    raw_BChw = _targets(recipe, source, batch, compute)
    target_BChw = (raw_BChw - state.mean_C11) / state.deviation_C11
    with compute.autocast():
        predicted_BChw = state.student(normalise(_on_compute(batch.small_B3SS, compute)))
    loss = F.mse_loss(predicted_BChw.float(), target_BChw)
    for group in state.optimizer.param_groups:
        # Set per step instead of by a scheduler, so that no scheduler state has to be saved.
        group["lr"] = recipe.rate_at(state.step)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    return loss.detach()


@torch.no_grad()
def _targets(recipe: Recipe, source: Extractor, batch: TwoSizes, compute: Compute) -> Tensor:
    """(B, C, h, w) features of the backbone for a batch, not yet normalised."""
    with compute.autocast():
        maps = source(normalise(_on_compute(batch.large_B3LL, compute)))
    return join_layers(maps, recipe.size // STRIDE, CHANNELS)


def _on_compute(images_B3HW: Tensor, compute: Compute) -> Tensor:
    # Copies from pinned memory run while the GPU computes.
    if compute.device.type == "cuda":
        images_B3HW = images_B3HW.pin_memory()
    return images_B3HW.to(compute.device, non_blocking=True, memory_format=torch.channels_last)


def _card(
    state: _State, plan: Mapping[str, Any], images: DistillationImages, compute: Compute
) -> dict[str, Any]:
    return {
        "plan": plan, "steps": state.step, "final_loss": sum(state.losses) / len(state.losses),
        "seconds": round(state.seconds, 1), "device": compute.describe(),
        "precision": precision_name(compute), "torch": str(torch.__version__),
        # The name only: a full path may be private.
        "images_folder": images.root.name, "skipped": state.skipped,
        "note": "A student of its backbone: the terms of the backbone's weights and of the "
        "images that it was distilled on may apply to its use.",
    }  # fmt: skip


def _save_state(state: _State, plan: Mapping[str, Any], path: Path) -> None:
    """Write the resume state atomically."""
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
        # weights_only: the file is data, and must not be able to run code.
        saved = torch.load(path, map_location="cpu", weights_only=True)
        # A state of another plan is an error, not a reason to start over silently.
        check_plan(path, json.loads(saved["plan"]), plan)
        student = Pdn(recipe.pdn, CHANNELS, recipe.width, padded=True)
        student.load_state_dict(saved["student"])
        state = _on_device(recipe, student, saved["mean_C"], saved["deviation_C"], compute)
        state.optimizer.load_state_dict(saved["optimizer"])
    except UserError:
        raise
    # torch.load raises many types for damaged files.
    except Exception as error:
        raise UserError(f"{path} is a damaged state; delete it to start over") from error
    state.step, state.seconds = saved["step"], saved["seconds"]
    state.losses.extend(saved["losses"])
    state.skipped = dict(saved["skipped"])
    return state

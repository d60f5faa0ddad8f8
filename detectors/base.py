"""The contract: what a detector is to the trainer, the evaluator, the exporter and the commands.

    detector.prepare(normals)                    # statistics of the frozen parts, before step 0
    losses = detector.losses(batch, step, steps) # named terms; their sum is minimised
    detector.calibrate(train, held_out)          # statistics of the maps, after training
    detector.fuse(normals_NP, pairs_MP, labels_M, kinds_M)  # scales and weights of all parts
    scores = detector(images_B3HW)               # image scores and maps

An image score is made of `parts`, numbers that the fitted networks give, by `combined`. So parts of
images that different fits have not seen (`detectors.training.cross_fit`) can set one common scale.

Everything that scoring needs, from teacher weights to quantiles, is a parameter or a buffer, so a
checkpoint's state dict is the whole detector. Test images reach `forward` only.

Shapes: B batch; N normals; M samples; P parts of a score; H, W image, both `settings.size`; 3
colour (RGB).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.settings import Settings

# Tensors by name as `detectors.data.dataset` makes them, on the device; images uint8, `size` px.
Batch = dict[str, Tensor]
# Batches of one view in a fixed order. Can be iterated any number of times.
Batches = Iterable[Batch]
# What a detector trains on: `image`, or `original`, `edited`, `mask`, `label`, `kind`.
View = Literal["normals", "sources"]


class DetectorSettings(Settings):
    """Settings that every detector has; each adds its own. Defaults are the paper's."""

    # Networks halve the side five times, hence multiples of 32; an unpadded PDN has no cell at 32.
    size: int = Field(
        default=256, ge=64, le=1024, multiple_of=32, description="side of the input image in pixels"
    )
    teacher: str = Field(description="weights registry entry loaded into the frozen network")

    def trains(self) -> bool:
        """Whether a detector with these settings has a network to train, and so takes steps."""
        return True

    def notes(self) -> tuple[str, ...]:
        """Remarks for the user before training, such as what the published method has and this
        lacks."""
        return ()


# Settings of a schedule that mean nothing without training steps.
OF_STEPS = ("steps", "batch_size", "validate_every", "stop_on", "patience", "min_steps")


class Schedule(Settings):
    """How long a detector trains, and when it stops."""

    steps: int = Field(ge=0, description="optimiser steps; 0 for detectors without a loss")
    batch_size: int = Field(ge=1, description="images per step and process")
    validate_every: int = Field(
        default=0,
        ge=0,
        description="steps between two validation passes; 0: validate at the end only",
    )
    # Weights are chosen on validation data only: test images never decide when to stop.
    stop_on: Literal["never", "loss", "synthetics"] = Field(
        default="never",
        description="criterion for early stopping: the loss on fixed validation batches, or the "
        "image AUROC of validation normals against synthetic validation anomalies; the best "
        "weights are kept",
    )
    patience: int = Field(
        default=8, ge=1, description="validation passes without improvement before training stops"
    )
    min_steps: int = Field(
        default=0, ge=0, description="steps before early stopping becomes possible"
    )
    folds: int = Field(
        default=0,
        ge=0,
        le=20,
        description="cross-fitting: the training normals are divided into so many parts, each is "
        "scored by a fit without it, and thresholds and scales come from all these scores; every "
        "part is one more training. 0: from the validation split alone",
    )
    fold_normals: int = Field(
        default=0,
        ge=0,
        description="number of training images that is enough for one fit of cross-fitting: with "
        "many images there are fewer parts than `folds`, but at least two, as long as every fit "
        "still sees so many. 0: always `folds`",
    )

    @field_validator("folds")
    @classmethod
    def _check_folds(cls, folds: int) -> int:
        # A single part would leave nothing to fit.
        if folds == 1:
            raise ValueError("folds is 0 or at least 2")
        return folds

    @model_validator(mode="after")
    def _check_stopping(self) -> "Schedule":
        # Early stopping compares validation passes, so there must be some.
        if self.stop_on != "never" and not self.validate_every:
            raise ValueError("stop_on needs validation passes: set validate_every above 0, too")
        return self

    def folds_of(self, normals: int) -> int:
        """How many parts so many training normals are divided into."""
        parts = range(2, self.folds) if self.fold_normals else ()
        # A fit without one of `count` parts.
        enough = (count for count in parts if normals - -(-normals // count) >= self.fold_normals)
        return next(enough, self.folds)


class Scores(NamedTuple):
    """`image_B` float32, higher is more anomalous, any real number; `maps_BHW` float32 at size."""

    image_B: Tensor
    maps_BHW: Tensor


# Left, top, right, bottom in pixels of the detector's input.
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an image scored high, in words: a rule, what good images have, what this one has.

    `boxes` are around what is wrong, `missing` where something is absent; `rate` is the share of
    good images that deviate from the rule as much, at most; `sure` the probability that it holds.
    """

    rule: str
    expected: str
    found: str
    boxes: tuple[Box, ...]
    missing: tuple[Box, ...]
    rate: float
    sure: float

    def __str__(self) -> str:
        # Never 100 %: nothing is that sure.
        sure = f"{100 * min(self.sure, 0.99):.0f} % sure"
        return f"{self.rule}: expected {self.expected}, found {self.found} ({sure})"


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A part of an image by its name; `mask_HW` is bool, at the detector's input size."""

    name: str
    mask_HW: np.ndarray


class Detector(nn.Module):
    """Base of all detectors. Subclasses set `view` and implement the methods that raise here.

    `forward` and `explain` take uint8 images (B, 3, size, size) and normalise them themselves.
    Frozen parts stay in evaluation mode even after `train()`. Randomness comes from torch's global
    generator, which the trainer seeds for every step.
    """

    # Which view of the dataset version the trainer reads; `sources` includes edited samples.
    view: View = "normals"
    # True where scores are float32 in every precision, so their thresholds serve all.
    exact = False
    # False where `forward` runs more than tensor operations, so that no graph can hold it.
    exportable = True
    # True where `reasons` and `regions` say more than nothing.
    explains = False

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__()
        self.settings = settings

    def prepare(self, normals: Batches) -> None:
        """Collect what the frozen parts need from the training normals, without augmentation.

        Called once before the first step and again after a resume; the same normals give the same
        bytes. Items have `image` and `index`.
        """

    def inherit(self, other: "Detector") -> None:
        """Reuse what another fit of the same settings has computed and this one would again.

        Called before `prepare`. Results do not depend on it.
        """

    def sources(self) -> Any:
        """Which samples it trains on (`SourceSettings`); only where `view` is `sources`."""
        return self.settings.sources()  # type: ignore[attr-defined]

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        """The weighted terms of the loss, scalars by name; the trainer minimises their sum."""
        raise NotImplementedError

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        """The optimiser of the trainable parameters and its schedule, stepped at every step."""
        raise NotImplementedError

    def calibrate(self, train: Batches, held_out: Batches) -> None:
        """Set the statistics of maps and features from normals; never from test images.

        `train` are the normals of the fit, `held_out` others, which it has not seen.
        """

    def parts(self, images_B3HW: Tensor) -> Tensor:
        """The numbers (B, P) float32 that `combined` makes an image score from; P is constant.

        They depend on the fit and on `calibrate`, but not on `fuse`.
        """
        return self(images_B3HW).image_B[:, None]

    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        """Set the scales of the parts, and choose what the settings leave open, such as weights.

        Called after `calibrate` with parts (float64) of normals and of samples that no fit has
        seen. `labels_M` is 1 for synthetic anomalies and 0 for controls, `kinds_M` tells the kinds
        of edits apart (both int64). N and M can be 0.
        """

    def combined(self, parts_BP: Tensor) -> Tensor:
        """Image scores (B,) of parts: `forward(images).image_B == combined(parts(images))`."""
        return parts_BP[:, 0]

    def forward(self, images_B3HW: Tensor) -> Scores:
        """Score images. Run under `torch.inference_mode`, in evaluation mode."""
        raise NotImplementedError

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """The maps that `forward` adds up, by name, each (B, size, size).

        Empty when there is only one. For reports and for TensorBoard.
        """
        return {}

    def reasons(self, images_B3HW: Tensor) -> list[list[Reason]]:
        """Per image what is wrong with it, the most surprising first; none where all is usual.

        Empty lists from detectors that give scores and maps only.
        """
        return [[] for _ in images_B3HW]

    def regions(self, images_B3HW: Tensor) -> list[list[Region]]:
        """Per image the parts that the detector recognises, for pictures that explain a score."""
        return [[] for _ in images_B3HW]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorEntry:
    """One detector of the registry. Its `model.py` exports it as `ENTRY`.

    `build(settings, weights)` makes the network from settings of the profiles' class and the file
    of the teacher that `settings.teacher` names; without a file all weights are random, to be
    filled from a checkpoint. `paper`, `cpu` and `tiny` are settings and schedule of the profiles:
    the published configuration; the one for work without a GPU, on a frozen ImageNet backbone,
    which trains within minutes; and a tiny one for tests. `cpu_is` names a detector that is the
    same one in the profile `cpu`.
    """

    name: str
    summary: str
    citation: str
    # `Any`: each detector takes its own class of settings.
    build: Callable[[Any, Path | None], Detector]
    paper: tuple[DetectorSettings, Schedule]
    cpu: tuple[DetectorSettings, Schedule]
    tiny: tuple[DetectorSettings, Schedule]
    cpu_is: str = ""

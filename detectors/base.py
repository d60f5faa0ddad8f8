"""The contract: what a detector is to the trainer, the evaluator, the exporter and the commands.

    detector.prepare(normals)                    # statistics of the frozen parts, before step 0
    losses = detector.losses(batch, step, steps) # named terms; their sum is minimised
    detector.calibrate(train, validation)        # statistics of the scores, after training
    scores = detector(images_B3HW)               # image scores and maps

Everything that scoring needs, from teacher weights to quantiles, is a parameter or a buffer, so a
checkpoint's state dict is the whole detector. Test images are seen by `forward` alone.

Shapes: B batch; H, W picture, both `settings.size`; 3 colour (RGB).
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.settings import Settings

Batch = dict[str, Tensor]
"""Tensors by name as `detectors.data.dataset` makes them, on the device; images uint8, `size`
px."""
Batches = Iterable[Batch]
"""Batches of one view in a fixed order; may be iterated as often as one likes."""
View = Literal["normals", "sources"]
"""What a detector trains on: `image`, or `original`, `edited`, `mask`, `label`, `kind`."""


class DetectorSettings(Settings):
    """What every detector may be told; each adds its own. Defaults are the paper's."""

    size: int = Field(
        default=256, ge=64, le=1024, multiple_of=32, description="side of the input, px"
    )
    teacher: str = Field(description="entry of the weights registry that the frozen part reads")


class Schedule(Settings):
    """How long a detector trains, and what ends it."""

    steps: int = Field(ge=0, description="optimiser steps; 0 for detectors without a loss")
    batch_size: int = Field(ge=1, description="pictures per step and process")
    validate_every: int = Field(
        default=0,
        ge=0,
        description="steps between two looks at the validation split; 0: at the end only",
    )
    stop_on: Literal["never", "loss", "synthetics"] = Field(
        default="never",
        description="early stopping: on the loss over fixed validation batches, or on the image "
        "AUROC of validation normals against validation synthetics; the best weights are kept",
    )
    patience: int = Field(default=8, ge=1, description="looks without a better one before it stops")
    min_steps: int = Field(default=0, ge=0, description="steps before it may stop")

    @model_validator(mode="after")
    def _check_looks(self) -> "Schedule":
        if self.stop_on != "never" and not self.validate_every:
            raise ValueError("stop_on needs looks to stop at: set validate_every, too")
        return self


class Scores(NamedTuple):
    """`image_B` float32, higher is more anomalous, any real number; `maps_BHW` float32 at size."""

    image_B: Tensor
    maps_BHW: Tensor


class Detector(nn.Module):
    """Base of all detectors. Subclasses set `view`, and implement what raises here.

    `forward` and `explain` take uint8 images (B, 3, size, size) and normalise them themselves.
    Frozen parts stay in evaluation mode whatever `train()` is told. Randomness comes from torch's
    global generator, which the trainer seeds for every step.
    """

    view: View = "normals"

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__()
        self.settings = settings

    def prepare(self, normals: Batches) -> None:
        """Collect what the frozen parts need from the training normals, un-augmented.

        Called once before the first step and again after a resume; the same normals give the same
        bytes. Items have `image` and `index`.
        """

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        """The weighted terms of the loss, scalars by name; the trainer minimises their sum."""
        raise NotImplementedError

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        """The optimiser over what trains, and its schedule over `steps` (stepped every step)."""
        raise NotImplementedError

    def calibrate(self, train: Batches, validation: Batches) -> None:
        """Set the statistics of the scores from normals of both splits; never from test images."""

    def tune(self, normals: Batches, pairs: Batches) -> None:
        """Choose what the settings leave to the validation split, such as weights of a sum.

        Called after `calibrate` with the validation normals and the pairs made from them.
        """

    def forward(self, images_B3HW: Tensor) -> Scores:
        """Score images. Run under `torch.inference_mode`, in evaluation mode."""
        raise NotImplementedError

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """The maps that `forward` sums up, by name, each (B, size, size); empty when there is one.

        For pictures and for TensorBoard.
        """
        return {}

"""A detector of two small convolutions for tests of the trainer, and a program that trains it.

    python tests/helpers/tiny_detector.py VERSION_DIR OUT [KEY=VALUE]...      # also under torchrun

The student learns to imitate a frozen convolution; noise makes every step random.

Shapes: B batch; H, W image; 3 colour.
"""

import os
import signal
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detectors import registry
from detectors.base import (
    Batch,
    Batches,
    Detector,
    DetectorEntry,
    DetectorSettings,
    Schedule,
    Scores,
)
from detectors.training.job import TrainJob
from detectors.training.progress import Watcher
from detectors.training.trainer import train
from pipeline.models.backbone import normalise

NAME = "tiny"


class TinySettings(DetectorSettings):
    """Settings that tests change."""

    size: int = Field(64, ge=64, le=1024, multiple_of=32)
    teacher: str = "bundled-teacher"
    optimizer: str = "adamw"
    rate: float = 0.01
    noise: float = 0.1
    # The step whose loss is NaN; -1: none.
    nan_at: int = -1


class Tiny(Detector):
    """Squared distance of two convolutions, scaled by the mean distance of validation normals."""

    def __init__(self, settings: TinySettings) -> None:
        super().__init__(settings)
        self.chosen = settings
        self.teacher = nn.Conv2d(3, 8, 5, padding=2, stride=4).requires_grad_(False).eval()
        self.student = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2, stride=4), nn.Tanh())
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def prepare(self, normals: Batches) -> None:
        self.mean.copy_(torch.stack([self._target(b["image"]).mean() for b in normals]).mean())

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        noise = torch.randn_like(batch["image"], dtype=torch.float32) * self.chosen.noise
        maps_B1hw = self._distance(batch["image"], noise)
        bad = float("nan") if step == self.chosen.nan_at else 1.0
        weights = next(self.student.parameters())
        return {"distance": maps_B1hw.mean() * bad, "size": weights.square().mean() * 0.01}

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        parameters = self.student.parameters()
        if self.chosen.optimizer == "sgd":
            chosen: Optimizer = SGD(parameters, self.chosen.rate, momentum=0.9)
        else:
            chosen = AdamW(parameters, self.chosen.rate)
        return chosen, LambdaLR(chosen, lambda step: 0.1 if step > 0.8 * steps else 1.0)

    def calibrate(self, train: Batches, validation: Batches) -> None:
        self.scale.copy_(
            torch.cat([self._distance(b["image"]).flatten() for b in validation]).mean()
        )

    def forward(self, images_B3HW: Tensor) -> Scores:
        maps_B1hw = self._distance(images_B3HW) / self.scale
        maps_B1HW = F.interpolate(maps_B1hw, images_B3HW.shape[2:], mode="bilinear")
        return Scores(maps_B1hw.flatten(1).amax(1), maps_B1HW[:, 0])

    def _target(self, images_B3HW: Tensor) -> Tensor:
        return self.teacher(normalise(images_B3HW)).tanh().float()

    def _distance(self, images_B3HW: Tensor, noise: Tensor | float = 0.0) -> Tensor:
        output = self.student(normalise(images_B3HW) + noise).float()
        return (output - self._target(images_B3HW) + self.mean).square().mean(1, keepdim=True)


PROFILE = TinySettings(), Schedule(steps=20, batch_size=2, validate_every=7)
ENTRY = DetectorEntry(
    name=NAME,
    summary="for tests",
    citation="None.",
    build=lambda settings, _: Tiny(settings),
    paper=PROFILE,
    cpu=PROFILE,
    tiny=PROFILE,
)


class StepPrinter(Watcher):
    """Prints a line per step, so a test knows when to kill this program."""

    def step(self, done: int, losses: dict[str, float]) -> None:
        print(f"step {done}", flush=True)
        if done == int(os.environ.get("TINY_DIES_AT", 0)):
            os.kill(os.getpid(), signal.SIGKILL)


def main(version: str, out: str, *words: str) -> None:
    registry.DETECTORS[NAME] = ENTRY  # type: ignore[index]
    changes = dict(word.split("=") for word in words)
    recipe = registry.configure(NAME, "tiny", changes)
    job = TrainJob(
        recipe=recipe, version=Path(version), out=Path(out), device="cpu", precision="fp32",
        save_every=1, board=False,
    )  # fmt: skip
    train(job, StepPrinter())


if __name__ == "__main__":
    main(*sys.argv[1:])

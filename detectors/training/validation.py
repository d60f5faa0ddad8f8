"""Looks at the validation split: what the loss and the synthetics say, and whether to stop.

Real test images are not opened here. Every look shows the same images under the same seeds, so two
looks differ by the weights only, and a resumed run decides as an unbroken one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from detectors.base import Detector, Schedule
from detectors.data.batches import Feed, spread
from detectors.data.dataset import VersionDataset
from detectors.training.calibration import Calibration, calibrate
from detectors.training.checkpoint import ValidationPass, snapshot
from detectors.training.precision_parity import IMAGES, Parity, parity
from detectors.training.seeds import mixed, sow
from detectors.training.tensorboard import PICTURES, Board
from pipeline.dataset.version import Version
from pipeline.models.device import Compute

LOSS_BATCHES = 16
"""Most batches of the validation loss."""
LOOK_PAIRS = 256
"""Most pairs that are scored in a look; the calibration at the end scores all."""


class Validation:
    """The fixed batches of one version for one detector."""

    def __init__(
        self, detector: Detector, version: Version, schedule: Schedule, compute: Compute, seed: int
    ) -> None:
        self.detector, self.schedule, self.compute, self.seed = detector, schedule, compute, seed
        self.size = detector.settings.size
        self.train = VersionDataset.normals(version, "train")
        self.normals = VersionDataset.normals(version, "validation")
        self.pairs = VersionDataset.pairs(version, "validation")
        sources = detector.view == "sources"
        losses = VersionDataset.sources(version, "validation") if sources else self.normals
        chosen = spread(len(losses), LOSS_BATCHES * schedule.batch_size)
        self.loss_feed = self._feed(losses, chosen, schedule.batch_size)

    def look(self, step: int, board: Board) -> ValidationPass:
        """Loss and AUROC as they are after `step` steps; leaves the detector in evaluation mode."""
        loss = self.loss(step)
        found = self.calibrate(spread(len(self.pairs), LOOK_PAIRS))
        board.scalars(step, "validation", {"loss": loss, "auroc": found.auroc})
        board.scalars(step, "validation auroc", found.auroc_by_kind)
        self.show(step, board, found.heat)
        return ValidationPass(
            step=step, loss=loss, auroc=found.auroc, auroc_by_kind=found.auroc_by_kind
        )

    @torch.no_grad()
    def loss(self, step: int) -> float | None:
        """The mean sum of the terms over the fixed batches; None without validation images."""
        self.detector.eval()
        sums: list[Tensor] = []
        for number, batch in enumerate(self.loss_feed):
            sow(mixed(self.seed, number, "validation"), self.compute.device)
            with self.compute.autocast():
                terms = self.detector.losses(batch, step, max(self.schedule.steps, 1))
            sums.append(total_of(terms))
        return float(torch.stack(sums).mean()) if sums else None

    @torch.no_grad()
    def calibrate(self, chosen: list[int] | None = None) -> Calibration:
        """Let the detector set its score statistics, then measure; all pairs, or the chosen ones.

        Without validation normals the training normals stand in for the detector's own statistics,
        which every score needs, and thresholds stay unset.
        """
        normals, pairs = self._feed(self.normals), self._feed(self.pairs, chosen)
        self.detector.eval()
        with self.compute.autocast():
            stand_in = normals if len(normals) else self._feed(self.train)
            self.detector.calibrate(self._feed(self.train), stand_in)
            self.detector.tune(normals, pairs)
        return calibrate(self.detector, normals, pairs, self.compute)

    @torch.no_grad()
    def calibrate_fp32(self) -> Calibration | None:
        """The thresholds of the same detector scored in fp32, as ONNX and other machines do."""
        if not self.compute.reduced:
            return None
        exact = Compute(self.compute.device, torch.float32)
        return calibrate(self.detector, self._feed(self.normals), self._feed(self.pairs), exact)

    def parity(self) -> Parity:
        """Scores in the precision used against fp32, on normals and pairs of the validation."""
        pairs = spread(len(self.pairs), max(IMAGES // 2, IMAGES - len(self.normals)))
        normals = spread(len(self.normals), IMAGES - len(pairs))
        return parity(
            self.detector,
            [*self._feed(self.normals, normals), *self._feed(self.pairs, pairs)],
            self.compute,
        )

    @torch.inference_mode()
    def show(self, step: int, board: Board, heat: tuple[float, float] | None) -> None:
        """Some edited images and their maps on the board."""
        anomalous = np.flatnonzero(self.pairs.view.table.labels_N).tolist()  # type: ignore[attr-defined]
        chosen = [anomalous[place] for place in spread(len(anomalous), PICTURES)]
        for batch in self._feed(self.pairs, chosen):
            with self.compute.autocast():
                maps_BHW = self.detector(batch["edited"]).maps_BHW
            board.pictures(step, batch["edited"], maps_BHW, heat)

    def _feed(
        self, dataset: VersionDataset, chosen: list[int] | None = None, batch_size: int = 0
    ) -> Feed:
        size = batch_size or scoring_batch(self.compute.device)
        return Feed(dataset, size, self.size, self.compute.device, indices=chosen, numbered=False)


@dataclass(eq=False)
class Stopping:
    """Which look was the best so far, its weights, and whether it is time to stop."""

    schedule: Schedule
    best_step: int = 0
    stale: int = 0
    history: list[ValidationPass] = field(default_factory=list)
    best: dict[str, Tensor] | None = None

    @property
    def over(self) -> bool:
        """True when `patience` looks went by without a better one."""
        late = bool(self.history) and self.history[-1].step >= self.schedule.min_steps
        return late and self.stale >= self.schedule.patience

    def take(self, look: ValidationPass, detector: Detector) -> None:
        """Note a look, and keep the weights when it is the best one."""
        best = next((old for old in self.history if old.step == self.best_step), None)
        self.history.append(look)
        rank = self._rank(look)
        if rank is None:
            return
        if best is None or rank > (self._rank(best) or ()):
            self.best_step, self.stale, self.best = look.step, 0, snapshot(detector)
        else:
            self.stale += 1

    def restore(
        self,
        history: Sequence[ValidationPass],
        best_step: int,
        stale: int,
        best: dict[str, Tensor] | None,
    ) -> None:
        """Go on where a saved run was."""
        self.history, self.best_step, self.stale = list(history), best_step, stale
        self.best = best

    def _rank(self, look: ValidationPass) -> tuple[float, ...] | None:
        """Higher is better; among equal AUROCs the lower loss. None: nothing to stop on."""
        if self.schedule.stop_on == "loss" and look.loss is not None:
            return (-look.loss,)
        if self.schedule.stop_on == "synthetics" and look.auroc is not None:
            return (look.auroc, -(look.loss or 0.0))
        return None


def total_of(terms: dict[str, Tensor]) -> Tensor:
    """The sum that is minimised."""
    return torch.stack([value.float() for value in terms.values()]).sum()


def scoring_batch(device: torch.device) -> int:
    """Images per batch when scores are all that is wanted: small on a CPU for its caches."""
    return 8 if device.type == "cpu" else 32

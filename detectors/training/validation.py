"""Validation passes: loss and AUROC on held-out images, and early stopping on either.

Real test images are never read here. Every pass uses the same images under the same seeds, so two
passes differ by the weights alone, and a resumed run decides as an uninterrupted one would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from detectors.base import Detector, Schedule
from detectors.data.batches import Feed, fixed_subset
from detectors.data.dataset import VersionDataset
from detectors.heatmaps import normal_map_range
from detectors.training.calibration import (
    Calibration,
    combined_scores,
    from_scores,
    parts_of,
)
from detectors.training.checkpoint import ValidationPass, snapshot
from detectors.training.fit_data import FitData, sample_places
from detectors.training.held_out import VALIDATION, HeldOut
from detectors.training.precision_parity import IMAGES, Parity, parity
from detectors.training.seeds import derived_seed, set_seeds
from detectors.training.tensorboard import BOARD_IMAGES, Board
from pipeline.models.device import Compute

# A pass should cost seconds, however large the version is: the loss takes at most so many batches,
LOSS_BATCHES = 16
# and AUROC at most so many pairs. The calibration after training scores all of them.
PASS_PAIRS = 256


class Validation:
    """The images that a fit of one detector is judged on, as fixed batches."""

    def __init__(
        self, detector: Detector, data: FitData, schedule: Schedule, compute: Compute, seed: int
    ) -> None:
        self.detector, self.schedule, self.compute, self.seed = detector, schedule, compute, seed
        self.size = detector.settings.size
        self.data, self.fitted = data, data.fitted_normals()
        # The same images in every pass.
        self.normals, self.pairs = data.held_normals(), data.held_pairs()
        # The loss is computed on the view that the detector trains on.
        losses = data.held_sources() if detector.view == "sources" else self.normals
        chosen = fixed_subset(len(losses), LOSS_BATCHES * schedule.batch_size)
        self.loss_feed = self._feed(losses, chosen, schedule.batch_size)

    def validate(self, step: int, board: Board) -> ValidationPass:
        """Loss and AUROC after `step` steps; leaves the detector in evaluation mode."""
        loss = self.loss(step)
        found = self.calibrate(fixed_subset(len(self.pairs), PASS_PAIRS))
        board.scalars(step, "validation", {"loss": loss, "auroc": found.auroc})
        board.scalars(step, "validation auroc", found.auroc_by_kind)
        self.log_images(step, board, found.heat)
        return ValidationPass(
            step=step, loss=loss, auroc=found.auroc, auroc_by_kind=found.auroc_by_kind
        )

    @torch.no_grad()
    def loss(self, step: int) -> float | None:
        """The mean total loss over the fixed batches; None without validation images."""
        self.detector.eval()
        totals: list[Tensor] = []
        # Terms may depend on the step, for example through a schedule of weights.
        for number, batch in enumerate(self.loss_feed):
            # Losses may draw noise; the same seed per batch keeps passes comparable.
            set_seeds(derived_seed(self.seed, number, "validation"), self.compute.device)
            with self.compute.autocast():
                terms = self.detector.losses(batch, step, max(self.schedule.steps, 1))
            totals.append(total_loss(terms))
        return float(torch.stack(totals).mean()) if totals else None

    @torch.no_grad()
    def calibrate(self, chosen: list[int] | None = None) -> Calibration:
        """Let the detector set all its statistics, then measure on all pairs, or the chosen ones.

        Without held-out normals the fitted ones stand in for the detector's own statistics, which
        every score needs, and thresholds stay unset.
        """
        held = self.judge(self.compute, chosen)
        return self.fuse(held)[0]

    def judge(
        self, compute: Compute, chosen: list[int] | None = None, calibrate: bool = True
    ) -> HeldOut:
        """Let the detector calibrate, and return the parts of all held-out images; scores are 0."""
        normals, pairs = self._feed(self.normals), self._feed(self.pairs, chosen)
        self.detector.eval()
        if calibrate:
            self._calibrate(compute)
        normal_parts_NP, _ = parts_of(self.detector, normals, compute)
        pair_parts_MP, columns = parts_of(self.detector, pairs, compute)
        places = sample_places(self.pairs)
        if chosen is not None:
            places = [places[at] for at in chosen]
        nothing = np.zeros(0, np.int64)
        return HeldOut(
            normal_places_N2=np.array(self.data.held, np.int64).reshape(-1, 2),
            normal_parts_NP=normal_parts_NP,
            normal_scores_N=np.zeros(len(normal_parts_NP), np.float32),
            normal_folds_N=np.full(len(normal_parts_NP), VALIDATION),
            pair_places_M2=np.array(places, np.int64).reshape(-1, 2),
            pair_parts_MP=pair_parts_MP,
            pair_scores_M=np.zeros(len(pair_parts_MP), np.float32),
            pair_folds_M=np.full(len(pair_parts_MP), VALIDATION),
            labels_M=columns.get("label", nothing),
            kinds_M=columns.get("kind", nothing),
        )

    @torch.no_grad()
    def _calibrate(self, compute: Compute) -> None:
        """Let the detector set the statistics of its maps."""
        fitted = self._feed(self.fitted)
        # With cross-fitting all fits take their statistics from the images they have seen: few
        # held-out images would be scaled by themselves, and differently in every part. Without any
        # held-out image there is no other choice.
        own = self.schedule.folds or not len(self.normals)
        with compute.autocast():
            self.detector.calibrate(fitted, fitted if own else self._feed(self.normals))

    @torch.no_grad()
    def fuse(self, held: HeldOut) -> tuple[Calibration, HeldOut]:
        """Let the detector scale and weigh its parts; returns the calibration and the scores."""
        normals_NP, pairs_MP = (
            torch.from_numpy(parts) for parts in (held.normal_parts_NP, held.pair_parts_MP)
        )
        labels_M, kinds_M = (torch.from_numpy(each) for each in (held.labels_M, held.kinds_M))
        self.detector.fuse(normals_NP, pairs_MP, labels_M, kinds_M)
        return self.measure(held)

    def measure(self, held: HeldOut) -> tuple[Calibration, HeldOut]:
        """The calibration on held-out images as the detector now combines their parts."""
        scored = held.scored(
            combined_scores(self.detector, held.normal_parts_NP),
            combined_scores(self.detector, held.pair_parts_MP),
        )
        found = from_scores(
            scored.normal_scores_N, scored.pair_scores_M, scored.labels_M, scored.kinds_M
        )
        # The colour scale of heatmaps comes from maps, which are not kept; they are computed again.
        normals = self._feed(self.normals if len(self.normals) else self.fitted)
        heat = normal_map_range(self.detector, normals, self.compute)
        return found.model_copy(update={"heat": heat}), scored

    def parity(self) -> Parity:
        """Scores in the training precision against fp32, on validation normals and pairs."""
        # Half of the images each; where one side has too few, the other fills up.
        pairs = fixed_subset(len(self.pairs), max(IMAGES // 2, IMAGES - len(self.normals)))
        normals = fixed_subset(len(self.normals), IMAGES - len(pairs))
        return parity(
            self.detector,
            [*self._feed(self.normals, normals), *self._feed(self.pairs, pairs)],
            self.compute,
        )

    @torch.inference_mode()
    def log_images(self, step: int, board: Board, heat: tuple[float, float] | None) -> None:
        """Write some edited images and their anomaly maps to the board."""
        # Controls look like normals and would show nothing.
        anomalous = np.flatnonzero(self.pairs.view.table.labels_N).tolist()  # type: ignore[attr-defined]
        chosen = [anomalous[place] for place in fixed_subset(len(anomalous), BOARD_IMAGES)]
        for batch in self._feed(self.pairs, chosen):
            with self.compute.autocast():
                maps_BHW = self.detector(batch["edited"]).maps_BHW
            board.images(step, batch["edited"], maps_BHW, heat)

    def _feed(
        self, dataset: VersionDataset, chosen: list[int] | None = None, batch_size: int = 0
    ) -> Feed:
        size = batch_size or scoring_batch(self.compute.device)
        return Feed(dataset, size, self.size, self.compute.device, indices=chosen, numbered=False)


@dataclass(eq=False)
class EarlyStopping:
    """The best validation pass so far, its weights, and whether it is time to stop."""

    schedule: Schedule
    best_step: int = 0
    stale: int = 0
    history: list[ValidationPass] = field(default_factory=list)
    best: dict[str, Tensor] | None = None

    @property
    def should_stop(self) -> bool:
        """True after `patience` passes without a better one, but not before `min_steps`."""
        # `min_steps` protects detectors whose first passes are noisy.
        late = bool(self.history) and self.history[-1].step >= self.schedule.min_steps
        return late and self.stale >= self.schedule.patience

    def record(self, validation_pass: ValidationPass, detector: Detector) -> None:
        """Append a pass, and keep a copy of the weights when it is the best one."""
        best = next((one for one in self.history if one.step == self.best_step), None)
        self.history.append(validation_pass)
        rank = self._rank(validation_pass)
        if rank is None:
            return
        # Strictly better: among equals the earlier pass is kept.
        if best is None or rank > (self._rank(best) or ()):
            self.best_step, self.stale = validation_pass.step, 0
            self.best = snapshot(detector)
        else:
            self.stale += 1

    def restore(
        self,
        history: Sequence[ValidationPass],
        best_step: int,
        stale: int,
        best: dict[str, Tensor] | None,
    ) -> None:
        """Continue from a resume state."""
        self.history, self.best_step, self.stale = list(history), best_step, stale
        self.best = best

    def _rank(self, validation_pass: ValidationPass) -> tuple[float, ...] | None:
        """Higher is better; None when there is nothing to stop on.

        Equal AUROCs are common with few pairs; the lower loss decides between them.
        """
        loss, auroc = validation_pass.loss, validation_pass.auroc
        if self.schedule.stop_on == "loss" and loss is not None:
            return (-loss,)
        if self.schedule.stop_on == "synthetics" and auroc is not None:
            return (auroc, -(loss or 0.0))
        return None


def total_loss(terms: dict[str, Tensor]) -> Tensor:
    """The sum of the loss terms in float32, which is minimised."""
    return torch.stack([value.float() for value in terms.values()]).sum()


def scoring_batch(device: torch.device) -> int:
    """Images per batch for scoring alone: small on a CPU, whose caches hold a few images."""
    return 4 if device.type == "cpu" else 32

"""PUAD: EfficientAD, and how unusual the picture's mean features are as a whole.

After Sugawara, Imamura, "PUAD: Frustratingly Simple Method for Robust Anomaly Detection", ICIP
2024. EfficientAD's score is the worst cell; a part too many may leave every cell plausible, yet it
moves the mean over the cells. Its Mahalanobis distance from the training normals is a second score.
Each is taken in deviations from the mean of the validation normals, and they are added.

Shapes: B batch; N validation normals; 2 scores: of the map, of the distance; 3 colour; H, W
picture; C channels of the teacher; h, w cells.
"""

from itertools import chain
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from detectors.base import Batches
from detectors.metrics.image import image_metrics
from detectors.models.efficientad import model as efficientad
from detectors.models.efficientad.model import EfficientAd, EfficientAdSettings, Evidence
from detectors.models.puad.mahalanobis import Covariance, Gaussian
from detectors.networks.teachers import Teacher, teacher_for
from pipeline.models.backbone import normalise

WEIGHTS = np.linspace(0, 1, 21)
"""Weights of the map's score that `tune` compares."""


class PuadSettings(EfficientAdSettings):
    """What may be told to PUAD; defaults are the paper's and its code's."""

    covariance: Covariance = Field(
        default="ledoit_wolf", description="estimator; a category has fewer normals than dimensions"
    )
    ridge: float = Field(
        default=1e-3,
        gt=0,
        description="for sample_ridge: share of the mean variance on the diagonal",
    )
    mahalanobis_sqrt: bool = Field(
        default=True,
        description="distances; off = squared ones, whose tail outweighs the map's score",
    )
    fusion_weight: float = Field(
        default=0.5, ge=0, le=1, description="of the map's score; the distance's gets the rest"
    )
    tune_fusion: bool = Field(
        default=False, description="choose that weight on validation normals and synthetics"
    )


class Puad(EfficientAd):
    """EfficientAD with a Gaussian over pooled features; `mean_2`, `deviation_2` scale the scores.

    The image score is twice the weighted mean of both, so equal weights give the paper's sum.
    """

    settings: PuadSettings
    mean_2: Tensor
    deviation_2: Tensor
    weight: Tensor

    def __init__(self, settings: PuadSettings, teacher: Teacher) -> None:
        super().__init__(settings, teacher)
        self.gaussian = Gaussian(teacher.channels, settings.mahalanobis_sqrt)
        self.register_buffer("mean_2", torch.zeros(2))
        self.register_buffer("deviation_2", torch.ones(2))
        self.register_buffer("weight", torch.tensor(settings.fusion_weight))

    def pooled(self, normalised_B3HW: Tensor) -> Tensor:
        """The features (B, C) that the distance is about: what the student says of the teacher."""
        return self.student(normalised_B3HW, self.imitates_teacher).float().mean((2, 3))

    @torch.no_grad()
    def calibrate(self, train: Batches, validation: Batches) -> None:
        """Quantiles of the maps, the Gaussian of the training normals, scales of both scores.

        The scales are those of validation normals: distances of the pictures that the Gaussian was
        fitted to are too small.
        """
        evidence = [self.evidence(batch["image"]) for batch in validation]
        self._set_quantiles(evidence)
        features = [self.pooled(normalise(batch["image"])) for batch in train]
        features_ND = torch.cat(features) if features else self.gaussian.mean_D[None][:0]
        self.gaussian.fit(features_ND, self.settings.covariance, self.settings.ridge)
        scores_N2 = torch.cat([self.two_scores(one, self.fused(one)) for one in evidence]).double()
        deviation_2 = scores_N2.std(0, correction=0)
        self.mean_2.copy_(scores_N2.mean(0))
        self.deviation_2.copy_(torch.where(deviation_2 > 1e-9, deviation_2, 1.0))
        self.weight.fill_(self.settings.fusion_weight)

    @torch.no_grad()
    def tune(self, normals: Batches, pairs: Batches) -> None:
        """With `tune_fusion`: the weight that tells the synthetics best from the normals.

        Controls count as normals. Of equally good weights, the one nearest to equal is taken.
        """
        if not self.settings.tune_fusion:
            return
        scores, labels = [], []
        for batch in chain(normals, pairs):
            evidence = self.evidence(batch["edited" if "edited" in batch else "image"])
            scores.append(self.deviations(evidence, self.fused(evidence)).cpu().numpy())
            labels.append(batch["label"].cpu().numpy() if "label" in batch
                          else np.zeros(len(scores[-1]), np.int64))  # fmt: skip
        if not scores:
            return
        scores_N2, labels_N = np.concatenate(scores).astype(np.float64), np.concatenate(labels)
        if len(np.unique(labels_N)) < 2:
            return
        reached = [
            image_metrics(labels_N, scores_N2 @ [weight, 1 - weight]).image_auroc or 0.0
            for weight in WEIGHTS
        ]
        best = min(range(len(WEIGHTS)), key=lambda at: (-reached[at], abs(WEIGHTS[at] - 0.5)))
        self.weight.fill_(float(WEIGHTS[best]))

    def image_scores(self, evidence: Evidence, fused_Bhw: Tensor) -> Tensor:
        deviations_B2 = self.deviations(evidence, fused_Bhw)
        weights_2 = torch.stack((self.weight, 1 - self.weight))
        return 2 * (deviations_B2 * weights_2).sum(1)

    def deviations(self, evidence: Evidence, fused_Bhw: Tensor) -> Tensor:
        """Both scores (B, 2) with mean 0 and deviation 1 over the validation normals."""
        return (self.two_scores(evidence, fused_Bhw) - self.mean_2) / self.deviation_2

    def two_scores(self, evidence: Evidence, fused_Bhw: Tensor) -> Tensor:
        """(B, 2): the highest cell of the map, and the distance of the pooled features."""
        return torch.stack((fused_Bhw.amax((1, 2)), self.gaussian(evidence.pooled_BC)), 1)


def build(settings: PuadSettings, weights: Path | None) -> Puad:
    """PUAD on the teacher that `settings.teacher` names."""
    detector = Puad(settings, teacher_for(settings.teacher, weights))
    return detector.to(memory_format=torch.channels_last)


PAPER = (PuadSettings(), efficientad.PAPER[1])
TINY = (PuadSettings(**efficientad.TINY[0].model_dump()), efficientad.TINY[1])

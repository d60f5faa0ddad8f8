"""PUAD: EfficientAD plus the Mahalanobis distance of the image's mean features.

After Sugawara, Imamura, "PUAD: Frustratingly Simple Method for Robust Anomaly Detection", ICIP
2024. EfficientAD's image score is its worst cell. A surplus part can leave every cell plausible and
still shift the mean over the cells ("unpicturable" anomalies). The Mahalanobis distance of that
mean from the training normals is a second score. Both are standardised on the validation normals
and added.

Shapes: B batch; N validation normals; 2 scores: of the map, of the distance; 3 colour; H, W
image; C channels of the teacher; h, w cells.
"""

from itertools import chain
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from detectors.base import Batches, DetectorEntry
from detectors.metrics.image import image_metrics
from detectors.models.efficientad.model import ENTRY as EFFICIENTAD
from detectors.models.efficientad.model import EfficientAd, RawOutputs
from detectors.models.efficientad.settings import EfficientAdSettings
from detectors.models.puad.mahalanobis import Covariance, Gaussian
from detectors.networks.teachers import Teacher, teacher_for
from pipeline.models.backbone import normalise

# Weights of the map's score that `tune` compares.
WEIGHTS = np.linspace(0, 1, 21)


class PuadSettings(EfficientAdSettings):
    """Defaults are those of the paper and its released code."""

    # As in the released code.
    covariance: Covariance = Field(
        default="ledoit_wolf",
        description="estimator of the feature covariance; ledoit_wolf also works with fewer "
        "training normals than feature dimensions",
    )
    ridge: float = Field(
        default=1e-3,
        gt=0,
        description="for sample_ridge: share of the mean variance added to the diagonal",
    )
    # The released code takes the root.
    mahalanobis_sqrt: bool = Field(
        default=True,
        description="use the distance; false = its square, whose heavy tail outweighs the map's "
        "score",
    )
    fusion_weight: float = Field(
        default=0.5, ge=0, le=1, description="weight of the map's score; the distance has the rest"
    )
    tune_fusion: bool = Field(
        default=False,
        description="choose fusion_weight by the AUROC on validation normals and synthetics",
    )


class Puad(EfficientAd):
    """EfficientAD with a Gaussian over pooled features.

    `mean_2` and `deviation_2` standardise the two scores. The image score is twice their weighted
    mean, so equal weights give the paper's sum.
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
        """Features (B, C) for the distance: the spatial mean of the student's first half."""
        return self.student(normalised_B3HW, self.imitates_teacher).float().mean((2, 3))

    @torch.no_grad()
    def calibrate(self, train: Batches, validation: Batches) -> None:
        """Quantiles of the maps, the Gaussian of the training normals, scales of both scores.

        The scales come from validation normals: distances of the images that the Gaussian was
        fitted to are too small.
        """
        raw = [self.raw_outputs(batch["image"]) for batch in validation]
        # First the quantiles, as the map's score depends on them.
        self._set_quantiles(raw)
        features = [self.pooled(normalise(batch["image"])) for batch in train]
        # Without training normals `fit` raises its own error on an empty tensor.
        features_ND = torch.cat(features) if features else self.gaussian.mean_D[None][:0]
        self.gaussian.fit(features_ND, self.settings.covariance, self.settings.ridge)
        # Population statistics in float64, as in PUAD's released code.
        scores_N2 = torch.cat([self.two_scores(one, self.fused_map(one)) for one in raw]).double()
        deviation_2 = scores_N2.std(0, correction=0)
        self.mean_2.copy_(scores_N2.mean(0))
        # A few equal validation images have no spread; leave their scores unscaled.
        self.deviation_2.copy_(torch.where(deviation_2 > 1e-9, deviation_2, 1.0))
        # A run that calibrates again must not keep a weight tuned before.
        self.weight.fill_(self.settings.fusion_weight)

    @torch.no_grad()
    def tune(self, normals: Batches, pairs: Batches) -> None:
        """With `tune_fusion`: the weight with the best AUROC of synthetics against normals.

        Controls count as normals. Among equally good weights, the one nearest to 0.5 wins.
        """
        if not self.settings.tune_fusion:
            return
        # Score the validation normals (label 0) and the edited images of the pairs.
        scores, labels = [], []
        for batch in chain(normals, pairs):
            raw = self.raw_outputs(batch["edited" if "edited" in batch else "image"])
            scores.append(self.standardised_scores(raw, self.fused_map(raw)).cpu().numpy())
            labels.append(batch["label"].cpu().numpy() if "label" in batch
                          else np.zeros(len(scores[-1]), np.int64))  # fmt: skip
        if not scores:
            return
        scores_N2, labels_N = np.concatenate(scores).astype(np.float64), np.concatenate(labels)
        # An AUROC needs both classes.
        if len(np.unique(labels_N)) < 2:
            return
        # Compare all weights by image AUROC.
        aurocs = [
            image_metrics(labels_N, scores_N2 @ [weight, 1 - weight]).image_auroc or 0.0
            for weight in WEIGHTS
        ]
        best = min(range(len(WEIGHTS)), key=lambda at: (-aurocs[at], abs(WEIGHTS[at] - 0.5)))
        self.weight.fill_(float(WEIGHTS[best]))

    def image_scores(self, raw: RawOutputs, fused_Bhw: Tensor) -> Tensor:
        scores_B2 = self.standardised_scores(raw, fused_Bhw)
        weights_2 = torch.stack((self.weight, 1 - self.weight))
        # Twice the mean, so that equal weights give the plain sum of the paper.
        return 2 * (scores_B2 * weights_2).sum(1)

    def standardised_scores(self, raw: RawOutputs, fused_Bhw: Tensor) -> Tensor:
        """Both scores (B, 2), with mean 0 and deviation 1 over the validation normals."""
        return (self.two_scores(raw, fused_Bhw) - self.mean_2) / self.deviation_2

    def two_scores(self, raw: RawOutputs, fused_Bhw: Tensor) -> Tensor:
        """(B, 2): the highest cell of the map, and the distance of the pooled features."""
        return torch.stack((fused_Bhw.amax((1, 2)), self.gaussian(raw.pooled_BC)), 1)


def build(settings: PuadSettings, weights: Path | None) -> Puad:
    """PUAD with the teacher that `settings.teacher` names."""
    detector = Puad(settings, teacher_for(settings.teacher, weights))
    return detector.to(memory_format=torch.channels_last)


# PUAD adds no training to EfficientAD, so it shares EfficientAD's schedules and tiny config.
ENTRY = DetectorEntry(
    name="puad",
    summary="EfficientAD plus a distance of the image's mean features from the normals (PUAD)",
    citation="S. Sugawara, R. Imamura: PUAD: Frustratingly Simple Method for Robust Anomaly "
    "Detection. ICIP 2024.",
    build=build,
    paper=(PuadSettings(), EFFICIENTAD.paper[1]),
    tiny=(PuadSettings(**EFFICIENTAD.tiny[0].model_dump()), EFFICIENTAD.tiny[1]),
)

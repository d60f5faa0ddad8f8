"""PUAD: EfficientAD plus the Mahalanobis distance of the image's mean features.

After Sugawara, Imamura, "PUAD: Frustratingly Simple Method for Robust Anomaly Detection", ICIP
2024. EfficientAD's image score is its worst cell. A surplus part can leave every cell plausible and
still shift the mean over the cells ("unpicturable" anomalies). The Mahalanobis distance of that
mean from the training normals is a second score. Both are standardised on the validation normals
and added.

Shapes: B batch; N validation normals; 2 scores: of the map, of the distance; 3 colour; H, W
image; C channels of the teacher; h, w cells.
"""

from pathlib import Path

import torch
from torch import Tensor

from detectors.base import Batches, Detector, DetectorEntry, Schedule
from detectors.models.efficientad.model import ENTRY as EFFICIENTAD
from detectors.models.efficientad.model import EfficientAd, RawOutputs
from detectors.models.puad.frozen import FrozenPuad
from detectors.models.puad.settings import PuadSettings
from detectors.networks.fusion import WEIGHTS, fused, scales, separation_at
from detectors.networks.mahalanobis import Gaussian
from detectors.networks.teachers import Teacher, teacher_for
from pipeline.models.backbone import normalise
from pipeline.models.trunks import trunk_of


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
    def calibrate(self, train: Batches, held_out: Batches) -> None:
        """Quantiles of the maps, and the Gaussian of the training normals."""
        super().calibrate(train, held_out)
        features = [self.pooled(normalise(batch["image"])) for batch in train]
        # Without training normals `fit` raises its own error on an empty tensor.
        features_ND = torch.cat(features) if features else self.gaussian.mean_D[None][:0]
        self.gaussian.fit(features_ND, self.settings.covariance, self.settings.ridge)

    def parts(self, images_B3HW: Tensor) -> Tensor:
        raw = self.raw_outputs(images_B3HW)
        return self.two_scores(raw, self.fused_map(raw))

    @torch.no_grad()
    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        """The scales of both scores, and with `tune_fusion` the weight that separates best.

        Scales come from images that the fit has not seen, whose distances from the Gaussian are
        larger than those of the images it was fitted to. Among equally good weights, the one
        nearest to 0.5 wins.
        """
        # A run that calibrates again must not keep a weight tuned before.
        self.weight.fill_(self.settings.fusion_weight)
        if not len(normals_NP):
            return
        mean_2, deviation_2 = scales(normals_NP)
        self.mean_2.copy_(mean_2)
        self.deviation_2.copy_(deviation_2)
        if not (self.settings.tune_fusion and len(pairs_MP)):
            return
        normals_N2, pairs_M2 = (
            (parts.to(self.mean_2) - self.mean_2) / self.deviation_2
            for parts in (normals_NP, pairs_MP)
        )
        found = [
            separation_at(weight, self.settings.fusion, normals_N2, pairs_M2, labels_M)
            for weight in WEIGHTS.tolist()
        ]
        # None without anomalies.
        if found[0] is None:
            return
        best = min(range(len(WEIGHTS)), key=lambda at: (-(found[at] or 0), abs(WEIGHTS[at] - 0.5)))
        self.weight.fill_(float(WEIGHTS[best]))

    def combined(self, parts_BP: Tensor) -> Tensor:
        scaled_B2 = (parts_BP - self.mean_2) / self.deviation_2
        return fused(scaled_B2, self.weight, self.settings.fusion)

    def image_scores(self, raw: RawOutputs, fused_Bhw: Tensor) -> Tensor:
        return self.combined(self.two_scores(raw, fused_Bhw))

    def two_scores(self, raw: RawOutputs, fused_Bhw: Tensor) -> Tensor:
        """(B, 2): the highest pixel of the map, and the distance of the pooled features."""
        return torch.stack((self.map_scores(fused_Bhw), self.gaussian(raw.pooled_BC)), 1)


def build(settings: PuadSettings, weights: Path | None) -> Detector:
    """PUAD on the teacher that `settings.teacher` names."""
    if settings.networks == "frozen":
        return FrozenPuad(settings, trunk_of(settings.teacher, weights))
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
    cpu=(
        PuadSettings(
            teacher="efficientnet-lite0",
            networks="frozen",
            fusion="max",
            tune_fusion=True,
            penalty="none",
            # With the whole image alone, parts that stay in their compartments are hard to tell.
            regions=(1, 2, 3, 4, 6, 8),
        ),
        Schedule(steps=0, batch_size=8, folds=5),
    ),
    tiny=(PuadSettings(**EFFICIENTAD.tiny[0].model_dump()), EFFICIENTAD.tiny[1]),
    cpu_is="laead",
)

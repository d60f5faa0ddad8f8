"""All metrics of one detector on one test split: add images to `Evaluation`, get one record.

    evaluation = Evaluation(version.index["defects_config"])
    for pixels_HW3, masks_KHW, values_K, record in version.test_images():
        score, map_HW = ...                                   # at the masks' size, float32
        evaluation.add(score, map_HW, masks_KHW, values_K, record["defect"], record["name"])
    evaluation.result().to_json()

A metric that does not exist is None, never 0 or NaN, and `notes` gives the reason. The definitions
are in the modules beside this one: `image`, `per_type` and `bootstrap` for scores; `aupro`,
`pixel`, `instance_ap` and `spro` for maps, over `pixel_stream` and `value_counts`.

Shapes: N images; H, W map and masks; K ground-truth channels; P points of a curve.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.metrics.bootstrap import LEVEL, RESAMPLES, Interval
from detectors.metrics.image import METRICS as IMAGE_METRICS
from detectors.metrics.per_type import LOCO_GROUPS, Row, group_metrics, group_of, mean_of
from detectors.metrics.pixel_stream import NO_MAP, NO_MARKS, PixelMetrics, PixelStream
from pipeline.errors import UserError
from pipeline.records import GOOD

# In the order of reports. `spro` is AU-sPRO up to a false positive rate of 0.05.
METRICS = (
    "image_auroc", "image_ap", "image_f1", "precision_at_recall_90",
    "iap", "iap90", "pixel_auroc", "pixel_ap", "aupro", "spro",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Metrics of one set of images: all pooled, one group, or the mean of MVTec LOCO's two groups.

    `metrics` has every name of `METRICS`; those that are None have a reason in `notes`. `intervals`
    (95 %, bootstrap) has the image-level names. The `anomalous` images are compared with all good
    ones; `regions` is the number of 8-connected components in their masks.
    """

    anomalous: int
    regions: int
    metrics: dict[str, float | None]
    intervals: dict[str, Interval | None]
    image_f1_threshold: float | None
    aupro_at: dict[float, float]
    spro_at: dict[float, float]
    notes: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists; the keys are part of the report format."""
        return {
            # Counts first, then the metrics under their own names.
            "anomalous": self.anomalous,
            "regions": self.regions,
            **self.metrics,
            "image_f1_threshold": self.image_f1_threshold,
            "aupro_at": {str(limit): area for limit, area in self.aupro_at.items()},
            "spro_at": {str(limit): area for limit, area in self.spro_at.items()},
            "intervals": {name: pair and list(pair) for name, pair in self.intervals.items()},
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationResult:
    """All results of a test split. `pooled` holds the command's numbers, over all anomalies.

    `per_type` has one entry per anomaly type, on MVTec LOCO `logical` and `structural`; `mean` is
    the mean of these two, else None. `roc_P2` and `pr_P2` are the curves of all images, as in
    `image.ImageMetrics`. Per image, in the order of adding: `names_N`, `types_N`, `labels_N`
    (int64, 0 or 1), `scores_N` (float64).
    """

    pooled: Measured
    per_type: dict[str, Measured]
    mean: Measured | None
    roc_P2: np.ndarray
    pr_P2: np.ndarray
    names_N: tuple[str, ...]
    types_N: tuple[str, ...]
    labels_N: np.ndarray
    scores_N: np.ndarray

    @property
    def metrics(self) -> dict[str, float | None]:
        """The pooled metrics, under the names of `METRICS`."""
        return self.pooled.metrics

    @property
    def notes(self) -> dict[str, str]:
        """Why a pooled metric is None, which images were left out, and other remarks."""
        return self.pooled.notes

    def to_json(self, details: bool = False) -> dict[str, Any]:
        """Plain numbers, strings and lists; with `details` also the images and the curves."""
        # Keys stay flat for the pooled numbers: the command prints them at the top.
        content = {
            "images": len(self.names_N),
            "good": len(self.names_N) - self.pooled.anomalous,
            **self.pooled.to_json(),
            "per_type": {name: measured.to_json() for name, measured in self.per_type.items()},
            "mean": self.mean and self.mean.to_json(),
        }
        # Curves and scores are large; the command prints them only on request.
        if details:
            content["curves"] = {"roc": self.roc_P2.tolist(), "pr": self.pr_P2.tolist()}
            rows = zip(self.names_N, self.types_N, self.scores_N.tolist(), strict=True)
            content["scores"] = [{"name": n, "type": t, "score": s} for n, t, s in rows]
        return content


class Evaluation:
    """Takes scored images one at a time and gives every metric at the end.

    `defects_config`: the entries of MVTec LOCO's file, which AU-sPRO needs. `saturation_scale`: see
    `PixelStream`. `resamples` and `seed` are the bootstrap's.
    """

    def __init__(
        self,
        defects_config: Sequence[Mapping[str, Any]] | None = None,
        *,
        saturation_scale: float = 1.0,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        # Maps are reduced at once; only scores, types and names are kept per image.
        self._pixels = PixelStream(defects_config, saturation_scale)
        self._resamples, self._seed = resamples, seed
        self._images: list[tuple[str, str, float]] = []

    def add(
        self,
        score: float,
        map_HW: np.ndarray | None,
        masks_KHW: np.ndarray,
        values_K: np.ndarray,
        type: str,
        name: str = "",
    ) -> None:
        """Add one test image; `type` is `good` or its anomaly type.

        `map_HW` is float32 at the masks' size or None, `masks_KHW` bool, `values_K` uint8.
        UserError for a score or map that is not finite and for arrays that do not fit; the image
        is then not added.
        """
        # Errors name the image by number, and by name where it has one.
        what = f"image {len(self._images)}" + (f" ({name})" if name else "")
        if not np.isfinite(score):
            raise UserError(
                f"{what}: the score is {score}, expected a finite number; the detector's training "
                "diverged: check its loss"
            )
        # The pixel stream checks its arrays before it keeps anything, so an error leaves no trace.
        self._pixels.add(map_HW, masks_KHW, values_K, type, what)
        self._images.append((name, type, float(score)))

    def result(self) -> EvaluationResult:
        """All metrics of the images added so far."""
        # zip(*[]) yields nothing to unpack.
        names, types, scores = zip(*self._images, strict=True) if self._images else ((), (), ())
        scores_N = np.array(scores, np.float64)
        # Image metrics and pixel metrics are computed separately and merged by group.
        by_image = group_metrics(types, scores_N, self._resamples, self._seed)
        by_pixel = self._pixels.result()
        counts = Counter(group_of(type) for type in types if type != GOOD)
        per_type = {
            group: _measured(row, by_pixel.groups[group], counts[group])
            for group, row in by_image.groups.items()
        }
        pooled = _measured(by_image.pooled, by_pixel.pooled, sum(counts.values()))
        mean = _mean(by_image.mean, [per_type[group] for group in LOCO_GROUPS if group in per_type])
        # The frozen record holds a mutable dictionary, which is complete only here.
        pooled.notes.update(self._remarks(set(counts)))
        curves = by_image.pooled.metrics
        # Rows of groups and of the pool always have metrics; only the mean has none.
        assert curves is not None
        return EvaluationResult(
            pooled, per_type, mean, curves.roc_P2, curves.pr_P2, names, types,
            np.array([type != GOOD for type in types], np.int64), scores_N,
        )  # fmt: skip

    def _remarks(self, groups: set[str]) -> dict[str, str]:
        """Remarks on the pooled numbers; their keys differ from the names of metrics."""
        remarks = {}
        anomalous = sum(type != GOOD for _, type, _ in self._images)
        left_out = {
            NO_MARKS: f"of {anomalous} anomalous images have no mask or an empty one: image "
            "metrics count them, pixel metrics leave them out",
            NO_MAP: f"of {len(self._images)} images have no map: pixel metrics leave them out",
        }
        if self._pixels.left_out:
            remarks["left_out"] = "; ".join(
                f"{count} {left_out[reason]}" for reason, count in self._pixels.left_out.items()
            )
        # On MVTec LOCO readers expect the mean of two groups; say which number is printed.
        loco = groups & set(LOCO_GROUPS)
        if len(loco) == 2:
            remarks["pooled"] = (
                "over all anomalous images together, except spro, which is the mean of logical and "
                "structural; `mean` holds that mean for every metric, as usual for MVTec LOCO"
            )
        elif loco:
            remarks["pooled"] = f"of MVTec LOCO's two kinds only {loco.pop()} anomalies are present"
        remarks["intervals"] = (
            f"{LEVEL:.0%} bootstrap intervals over images, {self._resamples} resamples, seed "
            f"{self._seed}"
        )
        return remarks


def _measured(row: Row, pixels: PixelMetrics, anomalous: int) -> Measured:
    """Image and pixel metrics of one group in one record."""
    assert row.metrics is not None
    values = row.values | pixels.values
    # Image metrics share one reason: a missing class.
    notes = pixels.reasons | {
        name: row.metrics.reason for name in IMAGE_METRICS if values[name] is None
    }
    return Measured(
        anomalous=anomalous,
        regions=pixels.regions,
        metrics={name: values[name] for name in METRICS},
        intervals=row.intervals,
        image_f1_threshold=row.metrics.image_f1_threshold,
        aupro_at=pixels.aupro_at,
        spro_at=pixels.spro_at,
        notes={name: notes[name] for name in METRICS if name in notes},
    )


def _mean(row: Row | None, groups: Sequence[Measured]) -> Measured | None:
    """The plain mean of MVTec LOCO's two groups, each compared with all good images."""
    if row is None:
        return None
    # Each group is compared with all good images, as in the official evaluator.
    metrics = mean_of([group.metrics for group in groups])
    missing = [name for name, value in metrics.items() if value is None]
    return Measured(
        anomalous=sum(group.anomalous for group in groups),
        regions=sum(group.regions for group in groups),
        metrics=metrics,
        intervals=row.intervals,
        image_f1_threshold=None,
        aupro_at=_mean_areas([group.aupro_at for group in groups]),
        spro_at=_mean_areas([group.spro_at for group in groups]),
        # The first group that lacks the metric supplies the reason.
        notes={name: next(g.notes[name] for g in groups if name in g.notes) for name in missing},
    )


def _mean_areas(areas: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """The mean at every limit that all groups have."""
    # A group without areas has none at any limit, so the mean has none either.
    limits = [limit for limit in areas[0] if all(limit in area for area in areas)]
    return {limit: sum(area[limit] for area in areas) / len(areas) for limit in limits}

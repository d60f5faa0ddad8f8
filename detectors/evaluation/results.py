"""The result of an evaluation: the record that reports, commands and comparisons read.

Shapes: N test images.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectors.metrics.evaluation import METRICS, EvaluationResult
from detectors.metrics.per_type import group_of
from detectors.training.calibration import Calibration
from detectors.training.checkpoint import Card
from pipeline.records import GOOD

# Number of the format of report.json, for programs that read stored reports.
FORMAT = 1
# The thresholds of a calibration that scores are compared with, strictest first. An image counts as
# anomalous when `score >= threshold`.
THRESHOLDS = ("threshold_1", "threshold_5", "threshold_f1")


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One test image: `over` says which thresholds its score reaches.

    `defects` are the names of its defects where the source names them.
    """

    name: str
    type: str
    defects: tuple[str, ...]
    score: float
    over: Mapping[str, bool]

    @property
    def label(self) -> int:
        """0 for a good image, 1 for an anomalous one."""
        return int(self.type != GOOD)

    @property
    def group(self) -> str:
        """`good`, or the name of its type in the tables."""
        return group_of(self.type)


@dataclass(frozen=True, slots=True)
class ThresholdResult:
    """Detections at one threshold of the checkpoint; a rate is None without images of its class.

    `found` of `anomalous` and `false_alarms` of `good` test images reach the threshold.
    """

    threshold: float
    false_alarms: int
    good: int
    found: int
    anomalous: int
    recall_by_type: Mapping[str, float]

    @property
    def false_positive_rate(self) -> float | None:
        return self.false_alarms / self.good if self.good else None

    @property
    def recall(self) -> float | None:
        return self.found / self.anomalous if self.anomalous else None

    def to_json(self) -> dict[str, Any]:
        """Counts and rates; the keys are part of the report format."""
        return {
            "threshold": self.threshold,
            "false_positive_rate": self.false_positive_rate,
            "false_alarms": self.false_alarms,
            "good": self.good,
            "recall": self.recall,
            "found": self.found,
            "anomalous": self.anomalous,
            "recall_by_type": dict(self.recall_by_type),
        }


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationReport:
    """Metrics of one detector on one version's test split, with scores, thresholds and remarks.

    `per_defect` has the number of images, the recall per threshold and the image AUROC of every
    named defect against all good images. `held_out_scores` are those of the version's validation
    normals, when the detector was calibrated on them. `notes` has a reason for every metric that is
    None, and remarks.
    """

    card: Card
    version: Mapping[str, Any]
    result: EvaluationResult
    rows: tuple[ImageRow, ...]
    at_thresholds: Mapping[str, ThresholdResult | None]
    per_defect: Mapping[str, Mapping[str, Any]]
    held_out_scores: tuple[float, ...]
    notes: Mapping[str, str]
    device: str
    precision: str
    batch_size: int
    seconds: float

    def to_json(self, details: bool = False) -> dict[str, Any]:
        """One JSON object, the metrics at its top; with `details` also curves and all scores."""
        # The metrics come first, in their documented order; the rest of the result follows.
        measured = self.result.to_json(details)
        # Keys are part of the report format.
        head = {
            "format": FORMAT,
            "detector": self.card.detector,
            "category": self.version["category"],
            **{name: self.result.metrics[name] for name in METRICS},
        }
        # Scores of held-out normals are only needed by charts.
        more = {"held_out_scores": list(self.held_out_scores)} if details else {}
        return {
            **head,
            **{name: value for name, value in measured.items() if name not in head},
            "per_defect": {name: dict(row) for name, row in self.per_defect.items()},
            "thresholds": {name: row and row.to_json() for name, row in self.at_thresholds.items()},
            "validation": self.card.calibration.model_dump(mode="json"),
            "checkpoint": {
                "sha256": self.card.sha256,
                "settings": self.card.settings,
                "seed": self.card.seed,
                "steps": self.card.steps,
                "seconds": self.card.seconds,
                "parameters": self.card.parameters,
                "precision": self.card.precision,
                "device": self.card.device,
                "version_digest": self.card.version.digest,
            },
            "version": dict(self.version),
            "device": self.device,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "seconds": round(self.seconds, 3),
            "notes": dict(self.notes),
            **more,
        }

    def to_csv(self) -> str:
        """One line per test image, in the order of the version."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "type", "defects", "label", "score", *THRESHOLDS])
        for row in self.rows:
            # A threshold that the checkpoint lacks leaves its column empty.
            over = [int(row.over[name]) if name in row.over else "" for name in THRESHOLDS]
            # repr keeps every digit of the score.
            writer.writerow(
                [row.name, row.type, " ".join(row.defects), row.label, repr(row.score), *over]
            )
        return text.getvalue()


def thresholds_of(calibration: Calibration) -> dict[str, float]:
    """The thresholds that the calibration has, by name."""
    found = {name: getattr(calibration, name) for name in THRESHOLDS}
    return {name: value for name, value in found.items() if value is not None}

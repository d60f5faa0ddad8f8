"""What an evaluation came to: the record that reports, commands and comparisons read.

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

FORMAT = 1
THRESHOLDS = ("threshold_1", "threshold_5", "threshold_f1")
"""The thresholds of a calibration that images are held against; `score >= threshold` is alarm."""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One test image; `defects` are the names of its defects where the source names them."""

    name: str
    type: str
    defects: tuple[str, ...]
    score: float
    over: Mapping[str, bool]

    @property
    def label(self) -> int:
        return int(self.type != GOOD)

    @property
    def group(self) -> str:
        """`good`, or what the tables call its type."""
        return group_of(self.type)


@dataclass(frozen=True, slots=True)
class Alarms:
    """One threshold of the checkpoint on the test split; a rate is None without such images."""

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
    """Metrics of one detector on one version's test split, and all that a reader must know.

    `per_defect` has image AUROC and number of images of every named defect, against all good
    images. `validation_scores` are those of the version's validation normals, when the detector
    was calibrated on them. `notes` has a reason for every metric that is None, and remarks.
    """

    card: Card
    version: Mapping[str, Any]
    result: EvaluationResult
    rows: tuple[ImageRow, ...]
    alarms: Mapping[str, Alarms | None]
    per_defect: Mapping[str, Mapping[str, Any]]
    validation_scores: tuple[float, ...]
    notes: Mapping[str, str]
    device: str
    precision: str
    batch_size: int
    seconds: float

    def to_json(self, details: bool = False) -> dict[str, Any]:
        """One JSON object, the metrics at its top; with `details` also curves and all scores."""
        measured = self.result.to_json(details)
        head = {
            "format": FORMAT,
            "detector": self.card.detector,
            "category": self.version["category"],
            **{name: self.result.metrics[name] for name in METRICS},
        }
        more = {"validation_scores": list(self.validation_scores)} if details else {}
        return {
            **head,
            **{name: value for name, value in measured.items() if name not in head},
            "per_defect": {name: dict(row) for name, row in self.per_defect.items()},
            "thresholds": {name: row and row.to_json() for name, row in self.alarms.items()},
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
            over = [int(row.over[name]) if name in row.over else "" for name in THRESHOLDS]
            writer.writerow(
                [row.name, row.type, " ".join(row.defects), row.label, repr(row.score), *over]
            )
        return text.getvalue()


def thresholds_of(calibration: Calibration) -> dict[str, float]:
    """The thresholds that exist, by their names."""
    lines = {name: getattr(calibration, name) for name in THRESHOLDS}
    return {name: line for name, line in lines.items() if line is not None}

"""The result of an evaluation: the record that reports, commands and comparisons read.

Shapes: N test images.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from detectors.metrics.bootstrap import Interval
from detectors.metrics.evaluation import METRICS, EvaluationResult
from detectors.metrics.per_type import group_of
from detectors.metrics.wilson import wilson
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

    `defects` are the names of its defects where the source names them; `place` is the number of the
    image in its test set. `reasons` are in words, from detectors that give some.
    """

    name: str
    type: str
    defects: tuple[str, ...]
    score: float
    over: Mapping[str, bool]
    place: int = 0
    reasons: tuple[str, ...] = ()

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
    def false_positive_interval(self) -> Interval | None:
        """The 95 % interval (Wilson) of the false-alarm rate on good images like these."""
        return wilson(self.false_alarms, self.good) if self.good else None

    @property
    def recall(self) -> float | None:
        return self.found / self.anomalous if self.anomalous else None

    @property
    def recall_interval(self) -> Interval | None:
        """The 95 % interval (Wilson) of the recall on anomalous images like these."""
        return wilson(self.found, self.anomalous) if self.anomalous else None

    def to_json(self) -> dict[str, Any]:
        """Counts and rates; the keys are part of the report format."""
        false_positives, recall = self.false_positive_interval, self.recall_interval
        return {
            "threshold": self.threshold,
            "false_positive_rate": self.false_positive_rate,
            "false_positive_interval": false_positives and list(false_positives),
            "false_alarms": self.false_alarms,
            "good": self.good,
            "recall": self.recall,
            "recall_interval": recall and list(recall),
            "found": self.found,
            "anomalous": self.anomalous,
            "recall_by_type": dict(self.recall_by_type),
        }


@dataclass(frozen=True, slots=True)
class MaskInDoubt:
    """A mask that can hardly be meant; `share` of its image is marked, None for an unusable one."""

    name: str
    share: float | None
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationReport:
    """Metrics of one detector on one test set, with scores, thresholds and remarks.

    `tested` are the facts of the test set: those of a version, or with `folders` those of a user's
    own images. `failures` are images that could not be read, by name, `mask_doubts` masks that need
    a look.

    `per_defect` has the number of images, the recall per threshold and the image AUROC of every
    named defect against all good images. `held_out_scores` are those of the version's validation
    normals, when the detector was calibrated on them. `notes` has a reason for every metric that is
    None, and remarks.
    """

    card: Card
    tested: Mapping[str, Any]
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
    failures: Mapping[str, str] = field(default_factory=dict)
    mask_doubts: tuple[MaskInDoubt, ...] = ()

    @property
    def of_version(self) -> bool:
        """True when the images are those of a version, not of folders."""
        return "folders" not in self.tested

    def to_json(self, details: bool = False) -> dict[str, Any]:
        """One JSON object, the metrics at its top; with `details` also curves and all scores."""
        # The metrics come first, in their documented order; the rest of the result follows.
        measured = self.result.to_json(details)
        # Keys are part of the report format.
        head = {
            "format": FORMAT,
            "detector": self.card.detector,
            "category": self.tested["category"],
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
            # One of the two is null.
            "version": dict(self.tested) if self.of_version else None,
            "own_images": None if self.of_version else dict(self.tested),
            "mask_doubts": [asdict(doubt) for doubt in self.mask_doubts],
            "failures": [{"name": name, "error": why} for name, why in self.failures.items()],
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
        writer.writerow(["name", "type", "defects", "label", "score", *THRESHOLDS, "reasons"])
        for row in self.rows:
            # A threshold that the checkpoint lacks leaves its column empty.
            over = [int(row.over[name]) if name in row.over else "" for name in THRESHOLDS]
            # repr keeps every digit of the score.
            writer.writerow(
                [
                    row.name,
                    row.type,
                    " ".join(row.defects),
                    row.label,
                    repr(row.score),
                    *over,
                    "; ".join(row.reasons),
                ]
            )
        return text.getvalue()


def thresholds_of(calibration: Calibration) -> dict[str, float]:
    """The thresholds that the calibration has, by name."""
    found = {name: getattr(calibration, name) for name in THRESHOLDS}
    return {name: value for name, value in found.items() if value is not None}


def nothing_to_compare(good: int, anomalous: int) -> str:
    """Why there is no AUROC, as a sentence; empty where both classes are present."""
    missing = {
        (False, False): "no image: there is nothing to measure",
        (False, True): "no good image: no AUROC and no false-alarm rate can be measured",
        (True, False): "no anomalous image: no AUROC and no recall can be measured",
    }.get((good > 0, anomalous > 0))
    return f"the test set has {missing}" if missing else ""


def reasons(metrics: Mapping[str, float | None], notes: Mapping[str, str]) -> dict[str, list[str]]:
    """Why metrics are missing: the names of those that are None, by their reason."""
    found: dict[str, list[str]] = {}
    for name, value in metrics.items():
        if value is None:
            found.setdefault(notes.get(name, "it cannot be measured"), []).append(name)
    return found

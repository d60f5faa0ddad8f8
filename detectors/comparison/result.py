"""The result of a comparison as a record: what pages, commands and flows read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.comparison.held_out import HeldOutScores
from detectors.comparison.recommendation import RULE, Candidate, Recommendation
from detectors.comparison.sensitivity import Row, Sensitivity, Share, smallest_rate
from detectors.metrics.bootstrap import Interval

# Number of the format of compare.json, for programs that read stored comparisons.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A detector that was not compared, and the reason; `failed` when its training or judging
    raised an error."""

    name: str
    why: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class RealTest:
    """One detector on the real test split, at the threshold that the comparison had chosen.

    `auroc_by_type` has the image AUROC of every type of defect, `report` the page with all of it.
    """

    auroc: float | None
    auroc_interval: Interval | None
    auroc_by_type: Mapping[str, float | None]
    found: Share
    false_alarms: Share
    report: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "image_auroc": self.auroc,
            "image_auroc_interval": self.auroc_interval and list(self.auroc_interval),
            "image_auroc_by_type": dict(self.auroc_by_type),
            "found": self.found.to_json(),
            "false_alarms": self.false_alarms.to_json(),
            "report": str(self.report) if self.report else None,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One detector: its checkpoint, its held-out scores and what follows from them, its cost.

    `set_aside` counts held-out normals of its own that other detectors were not judged on.
    """

    name: str
    checkpoint: Path
    held: HeldOutScores
    sensitivity: Sensitivity
    seconds_per_image: float
    training_seconds: float
    device: str
    settings_size: int
    set_aside: int = 0

    @property
    def candidate(self) -> Candidate:
        """The numbers that the recommendation depends on."""
        return Candidate(
            self.name, self.sensitivity.auroc, self.sensitivity.auroc_interval,
            self.sensitivity.share, self.seconds_per_image, self.training_seconds,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        held = self.held
        return {
            "detector": self.name,
            "checkpoint": str(self.checkpoint),
            **self.sensitivity.to_json(),
            "seconds_per_image": self.seconds_per_image,
            "training_seconds": self.training_seconds,
            "device": self.device,
            "size": self.settings_size,
            "scores": {
                "normals": dict(zip(held.normal_ids, held.normal_scores_N.tolist(), strict=True)),
                "samples": dict(zip(held.sample_ids, held.sample_scores_M.tolist(), strict=True)),
            },
        }


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """All detectors on one version. `version` has its name, digest, category, licence and folder,
    whether its normals drift, and what was reviewed, if anything.

    `real` is empty where there is no real test split, or where it was not to be opened; it was
    measured after `recommendation` was made.
    """

    version: Mapping[str, Any]
    profile: str
    seed: int
    false_alarms: float
    rows: tuple[Row, ...]
    detectors: tuple[Compared, ...]
    recommendation: Recommendation
    left_out: tuple[LeftOut, ...] = ()
    real: Mapping[str, RealTest] | None = None

    @property
    def held(self) -> HeldOutScores:
        """The held-out images, which are the same for all detectors."""
        return self.detectors[0].held

    @property
    def chosen(self) -> Compared:
        """The recommended detector."""
        return next(one for one in self.detectors if one.name == self.recommendation.name)

    @property
    def smallest_rate(self) -> float:
        """The smallest false-alarm rate that the held-out normals can promise."""
        return smallest_rate(len(self.held.normal_ids))

    def rows_in(self, group: str) -> list[Row]:
        """The rows of a group: `kind`, `rule` or `control`."""
        return [row for row in self.rows if row.group == group]

    def to_json(self) -> dict[str, Any]:
        """One JSON object with everything; its keys are documented in docs/compare.md."""
        found, held = self.recommendation, self.held
        return {
            "format": FORMAT,
            "version": dict(self.version),
            "profile": self.profile,
            "seed": self.seed,
            "false_alarms": self.false_alarms,
            "smallest_false_alarms": self.smallest_rate,
            "held_out": {
                "normals": len(held.normal_ids),
                "synthetics": held.anomalies,
                "controls": len(held.sample_ids) - held.anomalies,
                "source": held.source,
            },
            "recommendation": {
                "detector": found.name,
                "rule": RULE,
                "decided_by": found.decided_by,
                "equal": list(found.equal),
                "uncertain": list(found.uncertain),
            },
            "rows": [
                {
                    "key": row.key, "group": row.group, "words": row.words,
                    "samples": [held.sample_ids[place] for place in row.samples],
                }
                for row in self.rows
            ],
            "detectors": [one.to_json() for one in self.detectors],
            "left_out": [
                {"detector": one.name, "why": one.why, "failed": one.failed}
                for one in self.left_out
            ],
            "real_test": None
            if self.real is None
            else {name: row.to_json() for name, row in self.real.items()},
        }  # fmt: skip

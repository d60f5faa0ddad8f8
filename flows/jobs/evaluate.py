"""One evaluation, as the command, the flow and the demo run it, and its metrics as text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.jobs.train import CARD
from pipeline.dataset.version import Version, open_version
from pipeline.errors import UserError

if TYPE_CHECKING:
    from detectors.training.progress import Watcher

# Folder of the report inside that of the checkpoint, for flows and demo.
REPORT = "report"
# Files of a report.
PAGE, NUMBERS = "report.html", "report.json"
# The headline metrics, in the order in which tables show them.
METRICS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1": "best image F1",
    "precision_at_recall_90": "precision at recall 0.90",
    "iap": "instance AP",
    "iap90": "instance AP at 0.90",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro": "AUPRO up to 0.3",
    "spro": "sPRO up to 0.05",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """Settings of one evaluation: of a version, or of good and bad images in folders.

    All paths are folders. UserError for a choice that names neither, both, or a half of one.
    """

    checkpoint: Path
    version: Path | None = None
    good: tuple[Path, ...] = ()
    bad: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    follow_links: Path | None = None
    out: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 16
    original_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        own = [f"--{name}" for name in ("good", "bad", "masks") if getattr(self, name)]
        if self.version and own:
            raise UserError(
                f"--version and {own[0]} both name test images; drop one: a version has its own"
            )
        if not self.version and not own:
            raise UserError("name the test images: --version VERSION_DIR, or --good DIR --bad DIR")
        if own and not (self.good and self.bad):
            missing = "--bad" if self.good else "--good"
            raise UserError(
                f"{' and '.join(own)} without {missing}: AUROC compares good with bad images; name "
                "both, or score the images alone with `anomalysmith predict`"
            )
        if self.version and self.follow_links:
            raise UserError("--follow-links is for --good and --bad; a version holds no links")
        if own and self.original_size:
            raise UserError(
                "--original-size is for the defects_config.json of a version; drop it with --good"
            )


def evaluate(job: EvaluateJob, watcher: "Watcher") -> dict[str, Any]:
    """Score the test images with a checkpoint, in this process; returns JSON.

    `report` is the page that was written, None without `out`.
    """
    from detectors.evaluation.evaluate import evaluate as run
    from detectors.evaluation.own_folders import OwnFolders

    # Returns an object with metrics, scores and notes.
    found = run(
        job.checkpoint,
        open_version(job.version)
        if job.version
        else OwnFolders(job.good, job.bad, job.masks, job.follow_links),
        job.out,
        device=job.device,
        precision=job.precision,
        batch_size=job.batch_size,
        original_size=job.original_size,
        watcher=watcher,
    )
    return found.to_json() | {"report": str(job.out / PAGE) if job.out else None, "cached": False}


def evaluate_once(job: EvaluateJob, watcher: "Watcher") -> dict[str, Any]:
    """As `evaluate`, but an existing report in `out` on the same weights and data is returned."""
    return _reported(job) or evaluate(job, watcher)


def _reported(job: EvaluateJob) -> dict[str, Any] | None:
    """The existing report in `out`, if it is of this checkpoint and this version."""
    if job.out is None or job.version is None or not (job.out / PAGE).is_file():
        return None
    try:
        # The same weights and the same data give the same report.
        content = json.loads((job.out / NUMBERS).read_bytes())
        tensors = json.loads((job.checkpoint / CARD).read_bytes())["sha256"]
        same = content["checkpoint"]["sha256"] == tensors
        same &= content["version"]["digest"] == open_version(job.version).digest
    except (OSError, ValueError, LookupError, TypeError):
        # Damaged, or of another release: evaluate again.
        return None
    return content | {"report": str(job.out / PAGE), "cached": True} if same else None


def checkpoints_in(home: Path, version: Version, detectors: Sequence[str] | None) -> list[Path]:
    """The finished checkpoints that `train-detectors` wrote for a version, by name.

    Raises UserError when there is none, or none of one of the named detectors.
    """
    folder = home / version.category / version.name
    # The card is written last, so unfinished trainings are not found.
    found = sorted(path.parent for path in folder.glob(f"*/{CARD}"))
    # The empty name stands for any detector.
    for name in detectors or [""]:
        if not any(detector_of(path) == name for path in found) and (name or not found):
            raise UserError(
                f"{folder} holds no checkpoint{f' of {name}' if name else ''}; "
                "run `train-detectors` first"
            )
    return [path for path in found if not detectors or detector_of(path) in detectors]


def detector_of(checkpoint: Path) -> str:
    """The detector of a folder `<detector>-<digest8>`."""
    return checkpoint.name.rpartition("-")[0]


def number(value: Any) -> str:
    """A metric for a table: three decimals, or a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def headline(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and 95 % interval of every headline metric that could be measured."""
    intervals = content["intervals"]
    return [
        (words, number(content[key]), "–".join(map(number, intervals.get(key) or ())))
        for key, words in METRICS.items()
        if content.get(key) is not None
    ]


def unmeasured(content: Mapping[str, Any]) -> list[str]:
    """A sentence per reason for headline metrics that could not be measured."""
    found: dict[str, list[str]] = {}
    for key, words in METRICS.items():
        # Who brings images of his own cannot have what only MVTec LOCO has.
        if content.get(key) is None and not (key == "spro" and content["version"] is None):
            found.setdefault(content["notes"].get(key, "unknown"), []).append(words)
    return [f"no {', '.join(words)}: {why}" for why, words in found.items()]


def one_sided(content: Mapping[str, Any]) -> str:
    """The loud line about a test set without good or without bad images; empty with both."""
    good, bad = content["good"], content["images"] - content["good"]
    if good and bad:
        return ""
    missing = "GOOD " if bad else "BAD " if good else ""
    lost = {"GOOD ": "AUROC and false-alarm rate", "BAD ": "AUROC and recall", "": "nothing"}
    can = "cannot be measured" if missing else "can be measured"
    advice = "--good DIR --bad DIR measures on images of your own"
    return f"NO {missing}IMAGE among the test images: {lost[missing]} {can}; {advice}"

"""Texts of a report: names and explanations of the metrics, and the Markdown page."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectors.evaluation.results import EvaluationReport, ThresholdResult, reasons
from detectors.metrics.evaluation import Measured
from pipeline.sources.licences import Terms
from pipeline.utils.html import escape_markdown
from pipeline.utils.repeated import repeated

# Display names of the metrics, in the order of the page.
NAMES = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image AP",
    "image_f1": "Best F1",
    "precision_at_recall_90": "Precision at recall 0.9",
    "pixel_auroc": "Pixel AUROC",
    "pixel_ap": "Pixel AP",
    "aupro": "AUPRO 0.3",
    "spro": "AU-sPRO 0.05",
    "iap": "IAP",
    "iap90": "IAP@90",
}

# One-sentence explanations; the definitions are in `detectors.metrics`.
ABOUT = {
    "image_auroc": "probability that an anomalous image scores above a good one; 0.5 is random",
    "image_ap": "area under the precision-recall curve; random scores give the share of anomalous "
    "images",
    "image_f1": "F1 at the best threshold for these test images: an upper bound",
    "precision_at_recall_90": "best precision at a recall of at least 0.9",
    "pixel_auroc": "AUROC over all pixels of all test images",
    "pixel_ap": "area under the precision-recall curve over all pixels of all test images",
    "aupro": "area under the per-region overlap up to a false positive rate of 0.3; constant maps "
    "give 0.15",
    "spro": "area under the saturated per-region overlap up to a false positive rate of 0.05 "
    "(MVTec LOCO)",
    "iap": "instance AP: pixel precision against the recall of regions; a region counts as "
    "detected when more than half of its pixels are (DeSTSeg)",
    "iap90": "pixel precision at an instance recall of 0.9 (DeSTSeg)",
}

# The thresholds of a checkpoint: the false positive rate on validation normals that they keep, or
# the criterion that they optimise.
THRESHOLD_NAMES = {
    "threshold_1": "1 % FPR",
    "threshold_5": "5 % FPR",
    "threshold_f1": "best F1",
}

# Metrics of the image tables and of the localisation tables, and names of the last two rows.
IMAGE = ("image_auroc", "image_ap", "image_f1", "precision_at_recall_90")
PIXEL = ("pixel_auroc", "pixel_ap", "aupro", "spro", "iap", "iap90")
MEAN, POOLED = "mean of both", "all pooled"


def value(number: float | None, digits: int = 3) -> str:
    """A metric as text, or a dash for None."""
    return "–" if number is None else f"{number:.{digits}f}"


def percent(number: float | None) -> str:
    """A rate in percent, or a dash for None."""
    return "–" if number is None else f"{100 * number:.0f} %"


def interval(pair: Sequence[float] | None) -> str:
    """The two ends of an interval, or an empty text for None."""
    return f"{pair[0]:.3f}–{pair[1]:.3f}" if pair else ""


def share(found: int, of: int, ends: Sequence[float] | None, none: str) -> str:
    """`1 of 20 (5 %, 95 % interval 1–24 %)`, or `none` without images."""
    if not ends:
        return none
    low, high = (f"{100 * end:.0f}" for end in ends)
    return f"{found} of {of} ({percent(found / of)}, 95 % interval {low}–{high} %)"


def false_alarms(row: ThresholdResult) -> str:
    """False alarms at a threshold, with the interval of their rate."""
    return share(row.false_alarms, row.good, row.false_positive_interval, "no good image")


def hits(row: ThresholdResult) -> str:
    """Anomalous images found at a threshold, with the interval of the recall."""
    return share(row.found, row.anomalous, row.recall_interval, "no anomalous image")


def missing(found: EvaluationReport) -> list[str]:
    """A sentence per reason for metrics that could not be measured."""
    metrics = found.result.metrics
    # Who brings images of his own cannot have what only MVTec LOCO has.
    if not found.of_version:
        metrics = {name: number for name, number in metrics.items() if name != "spro"}
    return [
        f"No {', '.join(NAMES[name] for name in names)}: {why}."
        for why, names in reasons(metrics, found.notes).items()
    ]


def remarks(found: EvaluationReport) -> list[str]:
    """The remarks, without the reasons that `missing` gives."""
    names = {"intervals", *found.result.metrics}
    return [f"{why}" for name, why in sorted(found.notes.items()) if name not in names]


def measured_columns(found: EvaluationReport, names: Sequence[str]) -> list[str]:
    """The metrics that at least one row of the tables has."""
    rows = [row for _, row in table_rows(found)]
    return [name for name in names if any(row.metrics[name] is not None for row in rows)]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    # Numbers are aligned at the right.
    marks = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, marks, *rows]
    return "\n".join(
        "| " + " | ".join(_cell(str(content)) for content in line) + " |" for line in lines
    )


def _cell(text: str) -> str:
    """An escaped cell, except for a number in bold, the best of a comparison."""
    return text if re.fullmatch(r"\*\*[\d.]+\*\*", text) else escape_markdown(text)


def table_rows(found: EvaluationReport) -> list[tuple[str, Measured]]:
    """Every anomaly type, then the mean of MVTec LOCO's two, then all anomalies pooled."""
    result = found.result
    # A single type is all anomalies: no further rows are needed.
    rows = list(result.per_type.items())
    if result.mean is not None:
        rows.append((MEAN, result.mean))
    return [*rows, (POOLED, result.pooled)] if len(rows) != 1 else rows


def markdown(found: EvaluationReport, terms: Terms) -> str:
    """The numbers of a report as a Markdown page."""
    result, card, tested = found.result, found.card, found.tested
    groups = table_rows(found)
    counts = f"{len(found.rows)} test images, {result.pooled.anomalous} of them anomalous"
    where = "Version" if found.of_version else "Folders"
    # Sections of the page, in the order of the HTML report.
    parts = [
        f"# {card.detector} on {escape_markdown(tested['category'])}",
        f"{where} `{tested['name']}`, content `{tested['digest'][:12]}`; checkpoint "
        f"`{card.sha256[:12]}`, {card.steps:,} steps, seed {card.seed}. {counts}. Scored on "
        f"{found.device}.",
        *missing(found),
    ]
    if columns := measured_columns(found, IMAGE):
        rows = [
            [name, row.anomalous, *(value(row.metrics[m]) for m in columns),
             interval(row.intervals.get("image_auroc"))]
            for name, row in groups
        ]  # fmt: skip
        head = ["against all good images", "images", *(NAMES[m] for m in columns), "AUROC 95 %"]
        parts += ["## Images", table(head, rows)]
    if columns := measured_columns(found, PIXEL):
        rows = [
            [name, row.regions, *(value(row.metrics[m]) for m in columns)] for name, row in groups
        ]
        head = ["against all good images", "regions", *(NAMES[m] for m in columns)]
        parts += ["## Localisation", table(head, rows)]
    parts += ["## Detections at the thresholds of the checkpoint", _detections(found)]
    # Only sources that name their defects have this table.
    if found.per_defect:
        rows = [
            [name, row["group"], row["images"], value(row["image_auroc"])]
            for name, row in found.per_defect.items()
        ]
        parts += ["## Defects", table(["defect", "group", "images", "Image AUROC"], rows)]
    parts += ["## Validation", _validation(found)]
    if found.mask_doubts:
        rows = [[d.name, percent(d.share), d.why] for d in found.mask_doubts]
        parts += ["## Masks in doubt", table(["mask of", "marked", "why"], rows)]
    if found.failures:
        lines = repeated(found.failures.items())
        parts += ["## Not scored", "\n".join(f"- {escape_markdown(line)}" for line in lines)]
    if found.notes:
        parts += ["## Notes", "\n".join(f"- {k}: {v}" for k, v in found.notes.items())]
    parts += ["## Licence", "`report.html` contains test images. " + terms.sentences()]
    return "\n\n".join(parts) + "\n"


def _detections(found: EvaluationReport) -> str:
    """The table of false alarms and recall per threshold."""
    rows = []
    for name, row in found.at_thresholds.items():
        if row is None:
            rows.append([THRESHOLD_NAMES[name], "–", "–", "–"])
            continue
        # Counts with rates, because a rate of few images says little.
        score = f"{row.threshold:.4g}"
        rows.append([THRESHOLD_NAMES[name], score, false_alarms(row), hits(row)])
    return table(["threshold", "score", "false alarms", "anomalies found"], rows)


def _validation(found: EvaluationReport) -> str:
    """The calibration on the validation split: counts, AUROC, controls, AUROC by kind of edit."""
    calibration = found.card.calibration
    counted = (
        f"{calibration.normals} normals, {calibration.synthetics} synthetic anomalies, "
        f"{calibration.controls} controls in the validation split; image AUROC "
        f"{value(calibration.auroc)}; controls above the 5 % FPR threshold: "
        f"{percent(calibration.control_false_alarms)}."
    )
    # A version without synthetic anomalies has no table of kinds.
    if not calibration.auroc_by_kind:
        return counted
    kinds: Mapping[str, float] = calibration.auroc_by_kind
    rows = [[kind, value(kinds[kind])] for kind in sorted(kinds)]
    return counted + "\n\n" + table(["kind of edit", "Image AUROC"], rows)

"""Texts of a report: names and explanations of the metrics, and the Markdown page."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectors.evaluation.results import EvaluationReport
from detectors.metrics.evaluation import Measured
from pipeline.sources.licences import Terms
from pipeline.utils.html import escape_markdown

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
    result, card, version = found.result, found.card, found.version
    groups = table_rows(found)
    counts = f"{len(found.rows)} test images, {result.pooled.anomalous} of them anomalous"
    # Sections of the page, in the order of the HTML report.
    parts = [
        f"# {card.detector} on {escape_markdown(version['category'])}",
        f"Version `{version['name']}`, content `{version['digest'][:12]}`; checkpoint "
        f"`{card.sha256[:12]}`, {card.steps:,} steps, seed {card.seed}. {counts}. Scored on "
        f"{found.device}.",
        "## Images",
        table(
            ["against all good images", "images", *(NAMES[name] for name in IMAGE), "AUROC 95 %"],
            [
                [name, row.anomalous, *(value(row.metrics[m]) for m in IMAGE),
                 interval(row.intervals.get("image_auroc"))]
                for name, row in groups
            ],
        ),
        "## Localisation",
        table(
            ["against all good images", "regions", *(NAMES[name] for name in PIXEL)],
            [
                [name, row.regions, *(value(row.metrics[m]) for m in PIXEL)]
                for name, row in groups
            ],
        ),
        "## Detections at the thresholds of the checkpoint",
        _detections(found),
    ]  # fmt: skip
    # Only sources that name their defects have this table.
    if found.per_defect:
        rows = [
            [name, row["group"], row["images"], value(row["image_auroc"])]
            for name, row in found.per_defect.items()
        ]
        parts += ["## Defects", table(["defect", "group", "images", "Image AUROC"], rows)]
    parts += ["## Validation", _validation(found)]
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
        false = f"{row.false_alarms} of {row.good} ({percent(row.false_positive_rate)})"
        hits = f"{row.found} of {row.anomalous} ({percent(row.recall)})"
        rows.append([THRESHOLD_NAMES[name], f"{row.threshold:.4g}", false, hits])
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

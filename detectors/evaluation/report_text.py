"""The words of a report: what a number is called and means, and the Markdown page."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectors.evaluation.results import EvaluationReport
from detectors.metrics.evaluation import Measured
from pipeline.sources.licences import Terms
from pipeline.utils.html import cell

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
"""Metrics as people call them, in the order of the page."""

ABOUT = {
    "image_auroc": "chance that an anomalous image scores above a good one; 0.5 is guessing",
    "image_ap": "area under precision over recall; guessing gives the share of anomalous images",
    "image_f1": "F1 at the threshold that suits the test images best: an upper bound",
    "precision_at_recall_90": "share of right alarms when nine of ten anomalous images are found",
    "pixel_auroc": "the same as image AUROC, over all pixels of all test images",
    "pixel_ap": "area under precision over recall of pixels",
    "aupro": "how much of each region is found, up to a false positive rate of 0.3; 0.15 is the "
    "floor",
    "spro": "like AUPRO, where finding enough of a region is finding it; up to a false positive "
    "rate of 0.05 (MVTec LOCO)",
    "iap": "pixel precision against the share of regions found by more than half (DeSTSeg)",
    "iap90": "pixel precision when nine of ten regions are found by more than half",
}

LINES = {
    "threshold_1": "1 % line",
    "threshold_5": "5 % line",
    "threshold_f1": "best F1 line",
}
"""The thresholds: what share of validation normals lies above, or what they were chosen for."""

IMAGE = ("image_auroc", "image_ap", "image_f1", "precision_at_recall_90")
PIXEL = ("pixel_auroc", "pixel_ap", "aupro", "spro", "iap", "iap90")
MEAN, POOLED = "mean of both", "all pooled"


def value(number: float | None, digits: int = 3) -> str:
    """A metric, or a dash for one that does not exist."""
    return "–" if number is None else f"{number:.{digits}f}"


def percent(number: float | None) -> str:
    """A rate as percents, or a dash."""
    return "–" if number is None else f"{100 * number:.0f} %"


def interval(pair: Sequence[float] | None) -> str:
    """The two ends of an interval, or nothing."""
    return f"{pair[0]:.3f}–{pair[1]:.3f}" if pair else ""


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, marks, *rows]
    return "\n".join(
        "| " + " | ".join(_cell(str(content)) for content in line) + " |" for line in lines
    )


def _cell(text: str) -> str:
    """A cell; the stars around the best number of a comparison are ours and stay."""
    return text if re.fullmatch(r"\*\*[\d.]+\*\*", text) else cell(text)


def table_rows(found: EvaluationReport) -> list[tuple[str, Measured]]:
    """Every anomaly type, then the mean of MVTec LOCO's two, then all anomalies pooled."""
    result = found.result
    rows = list(result.per_type.items())
    if result.mean is not None:
        rows.append((MEAN, result.mean))
    return [*rows, (POOLED, result.pooled)] if len(rows) != 1 else rows


def markdown(found: EvaluationReport, terms: Terms) -> str:
    """The numbers of a report as a Markdown page."""
    result, card, version = found.result, found.card, found.version
    groups = table_rows(found)
    counts = f"{len(found.rows)} test images, {result.pooled.anomalous} of them anomalous"
    parts = [
        f"# {card.detector} on {cell(version['category'])}",
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
        "## Alarms at the thresholds of the checkpoint",
        _alarms(found),
    ]  # fmt: skip
    if found.per_defect:
        rows = [
            [name, row["group"], row["images"], value(row["image_auroc"])]
            for name, row in found.per_defect.items()
        ]
        parts += ["## Defects", table(["defect", "group", "images", "Image AUROC"], rows)]
    parts += ["## Validation", _validation(found)]
    if found.notes:
        parts += ["## Notes", "\n".join(f"- {k}: {v}" for k, v in found.notes.items())]
    parts += ["## Licence", "The pictures of `report.html` are test images. " + terms.sentences()]
    return "\n\n".join(parts) + "\n"


def _alarms(found: EvaluationReport) -> str:
    rows = []
    for name, row in found.alarms.items():
        if row is None:
            rows.append([LINES[name], "–", "–", "–"])
            continue
        false = f"{row.false_alarms} of {row.good} ({percent(row.false_positive_rate)})"
        hits = f"{row.found} of {row.anomalous} ({percent(row.recall)})"
        rows.append([LINES[name], f"{row.threshold:.4g}", false, hits])
    return table(["line", "score", "false alarms", "anomalies found"], rows)


def _validation(found: EvaluationReport) -> str:
    calibration = found.card.calibration
    counted = (
        f"{calibration.normals} normals, {calibration.synthetics} forged anomalies, "
        f"{calibration.controls} controls in the validation split; image AUROC "
        f"{value(calibration.auroc)}; controls above the 5 % line: "
        f"{percent(calibration.control_false_alarms)}."
    )
    if not calibration.auroc_by_kind:
        return counted
    kinds: Mapping[str, float] = calibration.auroc_by_kind
    rows = [[kind, value(kinds[kind])] for kind in sorted(kinds)]
    return counted + "\n\n" + table(["kind of edit", "Image AUROC"], rows)

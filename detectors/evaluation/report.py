"""The report of one detector on one test set, as JSON, CSV, Markdown and HTML.

    report.json    all numbers (those of `anomalysmith evaluate --json`, with curves and scores)
    images.csv     one line per test image
    report.md      the tables as Markdown
    report.html    one self-contained page with charts and example images

The page works offline, in light and dark mode and on a phone. It contains test images, and
therefore states their licence.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectors.evaluation import report_text as words
from detectors.evaluation.charts import Curve, Estimate, curves, estimates, histograms
from detectors.evaluation.labelled_images import LabelledImages
from detectors.evaluation.report_images import Example, examples, heat_scale
from detectors.evaluation.report_text import (
    NAMES,
    POOLED,
    THRESHOLD_NAMES,
    markdown,
    percent,
    table_rows,
    value,
)
from detectors.evaluation.results import THRESHOLDS, EvaluationReport
from detectors.metrics.evaluation import Measured
from detectors.metrics.image import image_metrics
from detectors.training.checkpoint import Restored
from pipeline.utils.files import named_disk_errors, write_atomic
from pipeline.utils.html import render_template
from pipeline.utils.repeated import repeated

# File names of a report.
JSON, CSV, MARKDOWN, PAGE = "report.json", "images.csv", "report.md", "report.html"
_TEMPLATE = Path(__file__).with_name("report.html.j2")
# With more anomaly types than this, curves of single types would cover each other.
_MOST_CURVES = 6
# Sections of example images: title and explanation.
_SECTIONS = {
    "false_alarms": (
        "Likely false alarms",
        "The good images with the highest scores.",
    ),
    "misses": ("Likely misses", "The anomalous images with the lowest scores."),
    "hits": ("Typical anomalies", "From the middle of the scores of each anomaly type."),
}


def write_report(
    found: EvaluationReport, images: LabelledImages, restored: Restored, out: Path
) -> Path:
    """Write all four files into `out` and return the path of the page."""
    # NaN is not allowed in JSON; metrics are None instead.
    content = json.dumps(found.to_json(details=True), indent=1, allow_nan=False) + "\n"
    # All content is made before the first file is written.
    page = render(found, images, restored)
    with named_disk_errors(out):
        write_atomic(out / JSON, content.encode())
        write_atomic(out / CSV, found.to_csv().encode())
        write_atomic(out / MARKDOWN, markdown(found, images.terms).encode())
        write_atomic(out / PAGE, page.encode())
    return out / PAGE


def render(found: EvaluationReport, images: LabelledImages, restored: Restored) -> str:
    """The page as HTML."""
    # One colour scale for all examples, so that heat means the same on every image.
    sections = examples(found.rows, images, restored)
    scale = heat_scale(restored, [one for section in sections.values() for one in section])
    return render_template(
        _TEMPLATE,
        {
            "value": value,
            "percent": percent,
            "interval": words.interval,
            "false_alarms": words.false_alarms,
            "hits": words.hits,
        },
        found=found,
        card=found.card,
        calibration=found.card.calibration,
        result=found.result,
        size=images.size_HW,
        names=NAMES,
        about=words.ABOUT,
        threshold_names=THRESHOLD_NAMES,
        tiles=tiles(found),
        missing=words.missing(found),
        remarks=words.remarks(found),
        not_scored=repeated(found.failures.items()),
        groups=table_rows(found),
        image_columns=words.measured_columns(found, words.IMAGE),
        pixel_columns=words.measured_columns(found, words.PIXEL),
        shown_thresholds=[
            name for name in ("threshold_1", "threshold_5") if found.at_thresholds[name]
        ],
        recall=lambda threshold, group: _recall(found, threshold, group),
        charts=charts(found),
        defects=_defects(found),
        sections=[
            {"key": key, "title": title, "about": about, "cards": _cards(sections[key], scale)}
            for key, (title, about) in _SECTIONS.items()
            if sections[key]
        ],
        heat_from_training=found.card.calibration.heat is not None,
        terms=images.terms,
        facts=_facts(found),
    )


def tiles(found: EvaluationReport) -> dict[str, list[dict[str, Any]]]:
    """The headline metrics of images and of pixels; the mean of MVTec LOCO's groups goes first.

    Those that could not be measured have no tile: the page says why in a sentence.
    """
    # On MVTec LOCO the mean of the two groups is the number that papers report.
    pooled, mean = found.result.pooled, found.result.mean
    image: list[tuple[str, Measured, str]] = [(name, pooled, "") for name in words.IMAGE]
    if mean is not None:
        image[0] = ("image_auroc", pooled, "all anomalies pooled")
        image.insert(0, ("image_auroc", mean, "mean of logical and structural"))
    pixel = [(name, pooled, "") for name in words.PIXEL if name != "pixel_ap"]
    return {
        row: [
            {
                "label": NAMES[name],
                "about": words.ABOUT[name],
                "extra": extra,
                "lead": row == "image" and place == 0,
                "value": measured.metrics[name],
                "interval": measured.intervals.get(name),
            }
            for place, (name, measured, extra) in enumerate(chosen)
            if measured.metrics[name] is not None
        ]
        for row, chosen in (("image", image), ("pixel", pixel))
    }


def charts(found: EvaluationReport) -> dict[str, str]:
    """The charts as SVG by name; charts without data are left out."""
    result, made = found.result, {}
    if found.rows:
        by_group = _scores_by_group(found)
        # Validation normals first: thresholds were computed from them.
        rows = {"held-out good": list(found.held_out_scores)} if found.held_out_scores else {}
        rows |= {"test good" if name == "good" else name: row for name, row in by_group.items()}
        marks = {
            THRESHOLD_NAMES[k]: row.threshold
            for k, row in found.at_thresholds.items()
            if row is not None
        }
        made["scores"] = histograms(
            "Image scores",
            f"Histograms of the image scores of {', '.join(rows)}, with the thresholds "
            f"{', '.join(f'{name} at {at:.4g}' for name, at in marks.items()) or '(none)'}.",
            rows,
            marks,
        )
    # Curves exist only with both classes.
    if len(result.roc_P2):
        made |= _curve_charts(found)
    if result.per_type and result.metrics["image_auroc"] is not None:
        rows_ = [
            Estimate(name, row.metrics["image_auroc"], row.intervals.get("image_auroc"))
            for name, row in table_rows(found)
        ]
        made["types"] = estimates(
            "Image AUROC by anomaly type",
            "; ".join(f"{row.name} {value(row.value)}" for row in rows_) + ".",
            rows_,
            "image AUROC against all good images, with 95 % intervals",
        )
    # Kinds of synthetic anomalies, from the calibration.
    by_kind = found.card.calibration.auroc_by_kind
    if by_kind:
        made["kinds"] = estimates(
            "Validation AUROC by kind of edit",
            "; ".join(f"{kind} {value(auroc)}" for kind, auroc in sorted(by_kind.items())) + ".",
            [Estimate(kind, auroc) for kind, auroc in sorted(by_kind.items())],
            "image AUROC of held-out normals against synthetic anomalies",
        )
    return made


def _curve_charts(found: EvaluationReport) -> dict[str, str]:
    """ROC and precision-recall curves of all anomalies and, if they are few, of every type."""
    result, by_group = found.result, _scores_by_group(found)
    lines = [("all anomalies", result.roc_P2, result.pr_P2, result.pooled)]
    if 1 < len(result.per_type) < _MOST_CURVES:
        for name, measured in result.per_type.items():
            # Curves per type are not stored; they follow from the scores.
            good, bad = by_group["good"], by_group[name]
            metrics = image_metrics([0] * len(good) + [1] * len(bad), [*good, *bad])
            lines.append((name, metrics.roc_P2, metrics.pr_P2, measured))
    # Random scores have a precision equal to the share of anomalous images, at any recall.
    share = result.pooled.anomalous / len(found.rows)
    roc, pr = (
        [f"{name} ({value(m.metrics[metric])})" for name, *_, m in lines]
        for metric in ("image_auroc", "image_ap")
    )
    return {
        "roc": curves(
            "ROC curve",
            f"Recall over false positive rate; area under the curve: {', '.join(roc)}.",
            [Curve(name, line[1]) for name, line in zip(roc, lines, strict=True)],
            "false positive rate: good images above the threshold",
            "recall: anomalous images above it",
            [(0, 0), (1, 1)],
        ),
        "pr": curves(
            "Precision and recall",
            f"Precision over recall; average precision: {', '.join(pr)}.",
            [
                Curve(name, _from_zero(line[2]), step=True)
                for name, line in zip(pr, lines, strict=True)
            ],
            "recall: anomalous images above the threshold",
            "precision: share of anomalous images above it",
            [(0, share), (1, share)],
        ),
    }


def _from_zero(pr_P2: np.ndarray) -> np.ndarray:
    """The curve extended to recall 0: drawn in steps, its area is the average precision."""
    return np.vstack([[0.0, pr_P2[0, 1]], pr_P2])


def _scores_by_group(found: EvaluationReport) -> dict[str, list[float]]:
    """Scores of good images first, then of every type in the order of the tables."""
    names = ["good", *found.result.per_type]
    scores = {name: [row.score for row in found.rows if row.group == name] for name in names}
    return {name: row for name, row in scores.items() if row}


def _defects(found: EvaluationReport) -> list[dict[str, Any]]:
    """Rows of the table of defects, by group and rising AUROC."""
    # The lowest AUROC first: what the detector misses.
    rows = [{"name": name, **row} for name, row in found.per_defect.items()]
    return sorted(rows, key=lambda row: (row["group"], row["image_auroc"] or 0, row["name"]))


def _cards(section: Sequence[Example], scale: Any) -> list[dict[str, Any]]:
    """The example images of a section as the template needs them."""
    return [
        {
            "row": one.row,
            # Names of the defects, or the type where the source does not name them.
            "what": ", ".join(name.replace("_", " ") for name in one.row.defects)
            or one.row.group.replace("_", " "),
            **_verdict(one.row.over),
            **one.data_uris(scale),
        }
        for one in section
    ]


def _verdict(over: Mapping[str, bool]) -> dict[str, Any]:
    """The strictest threshold that an image reaches, and the colour of its badge."""
    # THRESHOLDS is ordered from strict to lenient.
    reached = [name for name in THRESHOLDS if over.get(name)]
    known = {"known": bool(over)}
    if not reached:
        return known | {"tone": "calm", "verdict": "below all thresholds"}
    # The best-F1 threshold depends on synthetic anomalies. Where they are far from real ones, it
    # lies among the good images, so exceeding it alone is only a doubt.
    tone = "doubt" if reached[0] == "threshold_f1" else "alarm"
    return known | {"tone": tone, "verdict": f"above {THRESHOLD_NAMES[reached[0]]}"}


def _recall(found: EvaluationReport, threshold: str, group: str) -> str:
    """The recall of a group, of the mean of groups, or of all anomalies at a threshold."""
    row = found.at_thresholds[threshold]
    if row is None:
        return percent(None)
    # Rows of the table: a type, all pooled, or the mean of the groups.
    if group in row.recall_by_type:
        return percent(row.recall_by_type[group])
    shares = list(row.recall_by_type.values())
    return percent(row.recall if group == POOLED else sum(shares) / len(shares))


def _facts(found: EvaluationReport) -> Mapping[str, str]:
    """How the detector was trained and evaluated, as rows of a list."""
    card = found.card
    # Only where early stopping kept an earlier step.
    best = f", best at {card.best_step}" if card.best_step != card.steps else ""
    return {
        "trained on": f"{card.version.category} {card.version.name}",
        "steps": f"{card.steps:,}{best}" + (" (stopped early)" if card.stopped_early else ""),
        "training took": f"{card.seconds:,.0f} s on {card.device}, {card.precision}",
        "input": f"{card.settings.get('size', '?')} px, {card.parameters:,} parameters",
        "teacher": f"{card.teacher.name} · {card.teacher.sha256[:12]}" if card.teacher else "none",
        "seed": str(card.seed),
        "checkpoint": f"{card.sha256[:12]}…",
        "evaluated on": f"{found.tested['category']} {found.tested['name']}",
        "content": f"{found.tested['digest'][:12]}…",
        "scored": f"{len(found.rows)} images in {found.seconds:.1f} s on {found.device}",
    }

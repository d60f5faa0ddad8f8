"""The audit of a version as text: the rows and sentences that card, gallery and terminal share.

`found` is what is stored in the index under `audit`; it may be empty or lack a report.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.kinds import is_control
from pipeline.utils.text_table import table

# The rows of the shortcut audit in the order in which they are shown.
EXPLAINED = {
    "image": "MAIN QUESTION: anomalies against controls, whole images",
    "content": "the same without any edited pixel: content alone",
    "inside_ground": "inpainted background: anomalies against controls",
    "inside_parts": "pasted objects: anomalies against controls",
    "parts_content": "the same objects before the edit: content alone",
    "repaint_noop": "controls against their sources: object put back",
    "repaint_background": "controls against their sources: background inpainted",
    "repaint_image": "controls against their sources: whole images",
    "outside": "outside the change masks, must be 0.5",
}
# The verdicts of the index as they are shown.
VERDICTS = {
    "fine": "fine",
    "warning": "WARNING",
    "trace": "a trace",
    "few": "too few to tell",
    "reference": "to compare with",
}


def shortcut_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the shortcut audit in their order, with `meaning`, `figure` and `says`."""
    rows = {row["name"]: row for row in found.get("shortcut", {}).get("rows", [])}
    # Rows of another release are shown last, under their names.
    order = [*EXPLAINED, *sorted(set(rows) - set(EXPLAINED))]
    return [
        rows[name]
        | {
            "meaning": EXPLAINED.get(name, name),
            "figure": figure(rows[name]),
            "says": VERDICTS.get(rows[name]["verdict"], rows[name]["verdict"]),
        }
        for name in order
        if name in rows
    ]


def kind_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the detectability report, the most detectable kind first, controls last."""
    kinds = found.get("detectability", {}).get("kinds", {})
    rows = [
        {"name": kind, "meaning": "", **line, "figure": figure(line)}
        for kind, line in kinds.items()
    ]
    return sorted(
        rows,
        key=lambda row: (is_control(row["name"]), -(row["auroc"] or 0), row["name"]),
    )


def remarks(found: Mapping[str, Any]) -> list[str]:
    """Sentences below the tables: warnings and what they mean, and what was not compared."""
    # A report that failed has a note instead of figures.
    said = [f"{name} audit {part['note']}" for name, part in found.items() if part.get("note")]
    # The three rows that lead to sentences of their own.
    rows = {row["name"]: row for row in shortcut_rows(found)}
    image, content, outside = (rows.get(name) for name in ("image", "content", "outside"))
    if image and image["warning"]:
        said.append(
            "Warning: statistics of the finest detail tell anomalies from controls: AUROC "
            f"{image['figure']}, above {found['shortcut']['limit']}. {_explained(image, content)}"
        )
    if outside and outside["warning"]:
        said.append(
            "Warning: pixels outside the change masks tell anomalies from controls: AUROC "
            f"{outside['figure']} instead of 0.5."
        )
    # All traces in one sentence, with their figures.
    traces = [row for row in rows.values() if row["verdict"] == "trace"]
    if traces:
        listed = ", ".join(f"{row['meaning']} {row['auroc']:.2f}" for row in traces)
        said.append(
            f"Traces of editing were found in: {listed}. These comparisons use the change masks, "
            "which a detector does not have. To see whether yours finds the traces, check that it "
            "scores controls like untouched normals."
        )
    for part in found.values():
        said += part.get("notes", [])
    return said


def _explained(image: Mapping[str, Any], content: Mapping[str, Any] | None) -> str:
    """Whether the content of the images alone explains the figure over whole images."""
    if not content or not content["interval"]:
        return "How much of it comes from the content of the images is not known."
    low, high = content["interval"]
    # Content explains it if it is significant by itself and its interval reaches the figure.
    if low > 0.5 and image["auroc"] <= high:
        return (
            "The content of the images explains it: without any edited pixel the AUROC is "
            f"{content['figure']}, because an anomaly has more or less detail than its source."
        )
    return (
        f"The content of the images does not explain it (without any edited pixel: "
        f"{content['figure']}), so a detector may learn the editing instead of the anomaly. Check "
        "that yours scores controls like untouched normals."
    )


def figure(row: Mapping[str, Any]) -> str:
    """Such as `0.62 [0.55, 0.70]`; a dash where nothing could be compared."""
    if row["auroc"] is None or row["interval"] is None:
        return "–"
    low, high = row["interval"]
    return f"{row['auroc']:.2f} [{low:.2f}, {high:.2f}]"


def as_text(found: Mapping[str, Any]) -> str:
    """Both reports as plain text for a terminal."""
    lines = ["shortcut audit: AUROC of a linear probe, 95 % interval over source images"]
    shortcuts = [[r["name"], r["figure"], r["says"], r["meaning"]] for r in shortcut_rows(found)]
    lines += [table(None, shortcuts, "<", indent="  ")] if shortcuts else []
    # Which images the baseline was evaluated on.
    seen = found.get("detectability", {}).get("images", "")
    lines += ["", f"detectability: image AUROC of a frozen patch baseline on {seen or 'nothing'}"]
    kinds = [
        [row["name"], row["figure"], row["word"], f"({row['samples']} samples)"]
        for row in kind_rows(found)
    ]
    lines += [table(None, kinds, "<", indent="  ")] if kinds else []
    said = remarks(found)
    return "\n".join([*lines, "", *said] if said else lines)

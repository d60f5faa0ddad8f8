"""The audit of a version in words: the rows and sentences that card, gallery and terminal share.

`found` is what stands in the index under `audit`; it may be empty or lack a part.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.kinds import is_control

EXPLAINED = {
    "image": "THE QUESTION: edited pictures against controls, whole pictures",
    "content": "the same without any edited pixel: content alone",
    "inside_ground": "filled ground: anomalies against controls",
    "inside_parts": "parts laid down: anomalies against controls",
    "parts_content": "the same parts before the edit: content alone",
    "repaint_noop": "controls against their sources: part put back",
    "repaint_background": "controls against their sources: ground refilled",
    "repaint_image": "controls against their sources: whole pictures",
    "outside": "outside the change masks, must be 0.5",
}
"""The rows of the shortcut audit in the order in which they are shown, in plain words."""
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
    """The rows of the detectability report, the most visible kind first, controls last."""
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
    """What must be said in words: the warning and how far it goes, and what was not asked."""
    said = [f"{name} audit {part['note']}" for name, part in found.items() if part.get("note")]
    rows = {row["name"]: row for row in shortcut_rows(found)}
    image, content, outside = (rows.get(name) for name in ("image", "content", "outside"))
    if image and image["warning"]:
        said.append(
            "Warning: statistics of the finest detail tell edited pictures from controls: AUROC "
            f"{image['figure']}, above {found['shortcut']['limit']}. {_explained(image, content)}"
        )
    if outside and outside["warning"]:
        said.append(
            "Warning: pixels outside the change masks tell edited pictures from controls: AUROC "
            f"{outside['figure']} in place of 0.5."
        )
    traces = [row for row in rows.values() if row["verdict"] == "trace"]
    if traces:
        listed = ", ".join(f"{row['meaning']} {row['auroc']:.2f}" for row in traces)
        said.append(
            f"Traces of editing show in: {listed}. Where a mask says where to look, a detector is "
            "not told. Whether yours finds them: see if it scores controls like untouched normals."
        )
    for part in found.values():
        said += part.get("notes", [])
    return said


def _explained(image: Mapping[str, Any], content: Mapping[str, Any] | None) -> str:
    """Whether what the pictures show is enough for the figure over whole pictures."""
    if not content or not content["interval"]:
        return "How much of it is what the pictures show is not known."
    low, high = content["interval"]
    if low > 0.5 and image["auroc"] <= high:
        return (
            "What the pictures show explains it: without any edited pixel it is "
            f"{content['figure']}, because an anomaly has more or less detail than its source."
        )
    return (
        f"What the pictures show does not explain it (without any edited pixel: "
        f"{content['figure']}): a detector may learn the editing instead of the meaning. See "
        "whether it scores controls like untouched normals."
    )


def figure(row: Mapping[str, Any]) -> str:
    """0.62 [0.55, 0.70], or a dash."""
    if row["auroc"] is None or row["interval"] is None:
        return "–"
    low, high = row["interval"]
    return f"{row['auroc']:.2f} [{low:.2f}, {high:.2f}]"


def as_text(found: Mapping[str, Any]) -> str:
    """Both reports as plain text for a terminal."""
    lines = ["shortcut audit: AUROC of a trivial probe, 95 % interval over source images"]
    lines += [
        f"  {row['name']:<19} {row['figure']:<19} {row['says']:<16} {row['meaning']}"
        for row in shortcut_rows(found)
    ]
    seen = found.get("detectability", {}).get("images", "")
    lines += ["", f"detectability: image AUROC of a frozen patch baseline on {seen or 'nothing'}"]
    lines += [
        f"  {row['name']:<19} {row['figure']:<19} {row['word']}  ({row['samples']} samples)"
        for row in kind_rows(found)
    ]
    said = remarks(found)
    return "\n".join([*lines, "", *said] if said else lines)

"""Several reports side by side: detectors are rows, categories are columns.

    compare(sorted(Path("reports").glob("*/*/report.json"))).markdown()

On categories in MVTec LOCO's layout the image AUROC is the mean of logical and structural, which is
what its papers print. The mean over categories is plain, over those that a detector was measured
on; it is left out where some are missing, because means over different categories do not compare.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from detectors.evaluation.report_text import NAMES, table, value
from detectors.evaluation.results import FORMAT
from pipeline.errors import IntegrityError, UserError

SHOWN = ("image_auroc", "image_ap", "pixel_auroc", "aupro", "spro", "iap", "iap90")
"""The metrics that a comparison prints, each a table of its own."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Reports by detector and category. `notes` tells what makes the numbers hard to compare."""

    detectors: tuple[str, ...]
    categories: tuple[str, ...]
    reports: dict[tuple[str, str], dict[str, Any]]
    notes: tuple[str, ...]

    def number(self, metric: str, detector: str, category: str) -> float | None:
        """One cell; None when it was not measured or does not exist."""
        report = self.reports.get((detector, category))
        if report is None:
            return None
        return (report["mean"] or report)[metric]

    def mean(self, metric: str, detector: str) -> float | None:
        """The plain mean over all categories; None unless every one has the metric."""
        numbers = [self.number(metric, detector, category) for category in self.categories]
        found = [number for number in numbers if number is not None]
        return sum(found) / len(found) if found and len(found) == len(numbers) else None

    def rows(self, metric: str) -> list[list[str]]:
        """A row per detector: its name, its numbers, their mean; the best of a column is marked."""
        columns = [
            [self.number(metric, name, category) for name in self.detectors]
            for category in self.categories
        ]
        if len(self.categories) > 1:
            columns.append([self.mean(metric, name) for name in self.detectors])
        marked = [_marked(column) for column in columns]
        return [[name, *(m[place] for m in marked)] for place, name in enumerate(self.detectors)]

    def head(self) -> list[str]:
        return ["detector", *self.categories, *(["mean"] if len(self.categories) > 1 else [])]

    def metrics(self) -> list[str]:
        """The metrics that at least one report has."""
        return [
            metric
            for metric in SHOWN
            if any(self.number(metric, *key) is not None for key in self.reports)
        ]

    def markdown(self) -> str:
        """A table per metric; the best number of a column is bold."""
        parts = []
        for metric in self.metrics():
            parts += [f"### {NAMES[metric]}", table(self.head(), self.rows(metric))]
        parts += ["\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        """The same tables as a page of its own; holds no pictures."""
        parts = []
        for metric in self.metrics():
            head = "".join(f"<th>{escape(name)}</th>" for name in self.head())
            body = "".join(
                "<tr>" + "".join(f"<td>{_bold(cell)}</td>" for cell in row) + "</tr>"
                for row in self.rows(metric)
            )
            parts.append(
                f"<section><h2>{escape(NAMES[metric])}</h2><div><table><tr>{head}</tr>{body}"
                "</table></div></section>"
            )
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return _PAGE.replace("{{ body }}", "".join(parts) + (notes and f"<ul>{notes}</ul>"))


def compare(reports: Sequence[Path | dict[str, Any]]) -> Comparison:
    """Read reports, from `report.json` or as `EvaluationReport.to_json()` gives them.

    UserError when there is none, or two of the same detector on the same category.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for report in reports:
        content = report if isinstance(report, dict) else _read(report)
        key = content["detector"], content["category"]
        if key in found:
            raise UserError(f"two reports are of {key[0]} on {key[1]}; name one of them")
        found[key] = content
    if not found:
        raise UserError("there is no report to compare; evaluate a checkpoint with --out first")
    detectors = tuple(dict.fromkeys(detector for detector, _ in found))
    categories = tuple(sorted({category for _, category in found}))
    return Comparison(detectors, categories, found, tuple(_notes(found, categories)))


def _notes(found: dict[tuple[str, str], dict[str, Any]], categories: Sequence[str]) -> list[str]:
    notes = []
    for category in categories:
        mine = [report for (_, other), report in found.items() if other == category]
        if len({report["version"]["digest"] for report in mine}) > 1:
            notes.append(f"{category}: the reports are of different dataset versions")
        images = sorted({(report["good"], report["anomalous"]) for report in mine})
        counts = " or ".join(f"{good} good and {bad} anomalous" for good, bad in images)
        loco = ", image metrics are means of logical and structural" if mine[0]["mean"] else ""
        notes.append(f"{category}: {counts} test images{loco}")
    if len({report["precision"] for report in found.values()}) > 1:
        notes.append("not all were scored in the same precision")
    return notes


def _marked(column: Sequence[float | None]) -> list[str]:
    """The numbers as text, the best in bold if there is more than one."""
    texts = [value(number) for number in column]
    known = [number for number in column if number is not None]
    best = value(max(known)) if len(known) > 1 else None
    return [f"**{text}**" if text == best else text for text in texts]


def _bold(cell: str) -> str:
    bare = cell.removeprefix("**").removesuffix("**")
    return f"<b>{escape(bare)}</b>" if bare != cell else escape(cell)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such report") from None
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged: {error}; evaluate again") from None
    number = content.get("format") if isinstance(content, dict) else None
    if number != FORMAT or "image_auroc" not in content:
        raise UserError(f"{path} is no report.json of this release; evaluate again")
    return content


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Detectors compared · anomalysmith</title>
<style>
:root { --bg: #f4f5f7; --card: #fff; --ink: #171a21; --soft: #5d6675; --line: #dfe3ea; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #101318; --card: #181c23; --ink: #e8ebf0; --soft: #98a2b3; --line: #2a303b; }
}
body { margin: 0; padding: 28px; background: var(--bg); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1000px; margin: 0 auto; display: grid; gap: 14px; }
h1 { font-size: 28px; margin: 0 0 8px; letter-spacing: -.02em; }
h2 { font-size: 15px; margin: 0 0 8px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 14px 18px; min-width: 0; }
section div { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { font-weight: 500; color: var(--soft); font-size: 12.5px; }
th, td { text-align: right; padding: 4px 0 4px 16px; white-space: nowrap; }
td { border-top: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
ul { color: var(--soft); margin: 0; padding-left: 18px; }
@media (max-width: 720px) { body { padding: 16px 12px; } h1 { font-size: 22px; } }
</style>
</head>
<body><main><h1>Detectors compared</h1>{{ body }}</main></body>
</html>
"""

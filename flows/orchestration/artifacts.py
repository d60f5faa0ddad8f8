"""What flow runs leave in Prefect: pages with counts, links to galleries and reports."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.states import State

from flows.jobs.evaluate import METRICS, number
from flows.jobs.generate import GenerateReport
from pipeline.errors import AnomalysmithError
from pipeline.utils.html import cell


def artifact_key(name: str) -> str:
    """Prefect takes lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def leave_artifact(report: GenerateReport) -> None:
    """Store the report of one category under its own key, so its history can be looked through."""
    create_markdown_artifact(
        as_markdown(report),
        key=artifact_key(f"anomalies-{report.category}"),
        description=report.digest,
    )


def as_markdown(report: GenerateReport) -> str:
    """The report as one Markdown page."""
    how = "published before" if report.cached else f"{report.seconds:.0f} s"
    tried = report.attempted_by_kind
    lines = [
        f"# {cell(report.category)}: {report.accepted} samples from {report.images} images",
        "",
        f"`{report.digest}`, {how}",
        "",
        "| kind | attempted | accepted |",
        "|---|---:|---:|",
        *(f"| {kind} | {tried[kind]} | {count} |" for kind, count in report.by_kind.items()),
        "",
    ]
    if report.rejected:
        lines += ["| refused because | attempts |", "|---|---:|"]
        lines += [f"| {reason} | {count} |" for reason, count in report.rejected.items()]
        lines.append("")
    if report.gallery:
        lines.append(f"[Gallery]({report.gallery.as_uri()}): `{report.gallery}`")
    lines.append(f"\nVersion: `{report.version_dir}`")
    lines += [f"\nSkipped {cell(f['name'])}: {cell(f['error'])}" for f in report.failures]
    return "\n".join(lines)


Row = dict[str, Any]
"""`category`, `detector`, and either a report's content or `error`."""


class PairsFailed(AnomalysmithError):
    """Some pairs failed and the others are done; `rows` has all of them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        failed = [row for row in rows if "error" in row]
        reasons = "; ".join(f"{r['category']} x {r['detector']}: {r['error']}" for r in failed)
        super().__init__(f"{len(failed)} of {len(rows)} pairs failed: {reasons}")
        self.rows = list(rows)


def row_of(category: str, detector: str, state: State[Row]) -> Row:
    """What one task came to; an error is recorded, with its class unless the message is ours."""
    who = {"category": category, "detector": detector}
    if state.is_completed():
        return state.result() | who
    error = state.result(raise_on_failure=False)
    ours = isinstance(error, AnomalysmithError)
    return who | {"error": str(error) if ours else f"{type(error).__name__}: {error}"}


def finished(rows: list[Row]) -> list[Row]:
    """The rows, or PairsFailed when there is an error among them."""
    if any("error" in row for row in rows):
        raise PairsFailed(rows)
    return rows


def leave_training(category: str, rows: Sequence[Row]) -> None:
    """Store the page of a category's trainings under its own key."""
    lines = [
        "| detector | steps | seconds | validation AUROC | checkpoint |",
        "|---|---:|---:|---:|---|",
    ]
    for row in _done(rows):
        auroc = number(row["validation"].get("auroc"))
        steps = f"{row['steps']}{' (stopped early)' if row['stopped_early'] else ''}"
        cells = (row["detector"], steps, f"{row['seconds']:.0f}", auroc, f"`{row['checkpoint']}`")
        lines.append(f"| {' | '.join(cells)} |")
    _leave(f"training-{category}", f"{category}: trained detectors", lines, rows)


def leave_evaluation(category: str, rows: Sequence[Row]) -> None:
    """Store the page of a category's evaluations, with links to the reports."""
    lines = [
        f"| detector | {' | '.join(METRICS.values())} | report |",
        f"|---|{'---:|' * len(METRICS)}---|",
    ]
    for row in _done(rows):
        numbers = [number(row.get(key)) for key in METRICS]
        page = f"[report]({Path(row['report']).as_uri()})" if row.get("report") else "–"
        lines.append(f"| {' | '.join([row['detector'], *numbers, page])} |")
    lines += ["", *(f"`{row['report']}`" for row in _done(rows) if row.get("report"))]
    _leave(f"evaluation-{category}", f"{category}: detectors on the test split", lines, rows)


def _done(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if "error" not in row]


def _leave(key: str, title: str, lines: Sequence[str], rows: Sequence[Row]) -> None:
    page = [f"# {title}", "", *lines]
    page += [f"\nFailed, {row['detector']}: {row['error']}" for row in rows if "error" in row]
    create_markdown_artifact("\n".join(page), key=artifact_key(key), description=title)

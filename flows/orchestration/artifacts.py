"""Artifacts of flow runs in Prefect: pages with counts, links to galleries and reports."""

from flows import environment as _environment  # noqa: F401  isort: skip  first: it switches telemetry off

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.states import State

from flows.jobs.deployments import artifact_key
from flows.jobs.evaluate import METRICS, number, unmeasured
from flows.jobs.generate import GenerateReport
from pipeline.errors import AnomalysmithError
from pipeline.utils.html import escape_markdown
from pipeline.utils.repeated import repeated


def store_report(report: GenerateReport) -> None:
    """Store the report of one category under its own key, so that Prefect shows its history."""
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
        f"# {escape_markdown(report.category)}: {report.accepted} samples "
        f"from {report.images} images",
        "",
        f"`{report.digest}`, {how}",
        "",
        "| kind | attempted | accepted |",
        "|---|---:|---:|",
        *(f"| {kind} | {tried[kind]} | {count} |" for kind, count in report.by_kind.items()),
        "",
    ]
    # Reasons are those of attempts, of which a sample may take several.
    if report.rejected:
        lines += ["| rejection reason | attempts |", "|---|---:|"]
        lines += [f"| {reason} | {count} |" for reason, count in report.rejected.items()]
        lines.append("")
    # Prefect shows the link; the path is for people on other machines.
    if report.gallery:
        lines.append(f"[Gallery]({report.gallery.as_uri()}): `{report.gallery}`")
    lines.append(f"\nVersion: `{report.version_dir}`")
    failures = ((f["name"], f["error"]) for f in report.failures)
    lines += [f"\nSkipped {escape_markdown(line)}" for line in repeated(failures)]
    return "\n".join(lines)


# `category`, `detector`, and either the content of a report or `error`.
Row = dict[str, Any]


class PairsFailed(AnomalysmithError):
    """Some pairs of category and detector failed; `rows` has all, also those that succeeded."""

    def __init__(self, rows: Sequence[Row]) -> None:
        # Names and reasons of all failed pairs in one message.
        failed = [row for row in rows if "error" in row]
        reasons = "; ".join(f"{r['category']} x {r['detector']}: {r['error']}" for r in failed)
        super().__init__(f"{len(failed)} of {len(rows)} pairs failed: {reasons}")
        self.rows = list(rows)


def row_of(category: str, detector: str, state: State[Row]) -> Row:
    """The result of one task as a row.

    An error is recorded as its message; with its class unless it is one of ours, whose messages
    stand on their own.
    """
    who = {"category": category, "detector": detector}
    if state.is_completed():
        return state.result() | who
    # The exception itself, as the task raised it.
    error = state.result(raise_on_failure=False)
    ours = isinstance(error, AnomalysmithError)
    return who | {"error": str(error) if ours else f"{type(error).__name__}: {error}"}


def all_or_raise(rows: list[Row]) -> list[Row]:
    """The rows; raises PairsFailed when there is an error among them."""
    if any("error" in row for row in rows):
        raise PairsFailed(rows)
    return rows


def store_training_page(category: str, rows: Sequence[Row]) -> None:
    """Store the trainings of a category as one page under its own key."""
    lines = [
        "| detector | steps | seconds | validation AUROC | checkpoint |",
        "|---|---:|---:|---:|---|",
    ]
    for row in _done(rows):
        # The validation AUROC is measured on synthetic anomalies.
        auroc = number(row["validation"].get("auroc"))
        steps = f"{row['steps']}{' (stopped early)' if row['stopped_early'] else ''}"
        cells = (row["detector"], steps, f"{row['seconds']:.0f}", auroc, f"`{row['checkpoint']}`")
        lines.append(f"| {' | '.join(cells)} |")
    _store_page(f"training-{category}", f"{category}: trained detectors", lines, rows)


def store_evaluation_page(category: str, rows: Sequence[Row]) -> None:
    """Store the evaluations of a category as one page, with links to the reports."""
    lines = [
        f"| detector | {' | '.join(METRICS.values())} | report |",
        f"|---|{'---:|' * len(METRICS)}---|",
    ]
    for row in _done(rows):
        # A dash stands for a metric that could not be computed; the reason is below the table.
        numbers = [number(row.get(key)) for key in METRICS]
        page = f"[report]({Path(row['report']).as_uri()})" if row.get("report") else "–"
        lines.append(f"| {' | '.join([row['detector'], *numbers, page])} |")
    for row in _done(rows):
        lines += ["", *(f"{row['detector']}: {reason}  " for reason in unmeasured(row))]
    # Once more as plain paths: browsers do not follow file links from a page of the server.
    lines += ["", *(f"`{row['report']}`" for row in _done(rows) if row.get("report"))]
    _store_page(f"evaluation-{category}", f"{category}: detectors on the test split", lines, rows)


def store_comparison_page(category: str, rows: Sequence[Row]) -> None:
    """Store the comparison of a category's detectors as one page, with a link to its report."""
    # Rows of single trainings have no recommendation; there is one with it, or none.
    lines = []
    for row in _done(rows):
        if "recommendation" in row:
            lines += ["```", row["text"], "```", ""]
            lines.append(f"[Sensitivity matrix]({Path(row['page']).as_uri()}): `{row['page']}`")
    _store_page(f"comparison-{category}", f"{category}: which detector", lines, rows)


def _done(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if "error" not in row]


def _store_page(key: str, title: str, lines: Sequence[str], rows: Sequence[Row]) -> None:
    """Store one page; failed pairs are listed below the table."""
    # Failed pairs are listed below the table.
    page = [f"# {title}", "", *lines]
    # A page of its own kind even when all pairs failed.
    page += [f"\nFailed, {row['detector']}: {row['error']}" for row in rows if "error" in row]
    create_markdown_artifact("\n".join(page), key=artifact_key(key), description=title)

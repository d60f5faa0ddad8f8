"""What a flow run leaves in Prefect: a page with the counts and the way to the gallery."""

import re

from prefect.artifacts import create_markdown_artifact

from flows.jobs.generate import GenerateReport
from pipeline.utils.html import cell


def artifact_key(category: str) -> str:
    """Prefect takes lower-case letters, digits and dashes only."""
    return "anomalies-" + re.sub(r"[^a-z0-9]+", "-", category.lower()).strip("-")


def leave_artifact(report: GenerateReport) -> None:
    """Store the report of one category under its own key, so its history can be looked through."""
    create_markdown_artifact(
        as_markdown(report), key=artifact_key(report.category), description=report.digest
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

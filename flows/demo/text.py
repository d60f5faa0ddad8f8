"""The text of `make demo`: short sentences, small tables, paths of pages to open."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.jobs.generate import GenerateReport
from pipeline.kinds import is_control, kind_of
from pipeline.utils.text_table import table


def greeting(names: Sequence[str]) -> str:
    """What the demo is about to do."""
    return (
        f"Generating logical anomalies for {len(names)} products: {', '.join(names)}.\n"
        "U²-Net segments the foreground and SAM proposes objects. Each edit removes, adds, moves,\n"
        "rotates or recolours objects; LaMa inpaints the background. A gate rejects samples with\n"
        "visible editing artifacts.\n"
    )


def datasets(reports: Sequence[GenerateReport], sound: bool) -> str:
    """What was generated and where to look at it; `sound` when every version was verified."""
    rows = [
        (
            report.category,
            report.images,
            report.accepted,
            sum(report.rejected.values()),
            "published before" if report.cached else f"{report.seconds:.0f} s",
        )
        for report in reports
    ]
    # Accepted samples by kind, over all products.
    kinds: dict[str, int] = {}
    for report in reports:
        for kind, count in report.by_kind.items():
            kinds[kind] = kinds.get(kind, 0) + count
    lines = [
        "",
        table(("product", "images", "samples", "rejected", "time"), rows),
        "",
        "What the samples show:",
        table(None, [(n, _shown(kind)) for kind, n in kinds.items()], "><", indent="  "),
        "",
        "Every version was read back and verified." if sound else "A version is BROKEN, see above.",
        "",
        "Open the accepted and rejected samples in a browser:",
        *(f"  {short(report.gallery)}" for report in reports if report.gallery),
    ]
    return "\n".join(lines)


def _shown(kind: str) -> str:
    """A kind of edit in words, with its name in the manifest."""
    # Controls are edited images without an anomaly.
    label = ", labelled normal" if is_control(kind) else ""
    return f"{kind_of(kind).summary}{label} ({kind})"


def comparison(category: str, content: Mapping[str, Any]) -> str:
    """Which detector to take for a product, and where the pages are; `content` is JSON."""
    reports = [one["report"] for one in (content.get("real_test") or {}).values()]
    lines = [
        "",
        f"Which detector for {category}? Compared on good images that no fit has seen and on the",
        "anomalies generated from them; the real test split was opened at the very end.",
        "",
        content["text"],
        "",
        "AUROC: 0.5 is random, 1 is perfect. With so few images, the intervals are wide.",
        "",
        "Open the comparison, and every test image with its anomaly map, in a browser:",
        *(f"  {short(page)}" for page in (content["page"], *reports) if page),
    ]
    return "\n".join(lines)


def next_steps(first: GenerateReport, seconds: float) -> str:
    """How long the demo took, and commands to try next."""
    # Commands that work as printed, in the folder of the checkout.
    version = short(first.version_dir)
    lines = [
        "",
        f"The demo took {seconds:.0f} s.",
        "",
        "Next:",
        f"  .venv/bin/anomalysmith stats {version}",
        f"  .venv/bin/anomalysmith show {version} 0",
        f"  .venv/bin/anomalysmith train --detector semrec --version {version} --out out/mine",
        "  .venv/bin/anomalysmith generate --source folder:PATH/TO/YOUR/GOOD/IMAGES",
    ]
    return "\n".join(lines)


def short(path: Any) -> Path:
    """The path, relative to the working folder if it is inside."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

"""What `make demo` tells: plain words, small tables, paths to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.console import table
from flows.jobs.evaluate import number
from flows.jobs.generate import GenerateReport
from pipeline.kinds import is_control, kind_of

if TYPE_CHECKING:
    from flows.demo.detectors import Learnt


def greeting(names: Sequence[str]) -> str:
    """What is about to happen."""
    return (
        f"Forging logical anomalies for {len(names)} products: {', '.join(names)}.\n"
        "U²-Net finds the parts, SAM proposes objects, each edit takes away, adds, moves,\n"
        "turns or recolours some, LaMa fills the gaps, and a gate refuses what looks wrong.\n"
    )


def made(reports: Sequence[GenerateReport], sound: bool) -> str:
    """What was forged and where to look at it."""
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
    kinds: dict[str, int] = {}
    for report in reports:
        for kind, count in report.by_kind.items():
            kinds[kind] = kinds.get(kind, 0) + count
    lines = [
        "",
        table(("product", "images", "samples", "refused", "time"), rows),
        "",
        "What the samples show:",
        *(f"  {count:4d}  {_shown(kind)}" for kind, count in kinds.items()),
        "",
        "Every version was read back and verified." if sound else "A version is BROKEN, see above.",
        "",
        "Look at the samples, accepted and refused, in a browser:",
        *(f"  {short(report.gallery)}" for report in reports if report.gallery),
    ]
    return "\n".join(lines)


def _shown(kind: str) -> str:
    label = ", labelled normal" if is_control(kind) else ""
    return f"{kind_of(kind).summary}{label} ({kind})"


def learning(category: str, learnt: Sequence["Learnt"]) -> str:
    """What the detectors came to on the real test split, and where their reports are."""
    if not learnt:
        return ""
    first = learnt[0].numbers
    good, bad = first["good"], first["anomalous"]
    kinds = list(first["per_type"])
    rows = [
        (
            one.detector,
            number(one.numbers["validation"]["auroc"]),
            number(one.numbers["image_auroc"]),
            *(number(one.numbers["per_type"][kind]["image_auroc"]) for kind in kinds),
            number(one.numbers["pixel_auroc"]),
            "trained before" if one.cached else f"{one.seconds:.0f} s",
        )
        for one in learnt
    ]
    lines = [
        "",
        f"Small detectors learnt {category}, then met its real test split, which nothing above has",
        f"seen: {good} good pictures and {bad} with a defect.",
        "",
        table(("detector", "forged", "real", *kinds, "where", "time"), rows),
        "",
        "0.5 is guessing, 1 is perfect (image AUROC; where: pixel AUROC). Forged: pictures that",
        "were held out against what was forged from them. So few pictures make rough numbers.",
        *(_in_words(one) for one in learnt),
        "",
        "Look at every test picture with its map, in a browser:",
        *(f"  {short(Path(one.numbers['report']))}" for one in learnt),
    ]
    return "\n".join(lines)


def _in_words(one: "Learnt") -> str:
    auroc = one.numbers["image_auroc"]
    if auroc is None:
        return f"{one.detector}: {one.numbers['notes'].get('image_auroc', 'no number')}"
    return (
        f"{one.detector}: of a good and a defective picture, the defective one gets the higher "
        f"score in {100 * auroc:.0f} of 100 pairs."
    )


def next_steps(first: GenerateReport, seconds: float) -> str:
    """How long it took, and what to type now."""
    version = short(first.version_dir)
    lines = [
        "",
        f"All of it took {seconds:.0f} s.",
        "",
        "Next:",
        f"  .venv/bin/anomalysmith stats {version}",
        f"  .venv/bin/anomalysmith show {version} 0",
        f"  .venv/bin/anomalysmith train --detector efficientad --profile tiny --version {version} "
        "--out out/mine",
        "  .venv/bin/anomalysmith generate --source folder:PATH/TO/YOUR/GOOD/IMAGES",
    ]
    return "\n".join(lines)


def short(path: Any) -> Path:
    """Relative to the working folder where that is shorter."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

"""The text of `make demo`: short sentences, small tables, paths of pages to open."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.jobs.evaluate import number
from flows.jobs.generate import GenerateReport
from pipeline.kinds import is_control, kind_of
from pipeline.utils.text_table import table

if TYPE_CHECKING:
    from flows.demo.detectors import Trained


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


def results(category: str, trained: Sequence["Trained"]) -> str:
    """Metrics of the detectors on the real test split, and where their reports are."""
    if not trained:
        return ""
    # Counts and defect types are those of the test split, equal for all detectors.
    first = trained[0].numbers
    good, bad = first["good"], first["anomalous"]
    # One column per type of defect in the test split.
    kinds = list(first["per_type"])
    rows = [
        (
            one.detector,
            number(one.numbers["validation"]["auroc"]),
            number(one.numbers["image_auroc"]),
            # Image AUROC of good images against this type of defect alone.
            *(number(one.numbers["per_type"][kind]["image_auroc"]) for kind in kinds),
            number(one.numbers["pixel_auroc"]),
            "trained before" if one.cached else f"{one.seconds:.0f} s",
        )
        for one in trained
    ]
    lines = [
        "",
        f"Small detectors were trained on {category} and evaluated on its real test split, which",
        f"was not used until now: {good} good images and {bad} with a defect.",
        "",
        table(("detector", "synthetic", "real", *kinds, "pixels", "time"), rows),
        "",
        "Image AUROC: 0.5 is random, 1 is perfect (pixels: pixel AUROC). Synthetic: held-out good",
        "images against the anomalies generated from them. With so few images, these numbers vary.",
        *(_in_words(one) for one in trained),
        "",
        "Open every test image with its anomaly map in a browser:",
        *(f"  {short(Path(one.numbers['report']))}" for one in trained),
    ]
    return "\n".join(lines)


def _in_words(one: "Trained") -> str:
    """What an AUROC means, for readers who have not met it."""
    auroc = one.numbers["image_auroc"]
    # A test split with one class only has no AUROC.
    if auroc is None:
        return f"{one.detector}: {one.numbers['notes'].get('image_auroc', 'no number')}"
    return (
        f"{one.detector}: of a good and a defective image, the defective one has the higher score "
        f"in {100 * auroc:.0f} of 100 pairs."
    )


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
        f"  .venv/bin/anomalysmith train --detector efficientad --profile tiny --version {version} "
        "--out out/mine",
        "  .venv/bin/anomalysmith generate --source folder:PATH/TO/YOUR/GOOD/IMAGES",
    ]
    return "\n".join(lines)


def short(path: Any) -> Path:
    """The path, relative to the working folder if it is inside."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

"""`anomalysmith evaluate`: a checkpoint on real test images, of a version or of folders."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import (
    DONE,
    INTERRUPTED,
    SKIPPED,
    FollowLinks,
    Json,
    exit_with,
    print_note,
    print_result,
    stdout_to_stderr,
)
from pipeline.errors import UserError
from pipeline.utils.repeated import repeated
from pipeline.utils.text_table import table

Checkpoint = Annotated[
    Path,
    typer.Option(
        metavar="DIR", help="Folder of a checkpoint, as written by `train`.", show_default=False
    ),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where the detector runs.")]
Precision = Annotated[
    str, typer.Option(metavar="auto|fp32|tf32|bf16", help="Precision of matrix products.")
]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Images per batch.")]


def evaluate_command(
    checkpoint: Checkpoint,
    version: Annotated[
        Path | None,
        typer.Option(metavar="VERSION_DIR", help="Version with a real test split to score."),
    ] = None,
    good: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Instead of a version: folder of good images; may be given several times.",
        ),
    ] = None,
    bad: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="With --good: folder of bad images, whose sub-folders are types of defects; may "
            "be given several times.",
        ),
    ] = None,
    masks: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="With --bad: folder of masks, called as the bad images; an image may be without.",
        ),
    ] = None,
    follow_links: FollowLinks = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a report page and the scores to this folder."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 16,
    original_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Size of the original image files, for the absolute areas of a "
            "defects_config.json.  [default: as recorded in the version, or that of MVTec LOCO]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a trained detector on real test images: per image, per pixel, per defect type.

    The images are those of a version, or those of your own folders with --good and --bad. A metric
    that cannot be computed is null, and `notes` tells why. The checkpoint is not changed: its
    thresholds come from the version it was trained on. Exit code 3 when some images could not be
    read: these are named, the others are measured.
    """
    from flows.jobs.evaluate import EvaluateJob, evaluate, one_sided

    # Options are checked before anything heavy is imported.
    job = EvaluateJob(
        checkpoint=checkpoint, version=version, good=tuple(good or ()), bad=tuple(bad or ()),
        masks=tuple(masks or ()), follow_links=follow_links, out=out, device=device,
        precision=precision, batch_size=batch_size, original_size=size_of(original_size),
    )  # fmt: skip
    try:
        with stdout_to_stderr(as_json):
            from flows.commands.progress_bars import StepBar

            content = evaluate(job, StepBar("img"))
    except KeyboardInterrupt:
        print_note("\ninterrupted: no report was written")
        exit_with(INTERRUPTED)
    failures = ((row["name"], row["error"]) for row in content["failures"])
    for line in repeated(failures):
        print_note(f"not scored: {line}")
    if warning := one_sided(content):
        print_note(warning)
    print_result(content, as_json, as_text(content))
    exit_with(SKIPPED if content["failures"] else DONE)


def size_of(text: str | None) -> tuple[int, int] | None:
    """(height, width) of `1280x1600`."""
    if text is None:
        return None
    # Height first, as everywhere in the manifest.
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f"expected --original-size HEIGHTxWIDTH, such as 1280x1600; got {text!r}")
    return int(height), int(width)


def as_text(content: dict[str, Any]) -> str:
    """The metrics as small tables: overall, by defect type, at the thresholds of the training."""
    from flows.jobs.evaluate import METRICS, headline, number, unmeasured

    images, bad = content["images"], content["images"] - content["good"]
    lines = [f"{images} test images: {content['good']} good, {bad} anomalous", ""]
    # Headline metrics, then one row per type of defect, then counts at the thresholds.
    lines += [table(("metric", "value", "95 %"), rows)] if (rows := headline(content)) else []
    lines += unmeasured(content)
    if content["per_type"] and content["image_auroc"] is not None:
        by_type = [
            (name, row["anomalous"], number(row["image_auroc"]), number(row["image_ap"]))
            for name, row in content["per_type"].items()
        ]
        lines += ["", table(("type", "images", "image AUROC", "image AP"), by_type)]
    # A threshold has no row where the split has no images for it.
    alarms = [(name, row) for name, row in content["thresholds"].items() if row]
    if alarms and images:
        counted = [
            (name, f"{row['threshold']:.4g}", _share(row, "found"), _share(row, "false_alarms"))
            for name, row in alarms
        ]
        head = ("threshold", "score", "detected (95 %)", "false alarms (95 %)")
        lines += ["", table(head, counted)]
    # Why a metric is missing was said above, and before it that a class is missing.
    said = {*METRICS, "test"} | ({"intervals"} if content["image_auroc"] is None else set())
    remarks = [why for name, why in content["notes"].items() if name not in said]
    lines += ["", *(f"note: {why}" for why in remarks)] if remarks else []
    if content["report"]:
        lines += ["", f"report  {content['report']}"]
    return "\n".join(lines)


# Of a count at a threshold: the key of all images of its class, that of its interval, the class.
_SHARES = {
    "found": ("anomalous", "recall_interval", "anomalous"),
    "false_alarms": ("good", "false_positive_interval", "good"),
}


def _share(row: dict[str, Any], key: str) -> str:
    """`1 of 20, 5 % (1–24)`: a count, its share and the 95 % interval of the share."""
    whole, ends, what = _SHARES[key]
    if not row[whole]:
        return f"no {what} image"
    low, high = (f"{100 * end:.0f}" for end in row[ends])
    return f"{row[key]} of {row[whole]}, {row[key] / row[whole]:.0%} ({low}–{high})".replace(
        "%", " %"
    )

"""`anomalysmith plan`: what `generate` would run, what is cached, and how long it should take."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import (
    DONE,
    Json,
    exit_with,
    print_error,
    print_result,
    stdout_to_stderr,
    worst_code,
)
from pipeline.errors import AnomalysmithError
from pipeline.utils.repeated import repeated
from pipeline.utils.text_table import table

# Stages whose names would be misunderstood.
WORDS = {
    "start": "load models", "normality": "calibration", "samples": "generation",
    "drawing": "rendering",
}  # fmt: skip


def plan_command(
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The manifest.  [default: data_manifest.yaml]"),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this category; may be given several times."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where dataset versions go.  [default: the manifest's]"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N good images by name.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Images processed at once.  [default: the CPUs that other programs leave free]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show per category what `generate` would do: stages to run and cached, samples, time, why.

    Times are estimated from earlier runs on this store with the same models, image size and kind of
    device; without any they are unknown. Nothing is written and no model is loaded.
    """
    from flows.jobs.category_options import Choices, settings_of
    from flows.jobs.forecast import forecast
    from pipeline.utils.free_cpus import cpus

    found: list[dict[str, Any]] = []
    codes: list[int] = []
    with stdout_to_stderr(as_json):
        choices = Choices(manifest=manifest, categories=category or (), store=store)
        wanted = settings_of(choices)
        # Once: looking takes a moment, and all categories get the same number.
        workers = workers or cpus().free
        for settings in wanted:
            try:
                found.append(forecast(settings, limit, workers))
                codes.append(DONE)
            except AnomalysmithError as error:
                # The other categories are shown all the same.
                print_error(error)
                found.append({"category": settings.name, "error": str(error)})
                codes.append(error.exit_code)
    # The total is unknown as soon as one category is.
    whole = [facts for facts in found if "error" not in facts]
    known = [facts["seconds"] for facts in whole]
    total = None if None in known or len(whole) < len(found) else round(sum(known), 2)
    text = "\n".join(as_text(facts) for facts in whole)
    # One category says it all by itself.
    if len(whole) > 1:
        to_run = sum(facts["published"] is None for facts in whole)
        took = "unknown" if total is None else f"about {total:.0f} s"
        text += f"\n{to_run} of {len(whole)} categories to run, time {took}"
    print_result({"categories": found, "seconds": total}, as_json, text)
    exit_with(worst_code(codes))


def as_text(facts: dict[str, Any]) -> str:
    """The forecast of one category for people."""
    name, seconds = facts["category"], facts["seconds_by_stage"]
    if facts["published"]:
        # The version exists: nothing else is worth a line.
        where = Path(facts["published"]).name
        return f"{name}: nothing to do, {where} is published ({facts['images']} images)"
    parent = f"child of {facts['parent']}" if facts["parent"] else "the first"
    lines = [f"{name}: a new version, {parent}, from {facts['images']} good images"]
    if facts["parent"]:
        lines[0] += ", unless its content turns out the same"
    lines += [f"  because {reason}" for reason in facts["changed"]]
    if facts["to_draw"]:
        lines.append(f"  {facts['to_draw']} scenes are rendered first")
    # Loading the models is no stage of the plan, but takes time.
    stages = {"start": {"to_run": "", "cached": ""}} if "start" in seconds else {}
    # One row per stage; time only where earlier runs have measured it.
    rows = [
        (
            WORDS.get(stage, stage),
            row["to_run"],
            row["cached"],
            f"{seconds[stage]:.1f} s" if stage in seconds else "",
        )
        for stage, row in (stages | facts["stages"]).items()
    ]
    lines.append(table(("stage", "to run", "cached", "time"), rows, indent="  "))
    made = facts["samples_to_make"]
    lines.append(
        f"  samples: {made['anomalous']} anomalous and {made['controls']} controls, less what the "
        "gate rejects"
    )
    lines.append(f"  time: {_time_text(facts)}")
    failures = ((f["name"], f["error"]) for f in facts["failures"])
    lines += [f"  cannot use {line}" for line in repeated(failures)]
    return "\n".join(lines)


def _time_text(facts: dict[str, Any]) -> str:
    """The estimate, or which stages have no earlier run to estimate it from."""
    if facts["seconds"] is None:
        # One unknown stage makes the sum unknown.
        unknown = ", ".join(WORDS.get(stage, stage) for stage in facts["unknown"])
        return f"unknown, no earlier run of {unknown} on this store"
    runs = facts["measured_in"]
    return f"about {facts['seconds']:.0f} s, from {runs} earlier run{'s' * (runs != 1)}"

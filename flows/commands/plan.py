"""`anomalysmith plan`: what `generate` would run, what is cached, and how long it should take."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import DONE, Json, answer, complain, leave, quiet_output, worst
from flows.jobs.category_options import Choices, settings_of
from pipeline.errors import AnomalysmithError


def plan_command(
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What to read and make.  [default: data_manifest.yaml]"),
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
            metavar="N", min=1, help="Images in work at once.  [default: the number of CPUs]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say per category what generate would do: stages to run and cached, samples, time, and why.

    Times come from earlier runs of the same store with the same models, size and kind of device;
    without any, they are unknown. Nothing is written and no model is loaded.
    """
    from flows.jobs.forecast import forecast, forecast_text

    found: list[dict[str, Any]] = []
    codes: list[int] = []
    with quiet_output(as_json):
        choices = Choices(manifest=manifest, categories=category or (), store=store)
        for settings in settings_of(choices):
            try:
                found.append(forecast(settings, limit, workers))
                codes.append(DONE)
            except AnomalysmithError as error:  # the other categories are told all the same
                complain(error)
                found.append({"category": settings.name, "error": str(error)})
                codes.append(error.exit_code)
    whole = [facts for facts in found if "error" not in facts]
    known = [facts["seconds"] for facts in whole]
    total = None if None in known or len(whole) < len(found) else round(sum(known), 2)
    text = "\n".join(forecast_text(facts) for facts in whole)
    if len(whole) > 1:
        to_run = sum(facts["published"] is None for facts in whole)
        took = "unknown" if total is None else f"about {total:.0f} s"
        text += f"\n{to_run} of {len(whole)} categories to run, time {took}"
    answer({"categories": found, "seconds": total}, as_json, text)
    leave(worst(codes))

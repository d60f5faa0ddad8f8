"""`anomalysmith detectors`: the available detectors, and the settings of each."""

import json
from textwrap import wrap
from typing import Annotated, Any

import typer

from flows.commands.console import Json, print_result, stdout_to_stderr
from pipeline.utils.text_table import table

# Characters per line of the explanations.
WIDTH = 100


def detectors_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Show the settings of this detector.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the detectors; with a name, its settings in every profile, for `train --set`."""
    with stdout_to_stderr(as_json):
        content = {"detectors": _listing()} if name is None else _settings(name)
    print_result(
        content, as_json, _listing_text(content) if name is None else _settings_text(content)
    )


def _listing() -> list[dict[str, Any]]:
    """Every detector with its summary and the weights of every profile."""
    from detectors.registry import DETECTORS, PROFILES, configure
    from pipeline.models.weights import store as weights

    return [
        {
            "name": name,
            "summary": entry.summary,
            "teacher": {
                profile: {"weights": teacher, "state": weights.state(teacher)}
                # The profiles may use different weights.
                for profile in PROFILES
                for teacher in [configure(name, profile).settings.teacher]
            },
        }
        for name, entry in DETECTORS.items()
    ]


def _settings(name: str) -> dict[str, Any]:
    """The settings of one detector with their values in every profile."""
    from detectors.registry import PROFILES, Recipe, configure, entry
    from flows.jobs.detector_options import settings_table

    summary = entry(name).summary
    # One column of values per profile.
    recipes: dict[str, Recipe] = {profile: configure(name, profile) for profile in PROFILES}
    return {"name": name, "summary": summary, "settings": settings_table(recipes)}


def _listing_text(content: dict[str, Any]) -> str:
    # Three lines each: name, summary, and the weights of its frozen part.
    lines: list[str] = []
    for row in content["detectors"]:
        teachers = ", ".join(
            f"{profile} {teacher['weights']} ({teacher['state']})"
            for profile, teacher in row["teacher"].items()
        )
        lines += [f"{row['name']}", f"    {row['summary']}", f"    teacher: {teachers}"]
    return "\n".join(lines)


def _settings_text(content: dict[str, Any]) -> str:
    from detectors.registry import PROFILES

    rows = [
        (row["key"], *(_word(row[profile]) for profile in PROFILES)) for row in content["settings"]
    ]
    lines = [
        f"{content['name']}: {content['summary']}",
        "",
        table(("setting", *PROFILES), rows),
    ]
    # The explanations follow the table, as they are too long for its cells.
    for row in content["settings"]:
        lines += ["", row["key"], *(f"    {line}" for line in wrap(row["meaning"], WIDTH - 4))]
    return "\n".join(lines)


def _word(value: Any) -> str:
    """A value as `train --set` takes it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)

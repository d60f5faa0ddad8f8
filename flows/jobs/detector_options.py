"""From what a command line or a deployment asks for to the recipe of one detector.

A profile first, then whatever was said by hand. The commands, the flows and the demo share this, so
the same words mean the same training. Whoever calls this has PyTorch imported: detectors are.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from detectors.registry import PROFILES, Profile, Recipe, configure
from pipeline.errors import UserError
from pipeline.settings import Settings


def recipe_of(
    detector: str,
    profile: str = "paper",
    steps: int | None = None,
    size: int | None = None,
    changes: Sequence[str] = (),
) -> Recipe:
    """The recipe of a detector; `changes` are KEY=VALUE of its settings or schedule.

    UserError names the profiles, detectors or settings that there are, or a key said twice.
    """
    found = _parsed(changes)
    for key, value in (("steps", steps), ("size", size)):
        if value is None:
            continue
        if key in found:
            raise UserError(f"--{key} {value} and --set {key}={found[key]} say it twice; drop one")
        found[key] = value
    return configure(detector, _profile(profile), found)


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe for programs, and for the digest that tells one training from another."""
    return {
        "detector": recipe.name,
        "settings": recipe.settings.model_dump(mode="json"),
        "schedule": recipe.schedule.model_dump(mode="json"),
    }


def _profile(name: str) -> Profile:
    for profile in PROFILES:
        if profile == name:
            return profile
    raise UserError(f"a profile is one of {', '.join(PROFILES)}; got {name!r}")


def _parsed(changes: Sequence[str]) -> dict[str, Any]:
    """`["lr=1e-4", "levels=[1, 2]"]` as a dictionary; lists and objects are JSON, the rest text."""
    found: dict[str, Any] = {}
    for change in changes:
        key, equals, text = (part.strip() for part in change.partition("="))
        if not (key and equals and text):
            raise UserError(f"--set is KEY=VALUE, such as batch_size=8; got {change!r}")
        if key in found:
            raise UserError(f"--set {key} is said twice; drop one")
        found[key] = _value(key, text)
    return found


def _value(key: str, text: str) -> Any:
    if text[0] not in "[{":
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"--set {key}: {text!r} is no JSON: {error}") from None


def settings_table(recipes: Mapping[str, Recipe]) -> list[dict[str, Any]]:
    """Every setting of a detector: its name, its value in each recipe, what it means."""
    first = next(iter(recipes.values()))
    rows: dict[str, dict[str, Any]] = {}
    for part in ("settings", "schedule"):
        owner = type(getattr(first, part))
        for key in owner.model_fields:
            values = {
                profile: getattr(recipe, part).model_dump(mode="json")[key]
                for profile, recipe in recipes.items()
            }
            rows[key] = {"key": key, **values, "meaning": _meaning(owner, key)}
    return list(rows.values())


def _meaning(owner: type[Settings], key: str) -> str:
    """The description of a setting, or that of the class whose default it only changes."""
    fields = [base.model_fields.get(key) for base in owner.__mro__ if issubclass(base, Settings)]
    return next((field.description for field in fields if field and field.description), "")

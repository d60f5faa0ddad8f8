"""The recipe of one detector from the arguments of a command or a deployment.

The profile comes first, then the arguments override it. Commands, flows and demo share this, so the
same arguments mean the same training. Importing this module imports PyTorch, as detectors do.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from detectors.registry import PROFILES, Profile, Recipe, configure
from pipeline.errors import UserError
from pipeline.settings import Settings


def recipe_of(
    detector: str,
    profile: str = "auto",
    steps: int | None = None,
    size: int | None = None,
    beside: str | None = None,
    changes: Sequence[str] = (),
) -> Recipe:
    """The recipe of a detector; profile `auto` is `paper` with a GPU, else `cpu`.

    `beside` is the detector that `--with` names. `changes` are KEY=VALUE of its settings or
    schedule.

    Raises UserError for an unknown profile, detector or setting, and for a key that is given twice.
    """
    found = _parsed(changes)
    # Options of their own, which are settings all the same.
    for option, key, value in (
        ("steps", "steps", steps), ("size", "size", size), ("with", "beside", beside),
    ):  # fmt: skip
        if value is None:
            continue
        if key in found:
            raise UserError(
                f"--{option} {value} and --set {key}={found[key]} both set it; drop one"
            )
        found[key] = value
    return configure(detector, _profile(profile), found)


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON, for programs and for the digest that identifies a training."""
    return {
        "detector": recipe.name,
        "settings": recipe.settings.model_dump(mode="json"),
        "schedule": recipe.schedule.model_dump(mode="json"),
    }


def _profile(name: str) -> Profile:
    """The profile of that name, `auto` by the machine; UserError for another one."""
    # The published networks take hours without a GPU.
    if name == "auto":
        return "paper" if torch.cuda.is_available() else "cpu"
    for profile in PROFILES:
        if profile == name:
            return profile
    raise UserError(f"expected a profile among auto, {', '.join(PROFILES)}; got {name!r}")


def _parsed(changes: Sequence[str]) -> dict[str, Any]:
    """`["lr=1e-4", "levels=[1, 2]"]` as a dictionary; lists and objects are JSON, the rest text."""
    found: dict[str, Any] = {}
    for change in changes:
        # Spaces around the sign are allowed.
        key, equals, text = (part.strip() for part in change.partition("="))
        if not (key and equals and text):
            raise UserError(f"expected --set KEY=VALUE, such as batch_size=8; got {change!r}")
        if key in found:
            raise UserError(f"--set {key} is given twice; drop one")
        found[key] = _value(key, text)
    return found


def _value(key: str, text: str) -> Any:
    """Lists and objects from JSON; pydantic converts all other text."""
    # Numbers and words are converted by the setting's own type.
    if text[0] not in "[{":
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"--set {key}: expected JSON, got {text!r}: {error}") from None


def settings_table(recipes: Mapping[str, Recipe]) -> list[dict[str, Any]]:
    """Every setting of a detector: its key, its value in each recipe, its meaning."""
    first = next(iter(recipes.values()))
    rows: dict[str, dict[str, Any]] = {}
    # Settings of the detector, then those of its training.
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
    """The description of a setting, inherited where a subclass only changes the default."""
    # In the order of inheritance: the nearest description wins.
    fields = [base.model_fields.get(key) for base in owner.__mro__ if issubclass(base, Settings)]
    return next((field.description for field in fields if field and field.description), "")

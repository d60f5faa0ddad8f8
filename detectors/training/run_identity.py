"""Which training a folder holds: the same words find it again, other words are refused.

A finished training is its recipe, version, seed and the files it started from, and its precision
where one is named. A state to resume always depends on precision and on the number of processes, or
the run would not go on bit for bit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.registry import Recipe
from detectors.training.checkpoint import CARD, MODEL, Card, FileCard, read_card, read_tensors
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.models.weights import store as weights

SHOWN = 3
"""Differences that a message names."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files that are read before the first step, with their digests."""

    teacher: Path
    teacher_card: FileCard
    start: Path | None = None
    start_card: FileCard | None = None

    @classmethod
    def of(cls, recipe: Recipe, teacher: Path | None, start: Path | None) -> "Inputs":
        """The teacher that was named, or the registry's, and the checkpoint to start from."""
        path = weights.require(recipe.settings.teacher, teacher)
        card = FileCard(name=path.name, sha256=weights.sha256(path))
        if start is None:
            return cls(path, card)
        start_card = FileCard(name=Path(start).name, sha256=read_card(Path(start)).sha256)
        return cls(path, card, Path(start) / MODEL, start_card)


def identity(recipe: Recipe, version: Version, seed: int, inputs: Inputs) -> dict[str, Any]:
    """What decides a training, as JSON."""
    return {
        "detector": recipe.name,
        "settings": recipe.settings.model_dump(mode="json"),
        "schedule": recipe.schedule.model_dump(mode="json"),
        "version": version.digest,
        "seed": seed,
        "teacher": inputs.teacher_card.sha256,
        "start": inputs.start_card.sha256 if inputs.start_card else None,
    }


def finished(out: Path, wanted: Mapping[str, Any], precision: str = "auto") -> Card | None:
    """The card of the same training when it is done, None when there is none in `out`.

    A precision that was asked for by name counts; `auto` takes what there is. IntegrityError when
    the tensors are gone or damaged.
    """
    if not (out / CARD).exists():
        return None
    card = read_card(out)
    read_tensors(out / MODEL, card.sha256)
    found = {
        "detector": card.detector,
        "settings": card.settings,
        "schedule": card.schedule,
        "version": card.version.digest,
        "seed": card.seed,
        "teacher": card.teacher.sha256 if card.teacher else None,
        "start": card.start.sha256 if card.start else None,
    }
    if precision != "auto":
        found["precision"], wanted = card.precision, {**wanted, "precision": precision}
    require_same(out, found, wanted, "a finished training")
    return card


def require_same(out: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    """UserError that names what differs, in one line."""
    lines = list(_differences("", found, wanted))
    if lines:
        more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise UserError(
            f"{out} holds {what} of something else: {'; '.join(lines[:SHOWN])}{more}; "
            "name another folder or delete this one"
        )


def _differences(where: str, found: Any, wanted: Any) -> Iterator[str]:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*found, *wanted}):
            yield from _differences(f"{where}.{key}".lstrip("."), found.get(key), wanted.get(key))
    elif found != wanted:
        yield f"{where} is {_short(found)} there and {_short(wanted)} here"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"

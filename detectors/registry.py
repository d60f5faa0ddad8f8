"""Every detector by name, and the one place that assembles them.

    recipe = configure("efficientad", "tiny", {"size": "128"})
    detector = assemble(recipe.name, recipe.settings)       # with its teacher's weights
    detector = assemble(name, settings, weights=False)      # to be filled from a checkpoint

A new detector is a package under `detectors/models` whose `model.py` exports an `ENTRY`, one import
and one line here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import ValidationError

from detectors.base import OF_STEPS, Detector, DetectorEntry, DetectorSettings, Schedule
from detectors.fused import Fused
from detectors.models.destseg.model import ENTRY as DESTSEG
from detectors.models.efficientad.model import ENTRY as EFFICIENTAD
from detectors.models.glcf.model import ENTRY as GLCF
from detectors.models.laead.model import ENTRY as LAEAD
from detectors.models.nearest.model import ENTRY as NEAREST
from detectors.models.parts.model import ENTRY as PARTS
from detectors.models.puad.model import ENTRY as PUAD
from detectors.models.semrec.model import ENTRY as SEMREC
from pipeline.errors import UserError
from pipeline.models.weights import store as weights_store
from pipeline.settings import Settings
from pipeline.utils.yaml_lines import first_error

Profile = Literal["paper", "cpu", "tiny"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
S = TypeVar("S", DetectorSettings, Schedule)

# In the order in which commands and documentation list them.
DETECTORS: Mapping[str, DetectorEntry] = {
    entry.name: entry
    for entry in (
        EFFICIENTAD,
        PUAD,
        LAEAD,
        NEAREST,
        SEMREC,
        DESTSEG,
        GLCF,
        PARTS,
    )
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A detector's name with its resolved settings and schedule."""

    name: str
    settings: DetectorSettings
    schedule: Schedule


def entry(name: str) -> DetectorEntry:
    """The detector of that name; UserError lists the known ones."""
    if name not in DETECTORS:
        raise UserError(f"no detector is called {name!r}; known: {', '.join(DETECTORS)}")
    return DETECTORS[name]


def configure(
    name: str, profile: Profile = "paper", changes: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe of a detector with some settings changed; values may be text (`--set`).

    A key belongs to the detector's settings or to its schedule. UserError for an unknown key lists
    the known ones, and for a bad value says what is wrong with it. Settings of training steps are
    refused where there is nothing to train.
    """
    found = entry(name)
    settings, schedule = _of_profile(found, profile)
    _require_known(name, changes or {}, type(settings), Schedule)
    settings = _changed(settings, changes or {})
    if getattr(settings, "beside", ""):
        settings, schedule = _with_other(settings, schedule, profile)
    recipe = Recipe(name, settings, _changed(schedule, changes or {}))
    if not recipe.settings.trains():
        # Setting them to what they are, such as steps=0, changes nothing.
        idle = [key for key in OF_STEPS if getattr(recipe.schedule, key) != getattr(schedule, key)]
        if idle:
            raise UserError(
                f"{name} with these settings trains no network, so it takes no "
                f"{', '.join(idle)}; leave it out"
            )
    return recipe


def assemble(
    name: str,
    settings: DetectorSettings,
    *,
    teacher: Path | None = None,
    weights: bool = True,
) -> Detector:
    """Build a detector. The teacher's file is `teacher`, or what the weights registry finds.

    With `weights=False` no file is read: a checkpoint fills every tensor.
    """
    path = None
    if weights:
        path = teacher or weights_store.require(settings.teacher)
    detector = entry(name).build(settings, path)
    beside = getattr(settings, "beside", "")
    if not beside:
        return detector
    other = type(entry(beside).paper[0]).model_validate(settings.beside_settings)  # type: ignore[attr-defined]
    return Fused(detector, assemble(beside, other, weights=weights))


def _of_profile(found: DetectorEntry, profile: Profile) -> tuple[DetectorSettings, Schedule]:
    return {"paper": found.paper, "cpu": found.cpu, "tiny": found.tiny}[profile]


def _require_known(name: str, changes: Mapping[str, Any], *records: type[Settings]) -> None:
    """UserError for a key that none of the records has."""
    known = sorted({key for record in records for key in record.model_fields})
    for key in changes:
        if key not in known:
            raise UserError(f"{name} has no setting {key!r}; known: {', '.join(known)}")


def _with_other(
    settings: DetectorSettings, schedule: Schedule, profile: Profile
) -> tuple[DetectorSettings, Schedule]:
    """The settings with those of the detector beside, and the schedule of the one that trains."""
    name, mine = settings.beside, settings.beside_settings  # type: ignore[attr-defined]
    found, others = _of_profile(entry(name), profile)
    _require_known(name, mine, type(found))
    # Both see the same images.
    other = _changed(found, {**mine, "size": settings.size})
    filled = {
        "beside_settings": other.model_dump(mode="json"), "beside_trains": other.trains(),
    }  # fmt: skip
    return _changed(settings, filled), others if other.trains() else schedule


def _changed(record: S, changes: Mapping[str, Any]) -> S:
    """The record with those changes that are fields of its class, validated again."""
    mine = {key: value for key, value in changes.items() if key in type(record).model_fields}
    try:
        return type(record).model_validate(record.model_dump() | mine)
    except ValidationError as error:
        # Report only the first fault, as a user error must fit on one line.
        raise UserError(first_error(error)) from None

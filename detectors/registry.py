"""Every detector by name, and the one place that puts their parts together.

recipe = configure("efficientad", "tiny", {"size": "128"})
detector = assemble(recipe.name, recipe.settings)       # with its teacher's weights
detector = assemble(name, settings, weights=False)      # to be filled from a checkpoint
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from detectors.base import Detector, DetectorSettings, Schedule
from detectors.models.destseg import model as destseg
from detectors.models.efficientad import model as efficientad
from detectors.models.glcf import model as glcf
from detectors.models.laead import model as laead
from detectors.models.nearest import model as nearest
from detectors.models.puad import model as puad
from detectors.models.semrec import model as semrec
from pipeline.errors import UserError
from pipeline.models.weights import store as registry_of_weights

Profile = Literal["paper", "tiny"]
PROFILES: tuple[Profile, ...] = ("paper", "tiny")
S = TypeVar("S", DetectorSettings, Schedule)

Build = Callable[[Any, Path | None], Detector]
"""From settings and the teacher's file (None: random weights) to a detector."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One detector: how it is built, and its settings and schedule at both sizes."""

    build: Build
    summary: str
    paper: tuple[DetectorSettings, Schedule]
    tiny: tuple[DetectorSettings, Schedule]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A detector's name with settings and schedule as resolved."""

    name: str
    settings: DetectorSettings
    schedule: Schedule


def _entries() -> dict[str, Entry]:
    return {
        "efficientad": Entry(
            efficientad.build,
            "a student of a frozen teacher and of an autoencoder (EfficientAD)",
            efficientad.PAPER,
            efficientad.TINY,
        ),
        "puad": Entry(
            puad.build,
            "EfficientAD, and how unusual the picture is as a whole (PUAD)",
            puad.PAPER,
            puad.TINY,
        ),
        "laead": Entry(
            laead.build,
            "EfficientAD with a context extractor and a constraint for logical anomalies (LA-EAD)",
            laead.PAPER,
            laead.TINY,
        ),
        "nearest": Entry(
            nearest.build,
            "nearest-neighbour patch distances, after PatchCore; nothing is trained",
            (nearest.NearestSettings(subset="greedy"), Schedule(steps=0, batch_size=8)),
            (nearest.NearestSettings(teacher="bundled-teacher"), Schedule(steps=0, batch_size=8)),
        ),
        "semrec": Entry(
            semrec.build,
            "semantic reconstruction: mends local damage and objects, needs a version's samples",
            semrec.PAPER,
            semrec.TINY,
        ),
        "destseg": Entry(
            destseg.build,
            "denoising student-teacher with a segmentation of where they disagree",
            destseg.PAPER,
            destseg.TINY,
        ),
        "glcf": Entry(
            glcf.build,
            "rebuilds what each place looks like and what the whole picture means (GLCF)",
            glcf.PAPER,
            glcf.TINY,
        ),
    }


DETECTORS: Mapping[str, Entry] = _entries()


def entry(name: str) -> Entry:
    """The detector of that name; UserError names the known ones."""
    if name not in DETECTORS:
        raise UserError(f"no detector is called {name!r}; known: {', '.join(DETECTORS)}")
    return DETECTORS[name]


def configure(
    name: str, profile: Profile = "paper", changes: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe of a detector with some settings changed, as text or as values.

    A key belongs to the detector's settings or to its schedule; UserError names the known ones and
    says what is wrong with a value.
    """
    found = entry(name)
    settings, schedule = found.tiny if profile == "tiny" else found.paper
    for key in changes or {}:
        if key not in type(settings).model_fields and key not in Schedule.model_fields:
            known = sorted(set(type(settings).model_fields) | set(Schedule.model_fields))
            raise UserError(f"{name} has no setting {key!r}; known: {', '.join(known)}")
    return Recipe(name, _changed(settings, changes or {}), _changed(schedule, changes or {}))


def assemble(
    name: str,
    settings: DetectorSettings,
    *,
    teacher: Path | None = None,
    weights: bool = True,
) -> Detector:
    """Build a detector. Its teacher's file is `teacher`, or the one the weights registry finds.

    With `weights=False` nothing is read: a checkpoint fills every tensor.
    """
    path = None
    if weights:
        path = teacher or registry_of_weights.require(settings.teacher)
    return entry(name).build(settings, path)


def _changed(record: S, changes: Mapping[str, Any]) -> S:
    mine = {key: value for key, value in changes.items() if key in type(record).model_fields}
    try:
        return type(record).model_validate(record.model_dump() | mine)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserError(f"{where}: {fault['msg']}, got {fault['input']!r}") from None

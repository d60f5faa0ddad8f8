"""The identity of a training: equal arguments find the finished or interrupted run, others fail.

A finished training is identified by its recipe, version, seed and the files it started from, and by
its precision where one is named. A resume state is also bound to the precision and to the number
of processes, since with others the run could not continue bit for bit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.training.checkpoint import CARD, MODEL, Card, FileCard, read_card, read_tensors
from detectors.training.job import TrainJob
from detectors.training.reviewed import Reviewed
from pipeline.dataset.version import Version, open_version
from pipeline.errors import UserError
from pipeline.models.weights import store as weights

# What to do without the weights of a profile.
OTHER_TEACHER = (
    "choose another --profile, whose weights are others, or name a file with `train --teacher`"
)
# A message names this many differences, so that it stays one line.
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files that are read before the first step, with their digests."""

    teacher: Path
    teacher_card: FileCard
    start: Path | None = None
    start_card: FileCard | None = None
    reviewed: Reviewed | None = None

    @classmethod
    def of(cls, job: TrainJob) -> "Inputs":
        """The job's teacher, or the one of the weights registry, and the checkpoint to start from.

        WeightsError when the teacher is missing, UserError when `start` is no checkpoint and when
        no decision of `reviews` is about the version.
        """
        # A teacher by the same name but with other bytes is another training.
        path = weights.require(job.recipe.settings.teacher, job.teacher, otherwise=OTHER_TEACHER)
        card = FileCard(name=path.name, sha256=weights.sha256(path))
        reviews = Reviewed.of(open_version(job.version), job.reviews) if job.reviews else None
        if job.start is None:
            return cls(path, card, reviewed=reviews)
        start = Path(job.start)
        # The card already holds the digest of the tensors, so the large file is not hashed here.
        start_card = FileCard(name=start.name, sha256=read_card(start).sha256)
        return cls(path, card, start / MODEL, start_card, reviews)


def identity(job: TrainJob, version: Version, inputs: Inputs) -> dict[str, Any]:
    """Everything that determines the result of a training, as JSON."""
    # Flows hash this into folder names, so its keys and their contents are part of the format. Keys
    # that are younger than others are there only where they have an effect.
    reviews = {"reviews": inputs.reviewed.card.effect()} if inputs.reviewed else {}
    return reviews | {
        "detector": job.recipe.name,
        "settings": job.recipe.settings.model_dump(mode="json"),
        "schedule": _effective(job.recipe.schedule.model_dump(mode="json")),
        "version": version.digest,
        "seed": job.seed,
        "teacher": inputs.teacher_card.sha256,
        "start": inputs.start_card.sha256 if inputs.start_card else None,
    }


def finished(out: Path, wanted: Mapping[str, Any], precision: str = "auto") -> Card | None:
    """The card in `out` when the same training has finished there, None without a checkpoint.

    A named precision must match; `auto` accepts the stored one. UserError for another training,
    IntegrityError when the tensors are missing or damaged.
    """
    if not (out / CARD).exists():
        return None
    card = read_card(out)
    # Also reads the tensors, so that a damaged checkpoint is found before it is reported as done.
    read_tensors(out / MODEL, card.sha256)
    found = {
        "detector": card.detector,
        "settings": card.settings,
        "schedule": _effective(card.schedule),
        "version": card.version.digest,
        "seed": card.seed,
        "teacher": card.teacher.sha256 if card.teacher else None,
        "start": card.start.sha256 if card.start else None,
    }
    if card.reviews:
        found["reviews"] = card.reviews.effect()
    # Numbers depend on the precision, but `auto` may resolve differently on another machine.
    if precision != "auto":
        found["precision"], wanted = card.precision, {**wanted, "precision": precision}
    require_same(out, found, wanted, "a finished training")
    return card


def require_same(out: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    """UserError that names the differences in one line."""
    lines = list(_differences("", found, wanted))
    if lines:
        more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise UserError(
            f"{out} holds {what} with other settings: {'; '.join(lines[:SHOWN])}{more}; "
            "name another folder or delete this one"
        )


def _effective(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule without what is younger than other trainings and changes nothing in this one."""
    return {key: value for key, value in schedule.items() if value or key != "fold_normals"}


def _differences(where: str, found: Any, wanted: Any) -> Iterator[str]:
    """One text per differing leaf of two nested JSON objects, with its dotted path."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        # Sorted, so that the message does not depend on the order of keys.
        for key in sorted({*found, *wanted}):
            yield from _differences(f"{where}.{key}".lstrip("."), found.get(key), wanted.get(key))
    elif found != wanted:
        yield f"{where} is {_short(found)} there and {_short(wanted)} here"


def _short(value: Any) -> str:
    """The value as text; digests and lists are cut."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"

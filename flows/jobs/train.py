"""One training as the command, the flow and the demo ask for it, and where its checkpoint goes.

PyTorch is imported when a job is looked into, not before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import Version, find_by_plan, latest, open_version
from pipeline.errors import AnomalysmithError, UserError, WeightsError
from pipeline.generation import plan as planning
from pipeline.utils.hashing import digest_of

if TYPE_CHECKING:
    from detectors.registry import Recipe
    from detectors.training.progress import Watcher
    from detectors.training.trainer import TrainReport

HOME = "detectors"
"""Folder of the flows' and the demo's checkpoints, beside the store."""
CARD = "checkpoint.json"
"""The file that makes a folder a checkpoint; it is written last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Everything that one training may be told; `version` and `out` are folders."""

    detector: str
    version: Path
    out: Path
    profile: str = "paper"
    steps: int | None = None
    size: int | None = None
    changes: Sequence[str] = ()
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: str = "off"
    workers: int = 0
    teacher: Path | None = None
    start: Path | None = None

    def recipe(self) -> "Recipe":
        """The resolved recipe; UserError for a word that means nothing."""
        from flows.jobs.detector_options import recipe_of

        return recipe_of(self.detector, self.profile, self.steps, self.size, self.changes)


def train(job: TrainJob, watcher: "Watcher") -> "TrainReport":
    """Run a job in this process: from the start, from its last saved state, or not at all."""
    from detectors.training.trainer import train as run

    return run(
        job.recipe(),
        open_version(job.version),
        job.out,
        seed=job.seed,
        device=job.device,
        precision=job.precision,
        compile=job.compile,
        workers=job.workers,
        teacher=job.teacher,
        start=job.start,
        watcher=watcher,
    )


def report_json(job: TrainJob, report: "TrainReport") -> dict[str, Any]:
    """What the command prints and the flow keeps."""
    return {
        "detector": job.detector,
        "checkpoint": str(report.checkpoint),
        "steps": report.steps,
        "seconds": round(report.seconds, 3),
        "validation": report.validation,
        "stopped_early": report.stopped_early,
        "rates": report.rates,
    }


def home_of(store: Path) -> Path:
    """Where the flows put the checkpoints of a store when nobody says so: beside it."""
    return store.resolve().parent / HOME


def latest_version(store: Path, category: str) -> Version:
    """The newest version of a category; UserError says how to get one."""
    version = latest(store, category)
    if version is None:
        raise UserError(f"{store} holds no version of {category!r}; run `generate` first")
    return version


def planned_version(settings: CategorySettings) -> tuple[Version, str]:
    """The version that the manifest leads to now, else the newest; and which it is, and why.

    A setting that is changed back leads to the version that it made before, although a newer one
    exists. UserError when there is no version at all.
    """
    newest = latest_version(settings.store, settings.name)
    try:
        digest = planning.plan(settings).digest
    except (AnomalysmithError, OSError) as error:
        return newest, f"version {newest.name}, the newest; no plan can be made here: {error}"
    found = find_by_plan(settings.store, settings.name, digest)
    if found is None:
        why = "what the manifest says now is not published (`generate` would do it)"
        return newest, f"version {newest.name}, the newest; {why}"
    if found.name != newest.name:
        return found, f"version {found.name}, which the manifest leads to; newest: {newest.name}"
    return found, f"version {found.name}, which the manifest leads to and the newest"


def placed(job: TrainJob, home: Path) -> TrainJob:
    """The job with its own folder `<home>/<category>/<version>/<detector>-<digest8>`.

    The digest is over all that decides the result, the bytes of the teacher included: another seed
    or setting gets another folder, and the same words find what is there.
    """
    from detectors.training.run_identity import Inputs, identity

    version, recipe = open_version(job.version), job.recipe()
    inputs = Inputs.of(recipe, job.teacher, job.start)
    digest = digest_of(identity(recipe, version, job.seed, inputs))
    name = f"{job.detector}-{digest[:8]}"
    return replace(job, out=home / version.category / version.name / name)


def find_weights(name: str) -> Path | None:
    """The file of that entry of the weights registry, None when it is missing or unknown."""
    from pipeline.models.weights import store as weights

    try:
        return weights.find(name)
    except WeightsError:
        return None

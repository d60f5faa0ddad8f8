"""Training jobs of the command, the flow and the demo, and where their checkpoints go.

PyTorch is imported inside the functions, so that importing this module stays fast.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectors.training.job import TrainJob, TrainReport
from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import Version, find_by_plan, latest, open_version
from pipeline.errors import AnomalysmithError, UserError, WeightsError
from pipeline.generation import plan as planning
from pipeline.utils.hashing import digest_of

if TYPE_CHECKING:
    from detectors.training.progress import Watcher

# Folder of the flows' and the demo's checkpoints, beside the store.
HOME = "detectors"
# The file that makes a folder a checkpoint; it is written last. It is repeated here because
# `detectors.training.checkpoint` imports PyTorch.
CARD = "checkpoint.json"


def job_of(options: Mapping[str, Any]) -> TrainJob:
    """The job for these options of the command, or parameters of the flow.

    Options are the fields of `TrainJob`, and instead of `recipe` the parameters of `recipe_of`;
    other keys are ignored. UserError for an unknown detector, profile or setting.
    """
    from flows.jobs.detector_options import recipe_of

    # A recipe is resolved at once, so that wrong settings fail before any training.
    recipe = recipe_of(**_chosen(options, signature(recipe_of).parameters))
    named = {field.name: field for field in fields(TrainJob)}
    return TrainJob(recipe=recipe, **_chosen(options, named))


def job_of_some(options: Mapping[str, Any]) -> TrainJob:
    """The job of one of several detectors: steps and the like are for those that train.

    `beside` is for `parts`.
    """
    if options.get("detector") != "parts":
        options = {**options, "beside": None}
    idle = {"steps": None, "compile": "off", "start": None}
    job = job_of({**options, **idle})
    return job_of(options) if job.recipe.settings.trains() else job


def _chosen(options: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def train(job: TrainJob, watcher: "Watcher") -> TrainReport:
    """Run a job in this process: from the start or its last saved state, or return its result."""
    from detectors.training.trainer import train as run

    return run(job, watcher)


def report_json(job: TrainJob, report: TrainReport) -> dict[str, Any]:
    """The JSON object that the command prints and the flow keeps."""
    import torch

    return {
        "detector": job.recipe.name,
        "checkpoint": str(report.checkpoint),
        "steps": report.steps,
        "seconds": round(report.seconds, 3),
        # On a CPU their number changes the order of sums, and so the last bits.
        "threads": torch.get_num_threads(),
        "validation": report.validation,
        "stopped_early": report.stopped_early,
        "rates": report.rates,
    }


def home_of(store: Path) -> Path:
    """The default folder of a store's checkpoints: beside the store."""
    return store.resolve().parent / HOME


def latest_version(store: Path, category: str) -> Version:
    """The newest version of a category; UserError says how to get one."""
    version = latest(store, category)
    if version is None:
        raise UserError(f"{store} holds no version of {category!r}; run `generate` first")
    return version


def planned_version(settings: CategorySettings) -> tuple[Version, str]:
    """The version that the manifest's settings generate, else the newest; with the reason as text.

    A setting that is changed back selects the version that it generated before, although a newer
    one exists. UserError when there is no version at all.
    """
    # Raises when the category has no version at all.
    newest = latest_version(settings.store, settings.name)
    try:
        digest = planning.plan(settings).digest
    except (AnomalysmithError, OSError) as error:
        # Planning reads source images and weights, which a training machine may lack.
        return newest, f"version {newest.name}, the newest; no plan can be made here: {error}"
    # An older version may match when a setting was changed back.
    found = find_by_plan(settings.store, settings.name, digest)
    if found is None:
        why = "the manifest's present settings are not published (`generate` would do it)"
        return newest, f"version {newest.name}, the newest; {why}"
    if found.name != newest.name:
        return found, f"version {found.name}, which the manifest leads to; newest: {newest.name}"
    return found, f"version {found.name}, which the manifest leads to and the newest"


def placed(job: TrainJob, home: Path) -> TrainJob:
    """The job with its own folder `<home>/<category>/<version>/<detector>-<digest8>`.

    The digest covers everything that determines the result, including the bytes of the teacher:
    another seed or setting gets another folder, and the same arguments find the existing one.
    """
    from detectors.training.run_identity import Inputs, identity

    version = open_version(job.version)
    digest = digest_of(identity(job, version, Inputs.of(job)))
    name = f"{job.recipe.name}-{digest[:8]}"
    return replace(job, out=home / version.category / version.name / name)


def find_weights(name: str) -> Path | None:
    """The file of an entry of the weights registry; None when it is missing or unknown."""
    from pipeline.models.weights import store as weights

    try:
        return weights.find(name)
    except WeightsError:
        return None

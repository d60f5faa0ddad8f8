"""`train --dry-run`: the recipe, images, weights and resume state of a training, without a step."""

import json
from pathlib import Path
from typing import Any

from detectors.training.job import TrainJob
from flows.jobs.detector_options import recipe_json
from flows.jobs.train import CARD, find_weights
from pipeline.dataset.version import Version, open_version
from pipeline.errors import WeightsError
from pipeline.models.weights import store as weights


def preview(job: TrainJob) -> dict[str, Any]:
    """The resolved recipe, the images it would use, its weights, and the step it would resume
    at."""
    from detectors.training.precision import resolve
    from detectors.training.trainer import check_options

    # What a training refuses, a preview refuses, too.
    check_options(job)
    resolve(job.device, job.precision)
    recipe, version = job.recipe, open_version(job.version)
    name = recipe.settings.teacher
    # A preview reports missing weights instead of failing on them.
    file = job.teacher or find_weights(name)
    there = file is not None and file.is_file()
    if there:
        _require_same(job, version)
    return recipe_json(recipe) | {
        "dry_run": True,
        "seed": job.seed,
        "version": str(version.dir),
        "category": version.category,
        "splits": version.index["counts"]["splits"],
        "teacher": {
            "name": name,
            "file": str(file) if there else None,
            "missing": None if there else _how_to_get(name, job.teacher),
        },
        "out": str(job.out),
        "resumes": resumes(job.out),
    }


def preview_text(facts: dict[str, Any]) -> str:
    """The preview as text."""
    train, held = (facts["splits"].get(split, {}) for split in ("train", "validation"))
    teacher, resumes = facts["teacher"], facts["resumes"]
    begin = f"at step {resumes['step']}"
    if resumes["state"] == "finished":
        begin = "nowhere: it is finished, and its checkpoint would be reused"
    lines = [
        f"{facts['detector']}: would train on {facts['category']}, {facts['version']}",
        f"  train       {train.get('images', 0)} images, {train.get('samples', 0)} samples",
        f"  validation  {held.get('images', 0)} images, {held.get('samples', 0)} samples",
        f"  teacher     {teacher['name']}: {teacher['file'] or teacher['missing']}",
        f"  to          {facts['out']}",
        f"  begins      {begin}",
    ]
    for part in ("settings", "schedule"):
        lines.append(f"  {part}")
        lines += [f"    {key} = {json.dumps(value)}" for key, value in facts[part].items()]
    return "\n".join(lines)


def _how_to_get(name: str, explicit: Path | None) -> str:
    if explicit is not None:
        return f"missing, there is no file at {explicit}"
    try:
        return f"missing; {weights.entry(name).get}"
    except WeightsError as error:
        return f"missing; {error}"


def _require_same(job: TrainJob, version: Version) -> None:
    """UserError when the folder holds another training, or there is nothing to start from."""
    from detectors.training.resume import newest, read_state
    from detectors.training.run_identity import Inputs, finished, identity, require_same

    wanted = identity(job, version, Inputs.of(job))
    folder = newest(job.out)
    if finished(job.out, wanted, job.precision) is None and folder is not None:
        # A state knows precision and processes as well; `auto` finds those again.
        found = read_state(folder).identity
        kept = {key: found.get(key) for key in wanted}
        require_same(job.out, kept, wanted, "an unfinished training")


def resumes(out: Path) -> dict[str, Any]:
    """Whether the folder holds a finished training, an interrupted one, or nothing."""
    from detectors.training.resume import newest

    if (out / CARD).is_file():
        return {"state": "finished", "step": None}
    folder = newest(out)
    if folder is None:
        return {"state": "nothing", "step": 0}
    return {"state": "interrupted", "step": int(folder.name)}

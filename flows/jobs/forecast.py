"""What a run of a category will do and how long it should take, from its plan alone.

Nothing is decoded and no model is loaded: the plan holds the key of every stage of every image, the
cache says which of them are there, and earlier runs of the same store say what the others cost.
"""

from pathlib import Path
from typing import Any

from flows.environment import available_cpus
from flows.jobs.example_scenes import is_rendered
from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import Version, find_by_plan, latest
from pipeline.generation import plan as planning
from pipeline.generation.cache import CACHE, StageCache
from pipeline.generation.cache_keys import code_version, software
from pipeline.generation.plan import RunPlan
from pipeline.generation.timings import UNITS, how_of, known
from pipeline.models import build as models

SERIAL = ("start", "normality", "version")
"""Stages that one worker does while the others wait."""
WORDS = {"samples": "forging"}
"""What people read for a stage, where its own name would be taken for something else."""


def forecast(settings: CategorySettings, limit: int | None, workers: int | None) -> dict[str, Any]:
    """Facts for JSON: stages with what is `cached` and `to_run`, samples, seconds, reasons.

    `seconds` is None where a stage that must run has never run on this store with these models.
    """
    facts: dict[str, Any] = {"category": settings.name, "store": str(settings.store)}
    before = latest(settings.store, settings.name)
    if not is_rendered(settings):
        return facts | _unseen(settings, limit, before)
    plan = planning.plan(settings, limit)
    published = find_by_plan(settings.store, settings.name, plan.digest)
    stages = {"version": _row(int(published is not None), 1)}
    if published is None:
        stages = _stages(plan)
    facts |= {
        "to_draw": 0,
        "images": len(plan.images),
        "test_images": len(plan.test),
        "failures": list(plan.failures),
        "plan_digest": plan.digest,
        "published": str(published.dir) if published else None,
        "parent": before.name if before and published is None else None,
        "changed": _changed(plan, before) if published is None else [],
        "stages": stages,
    }
    facts["samples_to_make"] = _samples(settings, stages.get("samples", _row(0, 0))["to_run"])
    facts |= _duration(plan, stages, workers or available_cpus())
    return facts


def _stages(plan: RunPlan) -> dict[str, dict[str, int]]:
    cache = plan.cache
    analysed = sum(cache.has("analysis", image.analysis_key) for image in plan.images)
    missing = len(plan.missing())
    # A run that forges nothing asks nobody what is normal.
    normality = int(not missing or cache.has("normality", plan.calibration_key))
    return {
        "analysis": _row(analysed, len(plan.images)),
        "normality": _row(normality, 1),
        "samples": _row(len(plan.images) - missing, len(plan.images)),
        "version": _row(0, 1),
    }


def _row(cached: int, of: int) -> dict[str, int]:
    return {"cached": cached, "to_run": of - cached}


def _samples(settings: CategorySettings, images: int) -> dict[str, int]:
    edits = settings.edits
    return {
        "anomalous": images * edits.per_image,
        "controls": images * edits.controls_per_image,
    }


def _unseen(
    settings: CategorySettings, limit: int | None, before: Version | None
) -> dict[str, Any]:
    """Scenes that are not drawn yet: only their number is known."""
    scenes = settings.scenes
    assert scenes is not None
    models.resolve(settings.models, settings.policy.allow_noncommercial)
    normals = min(scenes.train + scenes.validation, limit or scenes.train + scenes.validation)
    everything = ("analysis", "normality", "samples", "version")
    per_stage = {name: normals if name in ("analysis", "samples") else 1 for name in everything}
    return {
        "to_draw": scenes.train + scenes.validation,
        "images": normals,
        "test_images": None,
        "failures": [],
        "plan_digest": None,
        "published": None,
        "parent": before.name if before else None,
        "changed": ["scenes are not drawn yet"],
        "stages": {name: _row(0, count) for name, count in per_stage.items()},
        "samples_to_make": _samples(settings, normals),
        "seconds": None,
        "seconds_by_stage": {},
        "measured_in": 0,
        "unknown": ["drawing"],
    }


def _duration(plan: RunPlan, stages: dict[str, dict[str, int]], workers: int) -> dict[str, Any]:
    """Estimated seconds of wall time, per stage and together, and how many runs they rest on."""
    edits = plan.settings.edits
    counts = {name: row["to_run"] for name, row in stages.items()}
    units = {
        "analysis": counts.get("analysis", 0),
        "normality": counts.get("normality", 0),
        "samples": counts.get("samples", 0) * (edits.per_image + edits.controls_per_image),
        "version": counts["version"] * (len(plan.images) + len(plan.test)),
    }
    # Models are loaded when an image is looked at or edited.
    units["start"] = int(bool(units["analysis"] or units["samples"]))
    measured = known(StageCache(plan.settings.store / CACHE).root, how_of(plan))
    seconds, unknown = {}, []
    for stage in UNITS:
        if not units[stage]:
            continue
        if stage not in measured:
            unknown.append(stage)
            continue
        images = counts.get(stage, 1)
        hands = 1 if stage in SERIAL else min(workers, images)
        seconds[stage] = round(units[stage] * measured[stage][0] / hands, 3)
    return {
        "seconds": None if unknown else round(sum(seconds.values()), 2),
        "seconds_by_stage": seconds,
        "measured_in": min((measured[stage][1] for stage in seconds), default=0),
        "unknown": unknown,
    }


def _changed(plan: RunPlan, before: Version | None) -> list[str]:
    """Why the newest version does not do: settings, weights, images, code or libraries."""
    if before is None:
        return ["no version yet"]
    index, now = before.index, _flat(plan.settings.digest_content())
    then = _flat(index.get("settings", {}))
    found = [
        f"{key}: {then.get(key)} -> {now.get(key)}"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key)
    ]
    weights = index.get("weights", {})
    found += [f"weights of {k}" for k in plan.weights if weights.get(k) != plan.weights[k]]
    used = index["counts"]["images"] + sum(
        failure["name"] in {image.name for image in plan.images} for failure in index["failures"]
    )
    if used != len(plan.images):
        found.append(f"images: {used} -> {len(plan.images)}")
    code = code_version()
    if index.get("code_version") != code:
        found.append(f"code: {index.get('code_version')} -> {code}")
    made_with, libraries = index.get("software", {}), software()
    found += [
        f"{name}: {made_with.get(name)} -> {release}"
        for name, release in libraries.items()
        if made_with.get(name) != release
    ]
    return found or ["files of the source, or what the records do not name (rules, output, ...)"]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    return {
        name: plain
        for key, below in value.items()
        for name, plain in _flat(below, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def forecast_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    name = facts["category"]
    if facts["published"]:
        where = Path(facts["published"]).name
        return f"{name}: nothing to do, {where} is published ({facts['images']} images)"
    parent = f"child of {facts['parent']}" if facts["parent"] else "the first"
    lines = [f"{name}: a new version, {parent}, from {facts['images']} good images"]
    if facts["parent"]:
        lines[0] += ", unless its content turns out the same"
    lines += [f"  because    {reason}" for reason in facts["changed"]]
    if facts["to_draw"]:
        lines.append(f"  drawing    {facts['to_draw']} scenes first")
    seconds = facts["seconds_by_stage"]
    if "start" in seconds:
        lines.append(f"  {'start':<10} {'loading the models':>26}{seconds['start']:8.1f} s")
    for stage, row in facts["stages"].items():
        time = f"{seconds[stage]:8.1f} s" if stage in seconds else ""
        counts = f"{row['to_run']:>5} to run {row['cached']:>5} cached"
        lines.append(f"  {_word(stage):<10} {counts}{time}")
    made = facts["samples_to_make"]
    lines.append(
        f"  samples    {made['anomalous']} anomalous and {made['controls']} controls wanted; "
        "the gate may refuse some"
    )
    lines.append(f"  time       {_time_text(facts)}")
    lines += [f"  cannot use {f['name']}: {f['error']}" for f in facts["failures"]]
    return "\n".join(lines)


def _time_text(facts: dict[str, Any]) -> str:
    if facts["seconds"] is None:
        return f"no earlier run of {', '.join(map(_word, facts['unknown']))} on this store: unknown"
    runs = facts["measured_in"]
    return f"about {facts['seconds']:.0f} s, as {runs} earlier run{'s' * (runs > 1)} took"


def _word(stage: str) -> str:
    return WORDS.get(stage, stage)

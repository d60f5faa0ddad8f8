"""What a run of a category will do and how long it should take, from its plan alone.

No image is decoded and no model is loaded: the plan holds the cache key of every stage of every
image, the cache tells which of them exist, and earlier runs of the same store tell what the others
cost.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from flows.jobs.example_scenes import is_rendered
from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import Version, find_by_plan, latest
from pipeline.generation import plan as planning
from pipeline.generation.cache_keys import code_version, software
from pipeline.generation.plan import RunPlan
from pipeline.generation.timings import STAGES, how_of, known, units_per_item
from pipeline.models import build as models
from pipeline.reports.diff.compare import flat

# Stages whose images are spread over workers; in all others one worker works and the others wait.
PER_IMAGE = ("analysis", "samples")


def forecast(settings: CategorySettings, limit: int | None, workers: int) -> dict[str, Any]:
    """Facts for JSON: stages with what is `cached` and `to_run`, samples, seconds, reasons.

    `seconds` is None where a stage that must run has never run on this store with these models.
    """
    # The newest version, and what a run would make of it.
    before = latest(settings.store, settings.name)
    plan = planning.plan(settings, limit) if is_rendered(settings) else None
    published = find_by_plan(settings.store, settings.name, plan.digest) if plan else None
    # Of scenes that are not rendered yet, only the numbers are known.
    to_draw, images = (0, len(plan.images)) if plan else _scenes(settings, limit)
    stages = {"version": {"cached": 1, "to_run": 0}} if published else _stages(plan, images)
    to_sample = stages["samples"]["to_run"] if "samples" in stages else 0
    return {
        "category": settings.name,
        "store": str(settings.store),
        "to_draw": to_draw,
        "images": images,
        "test_images": len(plan.test) if plan else None,
        "failures": list(plan.failures) if plan else [],
        "plan_digest": plan.digest if plan else None,
        "published": str(published.dir) if published else None,
        "parent": before.name if before and not published else None,
        "changed": [] if published else _changed(plan, before),
        "stages": stages,
        "samples_to_make": {
            "anomalous": to_sample * settings.edits.per_image,
            "controls": to_sample * settings.edits.controls_per_image,
        },
        **_duration(plan, stages, workers),
    }


def _scenes(settings: CategorySettings, limit: int | None) -> tuple[int, int]:
    """Scenes that are not rendered yet: how many, and how many of them a run would use."""
    assert settings.scenes is not None
    models.resolve(settings.models, settings.policy.allow_noncommercial)  # fails if one is missing
    normals = settings.scenes.train + settings.scenes.validation
    return normals, min(normals, limit or normals)


def _stages(plan: RunPlan | None, images: int) -> dict[str, dict[str, int]]:
    """Items of each stage in the cache and to run; without a plan, everything is to run."""
    cached = dict.fromkeys(STAGES[1:], 0)
    if plan is not None:
        cache, missing = plan.cache, len(plan.missing())
        cached["analysis"] = sum(cache.has("analysis", i.analysis_key) for i in plan.images)
        cached["samples"] = images - missing
        # A run that generates no sample does not calibrate the gate.
        cached["normality"] = int(not missing or cache.has("normality", plan.calibration_key))
    # Calibration and packing are done once.
    totals = {stage: images if stage in PER_IMAGE else 1 for stage in cached}
    return {s: {"cached": n, "to_run": totals[s] - n} for s, n in cached.items()}


def _duration(
    plan: RunPlan | None, stages: Mapping[str, Mapping[str, int]], workers: int
) -> dict[str, Any]:
    """Estimated seconds of wall time, per stage and together, and how many runs they rest on."""
    seconds: dict[str, float] = {}
    unknown: list[str] = []
    measured: dict[str, tuple[float, int]] = {}
    if plan is None:
        unknown = ["drawing"]
    else:
        # Seconds per unit, measured by earlier runs of the same kind.
        measured, units = known(plan.cache.root, how_of(plan)), units_per_item(plan)
        to_run = {stage: row["to_run"] for stage, row in stages.items()}
        # Models are loaded once an image is analysed or edited.
        to_run["start"] = int(any(to_run.get(stage) for stage in PER_IMAGE))
        for stage in (stage for stage in STAGES if to_run.get(stage, 0) * units[stage]):
            if stage not in measured:
                unknown.append(stage)
                continue
            # Images are spread over workers; a worker without an image waits.
            parallel = min(workers, to_run[stage]) if stage in PER_IMAGE else 1
            work = to_run[stage] * units[stage] * measured[stage][0]
            seconds[stage] = round(work / parallel, 3)
    return {
        "seconds": None if unknown else round(sum(seconds.values()), 2),
        "seconds_by_stage": seconds,
        "measured_in": min((measured[stage][1] for stage in seconds), default=0),
        "unknown": unknown,
    }


def _changed(plan: RunPlan | None, before: Version | None) -> list[str]:
    """Why the newest version is out of date: settings, weights, images, code or libraries."""
    if plan is None:
        return ["scenes are not rendered yet"]
    if before is None:
        return ["no version yet"]
    index = before.index
    # Through JSON, so that tuples become lists as in an index.
    now = flat(json.loads(json.dumps(plan.settings.digest_content())))
    then = flat(index.get("settings", {}))
    found = _differences(sorted(now.keys() | then.keys()), then, now)
    # By digest: the same file at another path is no change.
    weights = index.get("weights", {})
    found += [f"weights of {k}" for k in plan.weights if weights.get(k) != plan.weights[k]]
    # Files that failed while that version was made were part of its plan, too.
    names = {image.name for image in plan.images}
    used = index["counts"]["images"] + sum(f["name"] in names for f in index["failures"])
    found += _differences(["images"], {"images": used}, {"images": len(plan.images)})
    rejected = [_refused(index.get("reviews", {})), _refused(plan.reviews)]
    found += _differences(["rejected in reviews"], *({"rejected in reviews": n} for n in rejected))
    code = {"code": index.get("code_version")}
    found += _differences(["code"], code, {"code": code_version()})
    found += _differences(software(), index.get("software", {}), software())
    return found or ["files of the source, or what the records do not name (rules, output, ...)"]


def _refused(reviews: Mapping[str, Any]) -> int:
    """How many edits people rejected."""
    return sum(map(len, reviews.get("refused", {}).values()))


def _differences(keys: Iterable[str], then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{k}: {then.get(k)} -> {now.get(k)}" for k in keys if then.get(k) != now.get(k)]

"""`generate --dry-run`: what a run would read, make and need, without a pixel touched."""

from pathlib import Path
from typing import Any

from flows.jobs.example_scenes import is_rendered
from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import find_by_plan
from pipeline.generation import plan as planning
from pipeline.models import build as models
from pipeline.models.weights import store as weights


def preview(settings: CategorySettings, limit: int | None) -> dict[str, Any]:
    """The plan of a run as JSON-able facts. Scenes that are not drawn yet are only counted."""
    facts: dict[str, Any] = {"category": settings.name, "dry_run": True, "kind": settings.kind}
    facts |= {"root": str(settings.root), "store": str(settings.store)}
    if is_rendered(settings):
        plan = planning.plan(settings, limit)
        published = find_by_plan(settings.store, settings.name, plan.digest)
        facts |= {
            "images": len(plan.images),
            "cached": len(plan.images) - len(plan.missing()),
            "to_draw": 0,
            "test_images": len(plan.test),
            "failures": list(plan.failures),
            "plan_digest": plan.digest,
            "published": str(published.dir) if published else None,
        }
        files = plan.files
    else:
        scenes = settings.scenes
        assert scenes is not None
        normals = scenes.train + scenes.validation
        facts |= {"images": min(normals, limit or normals), "cached": 0, "to_draw": normals}
        facts |= {"test_images": None, "failures": [], "plan_digest": None, "published": None}
        files = models.resolve(settings.models, settings.policy.allow_noncommercial)
    facts["samples_wanted"] = facts["images"] * settings.edits.per_image
    facts["controls_wanted"] = facts["images"] * settings.edits.controls_per_image
    facts["models"] = {stage: _model(*file) for stage, file in files.used().items()}
    return facts


def preview_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    state = f"{facts['cached']} of them in the cache"
    if facts["to_draw"]:
        state = "to be drawn first"
    lines = [
        f"{facts['category']}: would read {facts['images']} good images ({state})",
        f"  from     {facts['root']} ({facts['kind']})",
        f"  to       {facts['store']}",
        f"  samples  {facts['samples_wanted']} anomalous and {facts['controls_wanted']} controls "
        "wanted; the gate may refuse some",
    ]
    for stage, model in facts["models"].items():
        where = f"{model['file']}, {model['megabytes']:.1f} MB" if model["file"] else "no weights"
        lines.append(f"  {stage:<11}{model['backend']} ({where})")
    if facts["published"]:
        lines.append(f"  published already: {facts['published']}")
    lines += [f"  cannot use {f['name']}: {f['error']}" for f in facts["failures"]]
    return "\n".join(lines)


def _model(backend: str, path: Path | None) -> dict[str, Any]:
    if path is None:
        return {"backend": backend, "file": None, "megabytes": 0.0, "sha256": None}
    files = weights.folder_files(path) if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files) / 1e6
    return {
        "backend": backend,
        "file": str(path),
        "megabytes": round(size, 2),
        "sha256": weights.sha256(path),
    }

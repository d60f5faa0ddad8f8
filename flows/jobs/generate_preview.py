"""`generate --dry-run`: what a run would read, generate and need, without decoding a pixel."""

from pathlib import Path
from typing import Any

from flows.jobs.example_scenes import is_rendered
from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import find_by_plan
from pipeline.generation import plan as planning
from pipeline.models import build as models
from pipeline.models.weights import store as weights
from pipeline.utils.names import text_of
from pipeline.utils.repeated import repeated
from pipeline.utils.text_table import table


def preview(settings: CategorySettings, limit: int | None) -> dict[str, Any]:
    """The plan of a run as JSON-able facts. Scenes that are not rendered yet are only counted."""
    facts: dict[str, Any] = {"category": settings.name, "dry_run": True, "kind": settings.kind}
    facts |= {"root": text_of(settings.root), "store": text_of(settings.store)}
    if is_rendered(settings):
        # Computing digests of all files takes the most time here; nothing is decoded.
        plan = planning.plan(settings, limit)
        published = find_by_plan(settings.store, settings.name, plan.digest)
        facts |= {
            "images": len(plan.images),
            "cached": len(plan.images) - len(plan.missing()),
            "to_draw": 0,
            "test_images": len(plan.test),
            "failures": list(plan.failures),
            "notes": list(plan.notes),
            "plan_digest": plan.digest,
            "published": str(published.dir) if published else None,
        }
        files = plan.files
    else:
        # Nothing to plan on before the scenes are rendered, which a dry run must not do.
        scenes = settings.scenes
        assert scenes is not None
        normals = scenes.train + scenes.validation
        facts |= {"images": min(normals, limit or normals), "cached": 0, "to_draw": normals}
        facts |= {
            "test_images": None,
            "failures": [],
            "notes": [],
            "plan_digest": None,
            "published": None,
        }
        files = models.resolve(settings.models, settings.policy.allow_noncommercial)
    # Wanted, not promised: the gate rejects samples, and attempts are limited.
    facts["samples_wanted"] = facts["images"] * settings.edits.per_image
    facts["controls_wanted"] = facts["images"] * settings.edits.controls_per_image
    facts["models"] = {stage: _model(*file) for stage, file in files.used().items()}
    return facts


def preview_text(facts: dict[str, Any]) -> str:
    """The preview as text."""
    state = (
        "to be rendered first" if facts["to_draw"] else f"{facts['cached']} of them in the cache"
    )
    wanted = f"{facts['samples_wanted']} anomalous and {facts['controls_wanted']} controls"
    rows = [
        ("from", f"{facts['root']} ({facts['kind']})"),
        ("to", facts["store"]),
        ("samples", f"{wanted}, less what the gate rejects"),
    ]
    for stage, model in facts["models"].items():
        # OpenCV's inpainters have no file.
        where = f"{model['file']}, {model['megabytes']:.1f} MB" if model["file"] else "no weights"
        rows.append((stage, f"{model['backend']} ({where})"))
    if facts["published"]:
        rows.append(("published", facts["published"]))
    rows += [("note", note) for note in facts["notes"]]
    failures = ((f["name"], f["error"]) for f in facts["failures"])
    rows += [("unusable", line) for line in repeated(failures)]
    head = f"{facts['category']}: would read {facts['images']} good images ({state})"
    return f"{head}\n{table(None, rows, '<', indent='  ')}"


def _model(backend: str, path: Path | None) -> dict[str, Any]:
    """Backend, file, size and digest of one model; OpenCV's inpainters have no file."""
    if path is None:
        return {"backend": backend, "file": None, "megabytes": 0.0, "sha256": None}
    # A diffusion model is a folder.
    files = weights.folder_files(path) if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files) / 1e6
    return {
        "backend": backend,
        "file": str(path),
        "megabytes": round(size, 2),
        "sha256": weights.sha256(path),
    }

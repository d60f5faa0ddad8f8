"""What a run will do, settled beforehand: which images, which models, which keys in the cache.

A plan is plain data: it goes to a JSON file, and every worker reads the same one. No model is
loaded and no pixel decoded here, so a run that finds its version published is over in a moment.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import CategorySettings
from pipeline.errors import ImageError, UserError
from pipeline.generation.cache import CACHE, StageCache
from pipeline.generation.cache_keys import STORE_CODE, PlannedImage, code_digest, with_keys
from pipeline.imaging.decode import file_digest
from pipeline.models import build as models
from pipeline.records import GOOD, SourceEntry
from pipeline.sources.listing import read_source
from pipeline.sources.splits import split_entries
from pipeline.utils.files import naming_the_disk, write_whole
from pipeline.utils.hashing import digest_of


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One category's run. `failures` are files that could not even be read."""

    settings: CategorySettings
    images: tuple[PlannedImage, ...]
    test: tuple[SourceEntry, ...]
    failures: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    defects_config: Any
    files: models.ModelFiles
    weights: dict[str, str]
    digest: str
    calibration_key: str = ""

    @property
    def cache(self) -> StageCache:
        """The stage cache beside the versions."""
        return StageCache(self.settings.store / CACHE)

    def missing(self) -> tuple[PlannedImage, ...]:
        """The images whose samples are not in the cache yet."""
        cache = self.cache
        return tuple(
            image
            for image in self.images
            if not (
                cache.has("samples", image.samples_key)
                and cache.has("analysis", image.analysis_key)
            )
        )

    def save(self) -> Path:
        """Write the plan beside the cache, under its digest, for workers to read."""
        path = self.cache.root / "plans" / f"{self.digest}.json"
        with naming_the_disk(self.cache.root):
            write_whole(path, json.dumps(self.to_json()).encode())
        return path

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "images": [asdict(image) for image in self.images],
            "test": [
                asdict(entry) | {"path": str(entry.path), "masks": [str(m) for m in entry.masks]}
                for entry in self.test
            ],
            "failures": list(self.failures),
            "notes": list(self.notes),
            "defects_config": self.defects_config,
            "files": {
                stage: [backend, str(path) if path else None]
                for stage, (backend, path) in asdict(self.files).items()
            },
            "weights": self.weights,
            "digest": self.digest,
            "calibration_key": self.calibration_key,
        }


def saved_plans(cache: StageCache) -> list[Path]:
    """The files that `RunPlan.save` wrote, for every plan that was published or is under way."""
    return sorted((cache.root / "plans").glob("*.json"))


def load_plan(path: Path) -> RunPlan:
    """The plan that `RunPlan.save` wrote."""
    data = json.loads(path.read_text())
    files: dict[str, Any] = {
        stage: (backend, Path(file) if file else None)
        for stage, (backend, file) in data["files"].items()
    }
    return RunPlan(
        settings=CategorySettings.model_validate(data["settings"]),
        images=tuple(
            PlannedImage(**image | {"donors": tuple(image["donors"])}) for image in data["images"]
        ),
        test=tuple(
            SourceEntry(
                **entry
                | {"path": Path(entry["path"]), "masks": tuple(Path(m) for m in entry["masks"])}
            )
            for entry in data["test"]
        ),
        failures=tuple(data["failures"]),
        notes=tuple(data["notes"]),
        defects_config=data["defects_config"],
        files=models.ModelFiles(**files),
        weights=data["weights"],
        digest=data["digest"],
        calibration_key=data["calibration_key"],
    )


def plan(settings: CategorySettings, limit: int | None = None) -> RunPlan:
    """Settle a run: list the source, split it, digest every file, find the weights.

    `limit` takes the first images of train and validation together, in the order of their names.
    UserError when nothing is left to work on.
    """
    listing = read_source(settings.kind, settings.root, settings.name)
    entries = split_entries(
        listing.entries, settings.splits.validation_fraction, settings.split_seed
    )
    normal = [e for e in entries if e.split != "test" and e.defect == GOOD]
    failures = [{"name": p.name, "error": p.reason} for p in listing.problems]
    files = models.resolve(settings.models, settings.policy.allow_noncommercial)
    weights = files.digests()
    images = []
    for entry in _limited(normal, limit):
        try:
            digest = file_digest(entry.path)
        except (ImageError, OSError) as error:
            failures.append({"name": entry.name, "error": str(error)})
            continue
        images.append(PlannedImage(entry.name, str(entry.path), entry.split, digest))
    if not images:
        raise UserError(f"{settings.root}: no usable normal image; nothing to generate from")
    images, calibration_key = with_keys(settings, weights, images)
    test = tuple(entry for entry in entries if entry.split == "test")
    identity = {
        "settings": settings.digest_content(),
        "output": settings.output.model_dump(mode="json"),
        "licence": settings.licence,
        "images": [[i.name, i.split, i.digest, i.samples_key] for i in images],
        "test": [[e.name, e.defect, *(_state(p) for p in (e.path, *e.masks))] for e in test],
        "failures": [failure["name"] for failure in failures],
        "defects_config": listing.defects_config,
        "store": code_digest(STORE_CODE),
    }
    return RunPlan(
        settings, tuple(images), test, tuple(failures), listing.notes, listing.defects_config,
        files, weights, digest_of(identity), calibration_key,
    )  # fmt: skip


def _limited(entries: Sequence[SourceEntry], limit: int | None) -> Sequence[SourceEntry]:
    if limit is None:
        return entries
    if limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}")
    return sorted(entries, key=lambda entry: entry.name)[:limit]


def _state(path: Path) -> list[str]:
    """A test file's identity for the plan: its name and digest."""
    try:
        return [path.name, file_digest(path)]
    except ImageError:
        return [path.name, ""]

"""Plan a run before it starts: which images, which models, which keys in the cache.

A plan is plain data in a JSON file that every worker reads. No model is loaded and no pixel is
decoded here, so a run whose version is already published ends at once.
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
from pipeline.utils.files import named_disk_errors, write_atomic
from pipeline.utils.hashing import digest_of


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The run of one category.

    `images` are the normals, `test` the real test images. `failures` are files that could not be
    read, with `name` and `error`. `files` are backend and weights file of each stage, `weights`
    their digests. `digest` identifies everything that decides the published version.
    """

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
        # One cache per store: categories and versions share the analysis of equal images.
        return StageCache(self.settings.store / CACHE)

    def missing(self) -> tuple[PlannedImage, ...]:
        """The images whose samples are not in the cache yet."""
        # Both entries are needed for packing, so both must exist.
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
        # Named by its digest: the same plan is saved once.
        path = self.cache.root / "plans" / f"{self.digest}.json"
        with named_disk_errors(self.cache.root):
            write_atomic(path, json.dumps(self.to_json()).encode())
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
    """The files that `RunPlan.save` wrote: one per plan that was published or is in progress."""
    return sorted((cache.root / "plans").glob("*.json"))


def load_plan(path: Path) -> RunPlan:
    """Read a plan that `RunPlan.save` wrote.

    Raises ValueError, KeyError or TypeError for a plan of an incompatible release.
    """
    data = json.loads(path.read_text())
    # JSON has no tuples and no paths: both are restored here.
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
    """Plan a run: list the source, split it, compute the digest of every file, find the weights.

    `limit` takes the first images of train and validation together, by name. Raises UserError
    when no usable image is left.
    """
    # Which files there are, and to which split each belongs.
    listing = read_source(settings.kind, settings.root, settings.name)
    entries = split_entries(
        listing.entries, settings.splits.validation_fraction, settings.split_seed
    )
    # Anomalies are generated from normals only; test images are packed as they are.
    normal = [e for e in entries if e.split != "test" and e.defect == GOOD]
    # Files that the listing could not use are recorded like those that fail later.
    failures = [{"name": p.name, "error": p.reason} for p in listing.problems]
    # Their digests enter the keys: other weights are other results.
    files = models.resolve(settings.models, settings.policy.allow_noncommercial)
    weights = files.digests()
    images = []
    for entry in _limited(normal, limit):
        try:
            # The content identifies an image; renaming it changes its name only.
            digest = file_digest(entry.path)
        except (ImageError, OSError) as error:
            failures.append({"name": entry.name, "error": str(error)})
            continue
        images.append(PlannedImage(entry.name, str(entry.path), entry.split, digest))
    if not images:
        raise UserError(
            f"{settings.root}: expected at least one normal image, found none that can be read"
        )
    images, calibration_key = with_keys(settings, weights, images)
    # Whatever changes the published files changes the digest: otherwise an outdated version would
    # be taken for the result. The keys of the samples already cover models, edits and gate.
    test = tuple(entry for entry in entries if entry.split == "test")
    identity = {
        "settings": settings.digest_content(),
        "output": settings.output.model_dump(mode="json"),
        # Stored in the version, so a corrected licence makes a new one.
        "licence": settings.licence,
        "images": [[i.name, i.split, i.digest, i.samples_key] for i in images],
        "test": [[e.name, e.defect, *(_state(p) for p in (e.path, *e.masks))] for e in test],
        # Names alone: error messages may differ between systems.
        "failures": [failure["name"] for failure in failures],
        "defects_config": listing.defects_config,
        # The format of the files on disk.
        "store": code_digest(STORE_CODE),
    }
    return RunPlan(
        settings, tuple(images), test, tuple(failures), listing.notes, listing.defects_config,
        files, weights, digest_of(identity), calibration_key,
    )  # fmt: skip


def _limited(entries: Sequence[SourceEntry], limit: int | None) -> Sequence[SourceEntry]:
    """The first entries by name, so that a larger limit keeps all images of a smaller one."""
    if limit is None:
        return entries
    if limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}")
    return sorted(entries, key=lambda entry: entry.name)[:limit]


def _state(path: Path) -> list[str]:
    """Name and digest of a test file; an unreadable one has no digest."""
    try:
        return [path.name, file_digest(path)]
    except ImageError:
        return [path.name, ""]

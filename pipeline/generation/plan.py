"""Plan a run before it starts: which images, which models, which keys in the cache.

A plan is plain data in a JSON file that every worker reads. No model is loaded, and of a plain
folder a few files at most are decoded (`pipeline.sources.guard`), so a run whose version is already
published ends at once.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import Version, latest
from pipeline.errors import ImageError, UserError
from pipeline.generation.cache import CACHE, StageCache
from pipeline.generation.cache_keys import (
    STORE_CODE,
    PlannedImage,
    calibration_images,
    code_digest,
    with_keys,
)
from pipeline.generation.other_products import images_of_others
from pipeline.imaging.decode import file_digest
from pipeline.models import build as models
from pipeline.records import GOOD, SourceEntry
from pipeline.sources.listing import read_source
from pipeline.sources.splits import split_entries
from pipeline.utils.files import named_disk_errors, write_atomic
from pipeline.utils.hashing import digest_of

# Fewer good images tell no part kinds: `part_kinds.kinds.LEAST_IMAGES`, which a run that is served
# from the store does not import.
KIND_IMAGES = 4


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The run of one category.

    `images` are the normals, `test` the real test images. `failures` are files that could not be
    read, with `name` and `error`. `files` are backend and weights file of each stage, `weights`
    their digests. `digest` identifies everything that decides the published version. `reviews` says
    which edits people rejected, and where (`review.refused`).
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
    reviews: dict[str, Any] = field(default_factory=dict)
    # Images of other categories that donate products; they are not published.
    others: tuple[PlannedImage, ...] = ()

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
            "reviews": self.reviews,
            "others": [asdict(image) for image in self.others],
        }


def saved_plans(cache: StageCache) -> list[Path]:
    """The files that `RunPlan.save` wrote: one per plan that was published or is in progress."""
    return sorted((cache.root / "plans").glob("*.json"))


def folder_of_newest(store: Path, category: str) -> Path | None:
    """The source folder that the newest version of a category was made from, where it is known."""
    newest = latest(store, category)
    if newest is None:
        return None
    try:
        return Path(json.loads(_plan_file(newest).read_text())["settings"]["root"])
    # Deleted since, or of another release: then nothing is known.
    except (OSError, ValueError, KeyError, TypeError):
        return None


def plan_of(version: Version) -> RunPlan | None:
    """The plan that a version of this store was made by, where it is still there and readable."""
    try:
        return load_plan(_plan_file(version))
    # Deleted since, or of another release: then nothing is known.
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plan_file(version: Version) -> Path:
    cache = StageCache(version.dir.parent.parent / CACHE)
    return cache.root / "plans" / f"{version.index['plan_digest']}.json"


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
        images=tuple(_planned_image(image) for image in data["images"]),
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
        reviews=data.get("reviews", {}),
        others=tuple(_planned_image(image) for image in data.get("others", ())),
    )


def _planned_image(data: dict[str, Any]) -> PlannedImage:
    lists = {"donors": tuple(data["donors"]), "refused": tuple(data.get("refused", ()))}
    return PlannedImage(**data | lists)


def plan(settings: CategorySettings, limit: int | None = None) -> RunPlan:
    """Plan a run: list the source, split it, compute the digest of every file, find the weights.

    `limit` takes the first normals by name and holds out some of these. Raises UserError when no
    usable image is left.
    """
    # Which files there are, and to which split each belongs.
    listing = read_source(
        settings.kind, settings.root, settings.name, settings.follow_links, settings.options
    )
    limited = _limited(listing.entries, limit)
    entries = split_entries(
        limited,
        settings.splits.validation_fraction,
        settings.split_seed,
        # The usual share of a few images would be one. A limit that cuts nothing changes nothing.
        fewest=2 if len(limited) < len(listing.entries) else 1,
    )
    # Anomalies are generated from normals only; test images are packed as they are.
    normal = [e for e in entries if e.split != "test" and e.defect == GOOD]
    # Files that the listing could not use are recorded like those that fail later.
    failures = [{"name": p.name, "error": p.reason} for p in listing.problems]
    # Their digests enter the keys: other weights are other results.
    files = models.resolve(settings.models, settings.policy.allow_noncommercial)
    weights = files.digests()
    reviews = _reviews(settings)
    refused = reviews.get("refused", {})
    images = []
    for entry in normal:
        try:
            # The content identifies an image; renaming it changes its name only.
            digest = file_digest(entry.path)
        except (ImageError, OSError) as error:
            failures.append({"name": entry.name, "error": str(error)})
            continue
        rejected = tuple(refused.get(digest, ()))
        images.append(
            PlannedImage(entry.name, str(entry.path), entry.split, digest, refused=rejected)
        )
    if not images:
        raise UserError(
            f"{settings.root}: expected at least one normal image, found none that can be read"
        )
    others, alone = images_of_others(settings, {image.digest for image in images})
    images, others, calibration_key = with_keys(settings, weights, images, others)
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
    notes = (*listing.notes, *_few_for_kinds(settings, images), *_few_held_out(images), *alone)
    return RunPlan(
        settings, tuple(images), test, tuple(failures), notes, listing.defects_config,
        files, weights, digest_of(identity), calibration_key, reviews, tuple(others),
    )  # fmt: skip


def _reviews(settings: CategorySettings) -> dict[str, Any]:
    """The edits that people rejected in other versions of the category; empty without a review."""
    if settings.reviews is None:
        return {}
    # Imported here: it reads versions, which a run without a review does not.
    from pipeline.review.refused import refused_edits

    return refused_edits(settings.store / settings.name, settings.reviews)


def _limited(entries: Sequence[SourceEntry], limit: int | None) -> Sequence[SourceEntry]:
    """The first normals by name, so that a larger limit keeps all images of a smaller one.

    Where the source has a validation split of its own, it keeps its share, and two images at least
    as long as training has two. Test entries are not counted.
    """
    if limit is None:
        return entries
    if limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}")
    by_name = sorted(entries, key=lambda entry: entry.name)
    train, held = (
        [e for e in by_name if e.split == split and e.defect == GOOD]
        for split in ("train", "validation")
    )
    if limit >= len(train) + len(held):
        return entries
    share = round(limit * len(held) / (len(train) + len(held)))
    most = min(max(share, 2), max(limit // 2, limit - len(train)), len(held))
    kept = {e.name for e in (*held[:most], *train[: limit - most])}
    return [e for e in entries if e.split == "test" or e.name in kept]


def _few_for_kinds(settings: CategorySettings, images: Sequence[PlannedImage]) -> tuple[str, ...]:
    """One line where so few images calibrate the gate that no part kinds are learned."""
    normals = len(calibration_images(images))
    if normals >= KIND_IMAGES or not settings.edits.uses_part_kinds:
        return ()
    return (
        f"part kinds take {KIND_IMAGES} good images for the calibration, found {normals}: no "
        "objects are exchanged, moved or turned, as nobody knows which are equal; take more images",
    )


def _few_held_out(images: Sequence[PlannedImage]) -> tuple[str, ...]:
    """One line where so few images are held out that thresholds of detectors mean little."""
    held = sum(image.split == "validation" for image in images)
    if held >= 2:
        return ()
    found = "none is" if not held else "only one is"
    return (
        f"of {len(images)} good images {found} held out for validation: detectors trained on this "
        "version get no thresholds from it, or loose ones; take more images, or a larger "
        "splits.validation_fraction",
    )


def _state(path: Path) -> list[str]:
    """Name and digest of a test file; an unreadable one has no digest."""
    try:
        return [path.name, file_digest(path)]
    except ImageError:
        return [path.name, ""]

"""What a run will do, settled beforehand: which images, which models, which keys in the cache.

A plan is plain data: it goes to a JSON file, and every worker reads the same one. No model is
loaded and no pixel decoded here, so a run that finds its version published is over in a moment.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline import models
from pipeline.cache import CACHE, StageCache
from pipeline.digests import digest_of
from pipeline.disk import naming_the_disk, write_whole
from pipeline.errors import ImageError, UserError
from pipeline.images import file_digest
from pipeline.manifest import CategorySettings
from pipeline.records import GOOD, SourceEntry, Split
from pipeline.sources import read_source, split_entries

# The modules whose text decides what a stage makes: when one changes, its cache entries are new.
ANALYSIS_CODE = (
    "images", "foreground", "proposals", "small_sam", "small_sam_decoder", "small_sam_encoder",
    "models", "devices", "records", "settings", "cache",
)  # fmt: skip
SAMPLES_CODE = (
    "edits", "compose", "grain", "gate", "inpaint", "lama", "lama_cleaner", "stages", "records",
    "settings", "cache",
)  # fmt: skip

STORE_CODE = (
    "shards",
    "shardfiles",
    "handles",
    "chunks",
    "packing",
    "versions",
    "building",
    "attempts",
    "sources",
    "layouts",
    "images",
)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One normal image: where it lies, the SHA-256 of its file, and its keys in the cache."""

    name: str
    path: str
    split: Split
    digest: str
    analysis_key: str
    samples_key: str


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
        images=tuple(PlannedImage(**image) for image in data["images"]),
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
        keys = stage_keys(settings, weights, digest)
        images.append(PlannedImage(entry.name, str(entry.path), entry.split, digest, *keys))
    if not images:
        raise UserError(f"{settings.root}: no usable normal image; nothing to generate from")
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
        files, weights, digest_of(identity),
    )  # fmt: skip


@lru_cache
def code_digest(modules: tuple[str, ...]) -> str:
    """SHA-256 over the text of modules of this package, in the order given."""
    here = Path(__file__).parent
    hasher = hashlib.sha256()
    for module in modules:
        hasher.update((here / f"{module}.py").read_bytes())
    return hasher.hexdigest()


@lru_cache
def software() -> dict[str, str]:
    """Versions of the libraries that decide pixels; reads metadata, imports none of them."""
    names = (
        "numpy", "pillow", "opencv-python-headless", "torch", "onnxruntime", "rembg",
        "segment-anything", "lama-cleaner",
    )  # fmt: skip
    return {name: version(name) for name in names}


@lru_cache
def device_class() -> tuple[str, str]:
    """What `auto` depends on, without importing torch: an NVIDIA driver, and how the CPU
    multiplies bfloat16 (`devices.multiplies_bf16`)."""
    driver = "cuda" if Path("/proc/driver/nvidia/version").exists() else "cpu"
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return driver, "unknown"
    return driver, next((name for name in ("amx_bf16", "avx512_bf16") if name in flags), "plain")


def stage_keys(settings: CategorySettings, weights: dict[str, str], image: str) -> tuple[str, str]:
    """Cache keys of the analysis and of the samples of one image, given its digest."""
    stage_weights = [w for name, w in weights.items() if not name.startswith("inpaint/")]
    analysis = digest_of(
        {
            "image": image,
            "size": list(settings.image_size),
            "proposals": settings.proposals.model_dump(mode="json"),
            "weights": stage_weights,
            "compute": [settings.models.device, settings.models.precision, *device_class()],
            "software": software(),
            "code": code_digest(ANALYSIS_CODE),
        }
    )
    samples = digest_of(
        {
            "analysis": analysis,
            "category": settings.name,
            "seed": settings.seed,
            "edits": settings.edits.model_dump(mode="json"),
            "gate": settings.gate.model_dump(mode="json"),
            "weights": weights,
            "code": code_digest(SAMPLES_CODE),
        }
    )
    return analysis, samples


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

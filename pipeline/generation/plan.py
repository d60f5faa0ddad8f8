"""What a run will do, settled beforehand: which images, which models, which keys in the cache.

A plan is plain data: it goes to a JSON file, and every worker reads the same one. No model is
loaded and no pixel decoded here, so a run that finds its version published is over in a moment.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.config.manifest import CategorySettings
from pipeline.errors import ImageError, UserError
from pipeline.generation.cache import CACHE, StageCache
from pipeline.imaging.decode import file_digest
from pipeline.models import build as models
from pipeline.models.weights import store as weight_files
from pipeline.records import GOOD, SourceEntry, Split
from pipeline.sources.listing import read_source, split_entries
from pipeline.utils.files import naming_the_disk, write_whole
from pipeline.utils.hashing import digest_of

# The packages and files whose text decides what a stage makes: a change there makes its cache
# entries anew.
_RECORDS = ("records.py", "settings.py", "generation/cache.py")
ANALYSIS_CODE = ("imaging", "models", "models/small_sam", *_RECORDS)
NORMALITY_CODE = ("imaging", "models", "edits", "edits/kinds", "gate", *_RECORDS)
SAMPLES_CODE = (
    "imaging", "models", "models/inpaint", "edits", "edits/kinds", "edits/compositing", "gate",
    "rulebook", "generation/analysis.py", "generation/sampler.py", *_RECORDS,
)  # fmt: skip
DONORS = 2
"""Other images of its split from which an image may take parts."""
STUDIED = 32
"""Normals at most that the normality is learned from."""
TEACHER = "bundled-teacher"
"""Entry of the weights registry that the gate's patch rules read."""

STORE_CODE = ("dataset", "sources", "sources/layouts", "imaging", "generation/publish.py")


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One normal image: where it lies, the SHA-256 of its file, and its keys in the cache.

    `donors` are the names of the images of its split that may lend it parts.
    """

    name: str
    path: str
    split: Split
    digest: str
    analysis_key: str = ""
    samples_key: str = ""
    donors: tuple[str, ...] = ()


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
    normality_key: str = ""

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
            "normality_key": self.normality_key,
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
        normality_key=data["normality_key"],
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
    images, normality_key = with_keys(settings, weights, images)
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
        files, weights, digest_of(identity), normality_key,
    )  # fmt: skip


def files_of(code: tuple[str, ...]) -> list[Path]:
    """The files of packages (without those inside them) and the files named by themselves."""
    pipeline = Path(__file__).resolve().parents[1]
    places = [pipeline / name for name in code]
    return [
        file
        for place in places
        for file in ([place] if place.suffix else sorted(place.glob("*.py")))
    ]


@lru_cache
def code_digest(code: tuple[str, ...]) -> str:
    """SHA-256 over the text of packages and files of the pipeline."""
    hasher = hashlib.sha256()
    for path in files_of(code):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


@lru_cache
def software() -> dict[str, str]:
    """Versions of the libraries that decide pixels; reads metadata, imports none of them."""
    names = (
        "numpy", "pillow", "opencv-python-headless", "torch", "onnxruntime", "rembg",
        "segment-anything", "lama-cleaner", "diffusers", "transformers",
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


def with_keys(
    settings: CategorySettings, weights: dict[str, str], images: Sequence[PlannedImage]
) -> tuple[list[PlannedImage], str]:
    """The images with their donors and keys in the cache, and the key of what is normal here.

    An image's samples depend on its own analysis, on those of its donors and on the normality.
    """
    analysis = {image.name: _analysis_key(settings, weights, image.digest) for image in images}
    normality = _normality_key(settings, [analysis[image.name] for image in studied(images)])
    shared = {
        "normality": normality,
        "category": settings.name,
        "seed": settings.seed,
        "edits": settings.edits.model_dump(mode="json"),
        "gate": settings.gate.model_dump(mode="json"),
        "rules": rules_digest(settings),
        "looks": _looks_digest(settings),
        "fill": settings.models.content().get("fill"),
        "weights": weights,
        "code": code_digest(SAMPLES_CODE),
    }
    keyed = []
    for image in images:
        donors = donors_of(image, images)
        lent = [[name, analysis[name]] for name in donors]
        samples = digest_of(shared | {"analysis": analysis[image.name], "donors": lent})
        keyed.append(replace(
            image, analysis_key=analysis[image.name], samples_key=samples, donors=donors
        ))  # fmt: skip
    return keyed, normality


def studied(images: Sequence[PlannedImage]) -> tuple[PlannedImage, ...]:
    """The training normals that what is normal is learned from: those with the smallest digests.

    Neither names nor order matter. A plan without training images studies what it has.
    """
    train = [image for image in images if image.split == "train"] or list(images)
    one_each = {image.digest: image for image in sorted(train, key=lambda one: one.name)}
    return tuple(one_each[digest] for digest in sorted(one_each)[:STUDIED])


def donors_of(image: PlannedImage, images: Sequence[PlannedImage]) -> tuple[str, ...]:
    """Names of the images that lend parts to this one, by rendezvous hashing over digests.

    Each pair of images has a number of its own, so a new image changes the donors of few.
    """
    others = {
        other.digest: other.name
        for other in sorted(images, key=lambda one: one.name)
        if other.split == image.split and other.digest != image.digest
    }
    ranked = sorted(others, key=lambda d: hashlib.sha256((image.digest + d).encode()).digest())
    return tuple(others[digest] for digest in ranked[:DONORS])


def rules_digest(settings: CategorySettings) -> str:
    """The content of the category's rule book, or nothing where it has none."""
    path = getattr(settings, "rules", None)
    if path is None:
        return ""
    from pipeline.rulebook import judge as rules

    return rules.digest_of_file(path)


def _looks_digest(settings: CategorySettings) -> str:
    """The network that describes parts for a rule book, whatever the gate asks; "" without one."""
    if getattr(settings, "rules", None) is None:
        return ""
    return weight_files.sha256(teacher_file(settings))


def _analysis_key(settings: CategorySettings, weights: dict[str, str], image: str) -> str:
    stage_weights = [
        w for name, w in weights.items() if name.startswith(("foreground/", "proposals/"))
    ]
    return digest_of(
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


def _normality_key(settings: CategorySettings, analyses: Sequence[str]) -> str:
    teacher = weight_files.sha256(teacher_file(settings)) if settings.asks_patches else ""
    return digest_of(
        {
            "analyses": sorted(analyses),
            "dilation": settings.edits.dilation,
            "teacher": teacher,
            "code": code_digest(NORMALITY_CODE),
        }
    )


def teacher_file(settings: CategorySettings) -> Path:
    """The weights file of the network behind the gate's patch rules."""
    return weight_files.require(TEACHER, None, settings.policy.allow_noncommercial)


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

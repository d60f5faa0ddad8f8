"""Keys of the stage cache: settings, weights, libraries, and the code that does the work.

What a stage makes is found again when nothing that decides it has changed (decision 0007).
"""

import ast
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path

from pipeline.config.schema import CategorySettings
from pipeline.models.weights import store as weight_files
from pipeline.records import Split
from pipeline.utils.hashing import digest_of

# Packages (without those inside them) and files whose code decides what a stage makes. A new
# package that a stage imports is added here; tests/repository/test_cache_keys.py finds the ones
# forgotten.
_RECORDS = ("kinds.py", "records.py", "settings.py", "generation/cache_codecs.py")
ANALYSIS_CODE = ("imaging", "models", "models/small_sam", "generation/analysis.py", *_RECORDS)
CALIBRATION_CODE = ("imaging", "models", "gate", "generation/calibrate.py", *_RECORDS)
SAMPLES_CODE = (
    "imaging", "models", "models/inpaint", "edits", "edits/kinds", "edits/compositing", "gate",
    "rulebook", "generation/sampler.py", *_RECORDS,
)  # fmt: skip
STORE_CODE = ("dataset", "sources", "sources/layouts", "imaging", "generation/publish.py")

# Other images of its split from which an image may take objects.
DONORS = 2
# Normal images, at most, that the gate is calibrated on.
CALIBRATION_IMAGES = 32
# Entry of the weights registry that the gate's patch check reads.
TEACHER = "bundled-teacher"


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One normal image: where it lies, the SHA-256 of its file, and its keys in the cache.

    `donors` are the names of the images of its split that may donate objects to it.
    """

    name: str
    path: str
    split: Split
    digest: str
    analysis_key: str = ""
    samples_key: str = ""
    donors: tuple[str, ...] = ()


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
    """SHA-256 over what the code of packages and files of the pipeline does, not over its words.

    Comments, docstrings, layout and the `description` of a setting do not enter, so a reworded
    sentence runs no model again.
    """
    hasher = hashlib.sha256()
    for path in files_of(code):
        hasher.update(path.name.encode() + b"\n" + _code_of(path))
    return hasher.hexdigest()


def code_version() -> str:
    """Sixteen digits that name the code which makes samples, as an index records it."""
    return code_digest(ANALYSIS_CODE + SAMPLES_CODE)[:16]


# Stages share most of their files, and parsing takes a few milliseconds each.
@cache
def _code_of(path: Path) -> bytes:
    return hashlib.sha256(without_words(path.read_text()).encode()).digest()


def without_words(source: str) -> str:
    """The syntax tree of a module as text, without docstrings and descriptions of settings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Field":
            node.keywords = [word for word in node.keywords if word.arg != "description"]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    """True for a docstring, or a string that stands alone."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


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
    """The images with their donors and keys in the cache, and the key of the calibration.

    An image's samples depend on its own analysis, on those of its donors and on the calibration.
    """
    analysis = {image.name: _analysis_key(settings, weights, image.digest) for image in images}
    calibration = _calibration_key(
        settings, [analysis[image.name] for image in calibration_images(images)]
    )
    shared = {
        "calibration": calibration,
        "category": settings.name,
        "seed": settings.seed,
        "edits": settings.edits.model_dump(mode="json"),
        "gate": settings.gate.model_dump(mode="json"),
        "rules": rules_digest(settings),
        "descriptor": _descriptor_digest(settings),
        "fill": settings.models.content().get("fill"),
        "weights": weights,
        "code": code_digest(SAMPLES_CODE),
    }
    keyed = []
    for image in images:
        donors = donors_of(image, images)
        others = [[name, analysis[name]] for name in donors]
        samples = digest_of(shared | {"analysis": analysis[image.name], "donors": others})
        keyed.append(replace(
            image, analysis_key=analysis[image.name], samples_key=samples, donors=donors
        ))  # fmt: skip
    return keyed, calibration


def calibration_images(images: Sequence[PlannedImage]) -> tuple[PlannedImage, ...]:
    """The training images that the gate is calibrated on: those with the smallest digests.

    Neither names nor order matter. A plan without training images takes what it has.
    """
    train = [image for image in images if image.split == "train"] or list(images)
    one_each = {image.digest: image for image in sorted(train, key=lambda one: one.name)}
    return tuple(one_each[digest] for digest in sorted(one_each)[:CALIBRATION_IMAGES])


def donors_of(image: PlannedImage, images: Sequence[PlannedImage]) -> tuple[str, ...]:
    """Names of the images that donate objects to this one, by rendezvous hashing over digests.

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
    if settings.rules is None:
        return ""
    from pipeline.rulebook.book import digest_of_file

    return digest_of_file(settings.rules)


def _descriptor_digest(settings: CategorySettings) -> str:
    """The network that describes parts for a rule book, whatever the gate uses; "" without one."""
    if settings.rules is None:
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


def _calibration_key(settings: CategorySettings, analyses: Sequence[str]) -> str:
    teacher = weight_files.sha256(teacher_file(settings)) if settings.asks_patches else ""
    return digest_of(
        {
            "analyses": sorted(analyses),
            "dilation": settings.edits.dilation,
            "teacher": teacher,
            "code": code_digest(CALIBRATION_CODE),
        }
    )


def teacher_file(settings: CategorySettings) -> Path:
    """The weights file of the network behind the gate's patch rules."""
    return weight_files.require(TEACHER, None, settings.policy.allow_noncommercial)

"""Keys of the stage cache: digests over settings, weights, libraries and the code of a stage.

A result is found again as long as nothing that it depends on has changed (decision 0007).
"""

import ast
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.config.schema import CategorySettings
from pipeline.models.weights import store as weight_files
from pipeline.records import Split
from pipeline.utils.hashing import digest_of

# Packages (without subpackages) and files whose code decides the result of a stage. A new package
# that a stage imports must be added here; tests/repository/test_cache_keys.py finds missing ones.
_RECORDS = (
    "kinds.py", "records.py", "settings.py", "dataset/lineage.py", "generation/cache_codecs.py",
)  # fmt: skip
ANALYSIS_CODE = ("imaging", "models", "models/small_sam", "generation/analysis.py", *_RECORDS)
CALIBRATION_CODE = (
    "imaging", "models", "part_kinds", "gate", "generation/calibrate.py", *_RECORDS,
)  # fmt: skip
SAMPLES_CODE = (
    "imaging", "models", "models/inpaint", "part_kinds", "edits", "edits/kinds",
    "edits/compositing", "gate", "rulebook", "generation/asked.py", "generation/sampler.py",
    "generation/study.py", "generation/parts_codecs.py", *_RECORDS,
)  # fmt: skip
# On top of the analysis: which of its masks are parts, and their descriptors.
PARTS_CODE = (
    "imaging", "models", "rulebook/descriptors.py", "rulebook/parts.py",
    "generation/parts_codecs.py", "generation/study.py", *_RECORDS,
)  # fmt: skip
ASKED_CODE = ("imaging", "models", "part_kinds", "generation/asked.py", *_RECORDS)
STORE_CODE = ("dataset", "sources", "sources/layouts", "imaging", "generation/publish.py")

# Number of other images of its split from which an image may take objects.
DONORS = 2
# Number of images of other categories from which it may take the product.
OTHER_DONORS = 4
# Normal images, at most, that the gate is calibrated on.
CALIBRATION_IMAGES = 32
# Entry of the weights registry that the gate's patch check reads.
TEACHER = "bundled-teacher"


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One normal image: its path, the SHA-256 of its file, and its keys in the cache.

    `donors` are the names of the images of its split that may donate objects to it, `refused` the
    edits of it that people rejected in a review (`edit_key`). An image of another category, which
    only donates, states that `category`.
    """

    name: str
    path: str
    split: Split
    digest: str
    analysis_key: str = ""
    samples_key: str = ""
    donors: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    category: str = ""


def files_of(code: tuple[str, ...]) -> list[Path]:
    """The Python files of packages (without subpackages), and the files that are named."""
    pipeline = Path(__file__).resolve().parents[1]
    places = [pipeline / name for name in code]
    return [
        file
        for place in places
        for file in ([place] if place.suffix else sorted(place.glob("*.py")))
    ]


@lru_cache
def code_digest(code: tuple[str, ...]) -> str:
    """SHA-256 over the syntax trees of packages and files of the pipeline.

    Comments, docstrings, formatting and descriptions of settings do not enter, so rewording them
    invalidates no entry of the cache.
    """
    hasher = hashlib.sha256()
    for path in files_of(code):
        # Name and content of each file, so that moving code between files counts as a change.
        hasher.update(path.name.encode() + b"\n" + _code_of(path))
    return hasher.hexdigest()


def code_version() -> str:
    """Sixteen digits that identify the code that generates samples, as stored in an index."""
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
        # Descriptions are help texts of the manifest.
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
    """Versions of the libraries that decide pixels, from their metadata: none is imported."""
    names = (
        "numpy", "pillow", "opencv-python-headless", "torch", "onnxruntime", "rembg",
        "segment-anything", "lama-cleaner", "timm", "diffusers", "transformers", "pypatchmatch",
    )  # fmt: skip
    return {name: version(name) for name in names}


@lru_cache
def device_class() -> tuple[str, str]:
    """What `device: auto` and `precision: auto` depend on, without importing torch.

    `cuda` where an NVIDIA driver is loaded, else `cpu`; and how the CPU multiplies bfloat16
    (see `devices.multiplies_bf16`).
    """
    driver = "cuda" if Path("/proc/driver/nvidia/version").exists() else "cpu"
    try:
        # Instructions with which the CPU multiplies bfloat16: without them, rounding differs.
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return driver, "unknown"
    return driver, next((name for name in ("amx_bf16", "avx512_bf16") if name in flags), "plain")


def with_keys(
    settings: CategorySettings,
    weights: dict[str, str],
    images: Sequence[PlannedImage],
    others: Sequence[PlannedImage] = (),
) -> tuple[list[PlannedImage], list[PlannedImage], str]:
    """The images with their donors and keys in the cache, those of other categories with the key
    of their analysis, and the key of the calibration.

    An image's samples depend on its own analysis, on those of its donors and on the calibration.
    """
    analysis = {
        image.name: analysis_key(settings, weights, image.digest) for image in (*images, *others)
    }
    # Only then the samples: their keys contain the keys of everything they are made from.
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
        # Settings of the filler that follows prompts; absent without one.
        "fill": settings.models.content().get("fill"),
        "weights": weights,
        "code": code_digest(SAMPLES_CODE),
    }
    keyed = []
    for image in images:
        donors = (*donors_of(image, images), *other_donors_of(image, others))
        given = [[name, analysis[name]] for name in donors]
        own: dict[str, Any] = {"analysis": analysis[image.name], "donors": given}
        # No key at all where nothing was rejected, so that the entry of such an image stays valid.
        if image.refused:
            own["refused"] = list(image.refused)
        samples = digest_of(shared | own)
        keyed.append(replace(
            image, analysis_key=analysis[image.name], samples_key=samples, donors=donors
        ))  # fmt: skip
    donating = [replace(other, analysis_key=analysis[other.name]) for other in others]
    return keyed, donating, calibration


def calibration_images(images: Sequence[PlannedImage]) -> tuple[PlannedImage, ...]:
    """The training images that the gate is calibrated on: those with the smallest digests.

    This is a random choice that does not depend on names or order. A plan without training images
    uses the images it has.
    """
    train = [image for image in images if image.split == "train"] or list(images)
    # Copies of one image count once.
    one_each = {image.digest: image for image in sorted(train, key=lambda one: one.name)}
    return tuple(one_each[digest] for digest in sorted(one_each)[:CALIBRATION_IMAGES])


def donors_of(image: PlannedImage, images: Sequence[PlannedImage]) -> tuple[str, ...]:
    """Names of the images that donate objects to this one, by rendezvous hashing over digests.

    Donors are ranked by a hash of the pair of images, so a new image changes the donors of few.
    They are of the same split, or objects of training images would leak into validation.
    """
    # Copies of one image count once, and no image is its own donor.
    others = {
        other.digest: other.name
        for other in sorted(images, key=lambda one: one.name)
        if other.split == image.split and other.digest != image.digest
    }
    return tuple(others[digest] for digest in _ranked(image, others)[:DONORS])


def other_donors_of(image: PlannedImage, others: Sequence[PlannedImage]) -> tuple[str, ...]:
    """Names of the images of other categories that donate to this one, of its split as above."""
    names = {other.digest: other.name for other in others if other.split == image.split}
    return tuple(names[digest] for digest in _ranked(image, names)[:OTHER_DONORS])


def _ranked(image: PlannedImage, digests: Iterable[str]) -> list[str]:
    return sorted(digests, key=lambda d: hashlib.sha256((image.digest + d).encode()).digest())


def rules_digest(settings: CategorySettings) -> str:
    """Digest of the category's rule book; "" where it has none."""
    if settings.rules is None:
        return ""
    from pipeline.rulebook.book import digest_of_file

    return digest_of_file(settings.rules)


def _descriptor_digest(settings: CategorySettings) -> str:
    """Digest of the network that describes parts for a rule book; "" without a rule book.

    It enters separately, because the gate may be set to use no patches.
    """
    if settings.rules is None:
        return ""
    return weight_files.sha256(teacher_file(settings))


def analysis_key(settings: CategorySettings, weights: dict[str, str], image: str) -> str:
    """Key of one image's foreground and proposals; `image` is its digest."""
    # The inpainter does not enter: another one may reuse the analysis.
    stage_weights = [
        w
        for name, w in weights.items()
        if name.startswith(("foreground/", "proposals/", "features/"))
    ]
    return digest_of(
        {
            "image": image,
            "size": list(settings.image_size),
            "proposals": settings.proposals.model_dump(mode="json"),
            "weights": stage_weights,
            # As requested and as available: `auto` alone says neither device nor dtype.
            "compute": [settings.models.device, settings.models.precision, *device_class()],
            # Another release of a library may decode or round differently.
            "software": software(),
            "code": code_digest(ANALYSIS_CODE),
        }
    )


def parts_key(analysis: str) -> str:
    """Key of the parts that rule books see in one image; `analysis` is the key of its analysis."""
    # The network is bundled, so there is one without asking for a policy.
    describer = weight_files.sha256(weight_files.require(TEACHER))
    return digest_of(
        {"analysis": analysis, "describer": describer, "code": code_digest(PARTS_CODE)}
    )


def look_key(analysis: str, boxes: Sequence[Sequence[float]]) -> str:
    """Key of what the proposal model finds in boxes (pixels) of one image."""
    return digest_of({"analysis": analysis, "boxes": boxes, "code": code_digest(ANALYSIS_CODE)})


def asked_key(analysis: str, calibration: str) -> str:
    """Key of what was found when one image was asked for missing parts.

    `analysis` is the key of its analysis, `calibration` that of the category, which has the kinds.
    """
    return digest_of(
        {"analysis": analysis, "calibration": calibration, "code": code_digest(ASKED_CODE)}
    )


def _calibration_key(settings: CategorySettings, analyses: Sequence[str]) -> str:
    """Key of the normal model of a category; `analyses` are keys of its images."""
    teacher = weight_files.sha256(teacher_file(settings)) if settings.uses_patches else ""
    return digest_of(
        {
            # Sorted: the calibration does not depend on the order of images.
            "analyses": sorted(analyses),
            "dilation": settings.edits.dilation,
            "teacher": teacher,
            "code": code_digest(CALIBRATION_CODE),
        }
    )


def teacher_file(settings: CategorySettings) -> Path:
    """The weights file of the network behind the gate's patch check."""
    return weight_files.require(TEACHER, None, settings.policy.allow_noncommercial)

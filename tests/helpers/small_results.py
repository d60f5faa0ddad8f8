"""Small generation results without models, for the tests of datasets, reports and exports."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.version import Version
from pipeline.dataset.version_writer import VersionHeader
from pipeline.generation.publish import publish
from pipeline.records import (
    SPLITS,
    Attempt,
    Edit,
    ForegroundMask,
    ImageResult,
    ObjectProposals,
    Sample,
    TestImage,
    Verdict,
)

PLAN = "0123456789abcdef" * 4
# Kind and reason of each attempt of an image; `-` stands for an edit that could not be planned.
TURNS = (("missing", ""), ("extra", "seam"), ("extra", ""), ("control_noop", ""), ("swapped", "-"))


def image_result(
    number: int = 0,
    size: tuple[int, int] = (24, 19),
    turns: Sequence[tuple[str, str]] = TURNS,
    name: str | None = None,
) -> ImageResult:
    """One image with a smooth background, three proposals, and one attempt per turn."""
    rng = np.random.default_rng([number, *size])
    height, width = size
    ramp = np.linspace(40, 200, width)[None, :, None] + rng.normal(0, 4, (height, width, 3))
    image = np.clip(ramp, 0, 255).astype(np.uint8)
    masks = rng.random((3, height, width)) < 0.2
    attempts = []
    for turn, (kind, reason) in enumerate(turns):
        seed = int(rng.integers(2**64, dtype=np.uint64))
        edit = Edit(kind, (turn % 3,), {"offset": [turn, -1], "share": 0.25}, seed)
        verdict = Verdict(not reason, reason, {"delta_e": float(rng.random()), "area": turn / 8})
        if reason == "-":
            verdict = Verdict(False, "no_edit")
        sample = None if reason == "-" else edited(image, edit, masks[turn % 3], rng)
        attempts.append(Attempt(turn, 0, kind, seed, sample, verdict, float(rng.random())))
    return ImageResult(
        name=name or f"train/good/{number:03d}.png",
        digest=f"{number:064x}",
        split=SPLITS[number % 5 == 4],
        pixels_HW3=image,
        foreground=ForegroundMask(masks.any(0), peak=0.875),
        proposals=ObjectProposals(masks, rng.random(3, dtype=np.float32), masks.any(0)),
        attempts=tuple(attempts),
    )


def edited(
    image: np.ndarray, edit: Edit, object_HW: np.ndarray, rng: np.random.Generator
) -> Sample:
    """A sample with noise inside a random box and the source everywhere else."""
    height, width = image.shape[:2]
    y, x = int(rng.integers(height)), int(rng.integers(width))
    change = np.zeros((height, width), np.bool_)
    change[y : y + 1 + height // 3, x : x + 1 + width // 3] = True
    pixels = np.where(change[..., None], rng.integers(0, 256, image.shape), image)
    return Sample(edit, pixels.astype(np.uint8), change, object_HW)


def real_image(number: int = 0, size: tuple[int, int] = (24, 19)) -> TestImage:
    """One image of the real test split with `number` modulo 3 ground-truth masks."""
    rng = np.random.default_rng([7, number, *size])
    count = number % 3
    return TestImage(
        name=f"test/bad/{number:03d}.png",
        digest=f"{number:064x}",
        defect="logical" if count else "good",
        pixels_HW3=rng.integers(0, 256, (*size, 3), np.uint8),
        masks_KHW=rng.random((count, *size)) < 0.3,
        values_K=np.arange(255, 255 - count, -1).astype(np.uint8),
    )


def header(**changes: Any) -> VersionHeader:
    """A header with one failed input."""
    plain = VersionHeader(
        settings={"edits": {"per_image": 5}},
        plan_digest=PLAN,
        licence="CC0-1.0",
        failures=[{"name": "train/good/broken.png", "error": "cannot be decoded"}],
    )
    return replace(plain, **changes)


def small_version(
    store: Path,
    images: int = 6,
    tests: int = 4,
    results: Iterable[ImageResult] | None = None,
    head: VersionHeader | None = None,
    size: tuple[int, int] = (24, 19),
    **options: Any,
) -> Version:
    """Publish a small version; without a gallery unless requested."""
    options = {"gallery": False, "shard_images": 4} | options
    results = (image_result(n, size) for n in range(images)) if results is None else results
    made = (real_image(n, size) for n in range(tests))
    return publish(store, "tray", results, made, head or header(), **options)

"""Small versions whose samples carry a trace of editing, or none, for the tests of the audit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from small_results import header

from pipeline.dataset.version import Version
from pipeline.generation.publish import publish
from pipeline.records import (
    Attempt,
    Edit,
    ForegroundMask,
    ImageResult,
    ObjectProposals,
    Sample,
    Verdict,
)

# Height and width of the images.
SIDE = 64
# What an edit does to the float pixels inside its mask.
Touch = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def noise(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """New sensor noise of the same strength on the same background: no trace."""
    return pixels.mean((0, 1)) + rng.normal(0, 6, pixels.shape)


def noisy(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise that is stronger inside the mask."""
    return noise(pixels, rng) + rng.normal(0, 6, pixels.shape)


def blurred(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise that is weaker inside the mask."""
    found: np.ndarray = pixels.mean((0, 1)) + rng.normal(0, 1, pixels.shape)
    return found


def audited(
    store: Path,
    images: int = 30,
    *,
    anomalies: Touch = noise,
    controls: Touch = noise,
    kinds: tuple[str, ...] = ("extra", "control_noop"),
    **options: Any,
) -> Version:
    """A version of noisy grey images with one sample per kind and image."""
    rng, results = np.random.default_rng(5), []
    for number in range(images):
        # Each image has its own grey level, so images differ in content.
        grey = rng.integers(80, 170) + rng.normal(0, 6, (SIDE, SIDE, 3))
        image = np.clip(grey, 0, 255).astype(np.uint8)
        attempts = []
        for turn, kind in enumerate(kinds):
            control = kind.startswith("control_")
            change = np.zeros((SIDE, SIDE), np.bool_)
            y, x = rng.integers(0, SIDE // 2, 2)
            height, width = rng.integers(12, 20, 2)
            box = (slice(y, y + height), slice(x, x + width))
            pixels = image.astype(np.float64)
            change[box] = True
            pixels[box] = (controls if control else anomalies)(image[box].astype(np.float64), rng)
            edit = Edit(kind, (0,), {"offset": [0, 0]}, turn)
            sample = Sample(edit, np.clip(pixels, 0, 255).astype(np.uint8), change, change)
            attempts.append(Attempt(turn, 0, kind, turn, sample, Verdict(True)))
        masks = np.zeros((1, SIDE, SIDE), np.bool_)
        results.append(
            ImageResult(
                name=f"train/good/{number:03d}.png",
                digest=f"{number:064x}",
                split="validation" if number % 2 else "train",
                pixels_HW3=image,
                foreground=ForegroundMask(np.ones((SIDE, SIDE), np.bool_)),
                proposals=ObjectProposals(masks, np.ones(1, np.float32), masks[0]),
                attempts=tuple(attempts),
            )
        )
    options = {"gallery": False} | options
    return publish(store, "grey", results, [], header(failures=()), **options)

"""The samples that every storage format has to keep: photographs with one or ten edits each.

Photographs are random rescaled crops of those that scikit-image bundles, with sensor noise of
sigma 1. An edit is `cv2.inpaint` inside an object-like polygon of about 4 % of the area.
Shapes: H, W image (PX, PX); 3 colour (RGB, uint8).
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage

from pipeline.records import (
    Attempt,
    Edit,
    ForegroundMask,
    ImageResult,
    ObjectProposals,
    Sample,
    Verdict,
    bounding_box,
)

# Colour photographs inside the scikit-image package.
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg",
          "motorcycle_right.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg")  # fmt: skip
# Side of an image in pixels; samples in a version; edits per image of the version with ten each.
PX, SAMPLES, EDITS = 256, 320, 10

# Original and edited (H, W, 3) uint8, mask (H, W) bool.
Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def photo(number: int, edits: int, rng: np.random.Generator) -> ImageResult:
    """A crop of a photograph with edits, as the pipeline passes them to the store."""
    whole = photographs()[rng.integers(len(PHOTOS))]
    # A square of half to all of the shorter side.
    side = int(rng.uniform(0.5, 1.0) * min(whole.shape[:2]))
    y, x = (int(rng.integers(length - side + 1)) for length in whole.shape[:2])
    how = cv2.INTER_AREA if side > PX else cv2.INTER_LINEAR
    original = cv2.resize(whole[y : y + side, x : x + side], (PX, PX), interpolation=how)
    # Sensor noise of sigma 1: without it PNG would compress far better than on camera images.
    original = np.clip(original + rng.normal(0, 1, original.shape).round(), 0, 255).astype(np.uint8)
    attempts = []
    for turn in range(edits):
        mask = polygon(rng)
        edited = np.where(mask[..., None], inpainted(original, mask), original)
        edit = Edit("missing", (0,), {"grow": 3}, turn)
        verdict = Verdict(True, "", {"delta_e": 10.0})
        sample = Sample(edit, edited, mask, mask)
        attempts.append(Attempt(turn, 0, "missing", turn, sample, verdict, 0.0))
    proposals = ObjectProposals(mask[None], np.ones(1, np.float32), mask)
    return ImageResult(
        name=f"{number}.png",
        digest=f"{number:064x}",
        split="train",
        pixels_HW3=original,
        foreground=ForegroundMask(mask),
        proposals=proposals,
        attempts=tuple(attempts),
    )


@cache
def photographs() -> list[np.ndarray]:
    """The photographs inside the scikit-image package, (H, W, 3) uint8 RGB."""
    folder = Path(skimage.__path__[0]) / "data"
    return [cv2.cvtColor(cv2.imread(str(folder / name)), cv2.COLOR_BGR2RGB) for name in PHOTOS]


def polygon(rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool: a blob of nine corners, about 4 % of the area."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    # About 4 % of the area on average; a polygon cuts the corners of a circle, hence 1.1.
    radii = 1.1 * PX * np.sqrt(0.04 / np.pi) * rng.uniform(0.6, 1.4, 9)
    centre = rng.uniform(0.2 * PX, 0.8 * PX, 2)
    corners = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    mask = np.zeros((PX, PX), np.uint8)
    return cv2.fillPoly(mask, [corners.astype(np.int32)], 1).view(np.bool_)


def inpainted(original: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Telea's inpainting in a window around the mask, because the whole image takes much longer."""
    x0, y0, x1, y1 = bounding_box(mask)
    window = np.s_[max(y0 - 8, 0) : y1 + 8, max(x0 - 8, 0) : x1 + 8]
    filled = original.copy()
    filled[window] = cv2.inpaint(
        original[window], mask[window].astype(np.uint8), 3, cv2.INPAINT_TELEA
    )
    return filled


def triples(results: list[ImageResult]) -> Iterator[Triple]:
    """Original, edited image and mask of every sample: the content of every format."""
    for result in results:
        for attempt in result.attempts:
            sample = attempt.sample
            assert sample is not None
            yield result.pixels_HW3, sample.pixels_HW3, sample.change_HW

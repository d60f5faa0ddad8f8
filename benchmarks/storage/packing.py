"""Does memory stay flat while a version is packed? Thousands of small images, 15 attempts each."""

from pathlib import Path

import numpy as np

from pipeline.dataset.version_writer import VersionBuild
from pipeline.records import (
    Attempt,
    Edit,
    ForegroundMask,
    ImageResult,
    ObjectProposals,
    Sample,
    Verdict,
)

# Side of an image, images in total and between two measurements, attempts per image.
SIDE, IMAGES, EVERY, ATTEMPTS = 32, 3000, 100, 15
# Megabytes per thousand images that count as flat. Names and records grow with the version.
FLAT = 1.0


def megabytes_per_thousand(folder: Path) -> float:
    """Growth of resident memory over the second half of the images, by least squares."""
    rng = np.random.default_rng(0)
    build = VersionBuild(folder, "photo", "default", shard_images=100, keep_rejects=20)
    seen = []
    for number in range(IMAGES):
        build.add(_image(number, rng))
        if number % EVERY == 0:
            # Resident pages of 4096 bytes.
            seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)
    late = seen[len(seen) // 2 :]
    return float(np.polyfit(np.arange(len(late)), late, 1)[0]) * 1000 / EVERY


def _image(number: int, rng: np.random.Generator) -> ImageResult:
    """An image of noise with one accepted sample, after which nothing fits."""
    original_HW3 = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    mask_HW = np.zeros((SIDE, SIDE), bool)
    mask_HW[8:16, 8:16] = True
    edited_HW3 = np.where(mask_HW[..., None], 0, original_HW3).astype(np.uint8)
    sample = Sample(Edit("missing", (0,), {}, number), edited_HW3, mask_HW, mask_HW)
    attempts = [
        Attempt(0, 0, "missing", number, sample, Verdict(True, "", {"delta_e": 10.0 + number}), 0.1)
    ]
    for turn in range(1, ATTEMPTS):
        # Numbers with all their digits, as real scores have.
        scores = {"delta_e": turn + number / 7, "ssim": number / 3.3, "edge": 0.1 * turn}
        verdict = Verdict(False, "no_edit", scores)
        attempts.append(Attempt(turn, 0, "missing", number + turn, None, verdict, 0.01))
    return ImageResult(
        name=f"{number:06d}.png",
        digest=f"{number:064x}",
        split="train",
        pixels_HW3=original_HW3,
        foreground=ForegroundMask(mask_HW),
        proposals=ObjectProposals(mask_HW[None], np.ones(1, np.float32), mask_HW),
        attempts=tuple(attempts),
    )

"""Does memory stay flat? A category of thousands of small images through the whole pipeline.

The images are drawn on the fly: bright discs on a noisy background, 128 px. U²-Net and SAM would
take an hour for 5 000 of them, so foreground and proposals are derived from the drawing; planning,
edits, Telea, gate, cache, packing and publishing are the real ones. The resident memory is recorded
after every hundredth image, during generation and during packing; the measure is its slope over the
second half of each, in megabytes per thousand images.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import cv2
import numpy as np

from benchmarks.generation.rows import Claim
from pipeline.config.manifest import manifest_for_source
from pipeline.config.manifest import resolve as settled
from pipeline.config.schema import CategorySettings
from pipeline.generation.pack import pack
from pipeline.generation.plan import plan
from pipeline.generation.sampler import generate_batch
from pipeline.models import build as models
from pipeline.models.inpaint import base as inpaint
from pipeline.records import Analysis, ForegroundMask, ObjectProposals

# Side of an image, and number of images between two measurements.
SIZE, EVERY = 128, 100
# Grey level between background and discs.
THRESHOLD = 90
# Megabytes per thousand images that still count as flat: the records of rows are kept in memory.
FLAT = 1.0


def rows(images: int) -> Iterator[Claim]:
    """Two rows: generation, and packing with publishing."""
    with tempfile.TemporaryDirectory() as folder:
        run = plan(_settings(_drawn(Path(folder) / "discs" / "train" / "good", images)))
        # Stand-ins for the networks.
        with patch.object(models, "load", lambda *_: _models()):
            generating, packing = [resident()], [resident()]
            for start in range(0, len(run.images), EVERY):
                generate_batch(run, run.images[start : start + EVERY])
                generating.append(resident())
            packing = [resident()]

            def packed(done: int) -> None:
                if done % EVERY == 0:
                    packing.append(resident())

            # `packed` is called with the number of images that are done.
            pack(run, [], packed)
    # The first half contains caches and libraries that fill once.
    for what, seen in (("generating", generating), ("packing", packing)):
        slope = _slope(seen[len(seen) // 2 :])
        text = f"memory growth while {what}, second half of {images} images of {SIZE} px"
        yield Claim(text, f"{slope:.2f} MB per 1 000", "as much as counts as flat",
                    f"{FLAT:g} MB; peak {max(seen):.0f} MB", slope / FLAT, at_most=1.0)  # fmt: skip


def resident() -> float:
    """Current resident memory of this process, megabytes."""
    # The second number is resident pages, of 4096 bytes on Linux x86-64.
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def _slope(megabytes: list[float]) -> float:
    """Megabytes per thousand images, by least squares; measurements are EVERY images apart."""
    if len(megabytes) < 2:
        return 0.0
    return float(np.polyfit(np.arange(len(megabytes)), megabytes, 1)[0]) * 1000 / EVERY


def _drawn(folder: Path, images: int) -> Path:
    """Images of six discs each; returns the category's folder."""
    folder.mkdir(parents=True)
    for number in range(images):
        rng = np.random.default_rng(number)
        image_HW3 = rng.normal(45, 3, (SIZE, SIZE, 3)).astype(np.float32)
        # Six of nine cells of a 3 x 3 grid, so that discs never touch.
        for cell in rng.permutation(9)[:6]:
            x, y = 21 + 42 * (cell % 3) + rng.integers(-4, 5), 21 + 42 * (cell // 3)
            colour = rng.uniform(150, 230, 3).tolist()
            cv2.circle(image_HW3, (int(x), int(y)), int(rng.integers(9, 14)), colour, -1)
        cv2.imwrite(str(folder / f"{number:05d}.png"), np.clip(image_HW3, 0, 255).astype(np.uint8))
    return folder.parent.parent


def _settings(root: Path) -> CategorySettings:
    manifest = manifest_for_source("mvtec_ad", root, store=str(root.parent / "store"))
    found = settled(manifest, root.name)
    return found.model_copy(update={
        "image_size": (SIZE, SIZE),
        # One edit per image and no optional documents: many images in little time.
        "edits": found.edits.model_copy(update={"per_image": 1, "controls_per_image": 0}),
        "gate": found.gate.model_copy(update={"patches": False}),
        "output": found.output.model_copy(update={"audit": False, "gallery": False}),
    })  # fmt: skip


def _models() -> models.Models:
    """Stand-ins that derive parts from the drawing, and Telea."""

    def find(image_HW3: np.ndarray) -> ForegroundMask:
        return ForegroundMask(image_HW3.max(2) > THRESHOLD)

    def propose(image_HW3: np.ndarray, foreground: ForegroundMask) -> ObjectProposals:
        count, labels_HW = cv2.connectedComponents(foreground.mask_HW.astype(np.uint8))
        masks_NHW = np.stack([labels_HW == part for part in range(1, count)])
        scores_N = np.ones(len(masks_NHW), np.float32)
        return ObjectProposals(masks_NHW, scores_N, foreground.mask_HW)

    def analyse(image_HW3: np.ndarray) -> Analysis:
        foreground = find(image_HW3)
        proposals = propose(image_HW3, foreground)
        return Analysis(foreground, proposals, proposals)

    telea = inpaint.OpenCvInpainter("telea")
    stand_in = SimpleNamespace(analyse=analyse, inpaint=telea, fill=None)
    return stand_in  # type: ignore[return-value]

"""Does memory stay flat? A category of thousands of small pictures through the whole pipeline.

The pictures are drawn on the fly: bright discs on grainy ground, 128 px. U²-Net and SAM would take
an hour for 5 000 of them, so foreground and proposals are read off the drawing; planning, edits,
Telea, gate, cache, packing and publishing are the real ones. The resident memory is noted after
every hundredth image, while forging and while packing; what counts is its slope over the second
half of each, in megabytes per thousand images.
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
from pipeline.records import ForegroundMask, ObjectProposals

SIZE, EVERY = 128, 100
GROUND = 90
"""Grey level between the ground and the discs."""
FLAT = 2.0
"""Megabytes per thousand images that still count as flat: records of rows have to be kept."""


def rows(images: int) -> Iterator[Claim]:
    """Two rows: forging, and packing and publishing."""
    with tempfile.TemporaryDirectory() as folder:
        run = plan(_settings(_drawn(Path(folder) / "discs" / "train" / "good", images)))
        with patch.object(models, "load", lambda *_: _models()):
            forging, packing = [resident()], [resident()]
            for start in range(0, len(run.images), EVERY):
                generate_batch(run, run.images[start : start + EVERY])
                forging.append(resident())
            packing = [resident()]

            def packed(done: int) -> None:
                if done % EVERY == 0:
                    packing.append(resident())

            pack(run, [], packed)
    for what, seen in (("forging", forging), ("packing", packing)):
        slope = _slope(seen[len(seen) // 2 :])
        text = f"memory growth while {what}, second half of {images} images of {SIZE} px"
        yield Claim(text, f"{slope:.2f} MB per 1 000", "as much as counts as flat",
                    f"{FLAT:g} MB; peak {max(seen):.0f} MB", slope / FLAT, at_most=1.0)  # fmt: skip


def resident() -> float:
    """Megabytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def _slope(megabytes: list[float]) -> float:
    """Megabytes per thousand images, by least squares over marks that are EVERY images apart."""
    if len(megabytes) < 2:
        return 0.0
    return float(np.polyfit(np.arange(len(megabytes)), megabytes, 1)[0]) * 1000 / EVERY


def _drawn(folder: Path, images: int) -> Path:
    """Pictures of six discs each; returns the category's folder."""
    folder.mkdir(parents=True)
    for number in range(images):
        rng = np.random.default_rng(number)
        picture_HW3 = rng.normal(45, 3, (SIZE, SIZE, 3)).astype(np.float32)
        for cell in rng.permutation(9)[:6]:
            x, y = 21 + 42 * (cell % 3) + rng.integers(-4, 5), 21 + 42 * (cell // 3)
            colour = rng.uniform(150, 230, 3).tolist()
            cv2.circle(picture_HW3, (int(x), int(y)), int(rng.integers(9, 14)), colour, -1)
        cv2.imwrite(
            str(folder / f"{number:05d}.png"), np.clip(picture_HW3, 0, 255).astype(np.uint8)
        )
    return folder.parent.parent


def _settings(root: Path) -> CategorySettings:
    manifest = manifest_for_source("mvtec_ad", root, store=str(root.parent / "store"))
    found = settled(manifest, root.name)
    return found.model_copy(update={
        "image_size": (SIZE, SIZE),
        "edits": found.edits.model_copy(update={"per_image": 1, "controls_per_image": 0}),
        "gate": found.gate.model_copy(update={"patches": False}),
        "output": found.output.model_copy(update={"audit": False, "gallery": False}),
    })  # fmt: skip


def _models() -> models.Models:
    """Stand-ins that read parts off the drawing, and Telea."""

    def find(image_HW3: np.ndarray) -> ForegroundMask:
        return ForegroundMask(image_HW3.max(2) > GROUND)

    def propose(image_HW3: np.ndarray, foreground: ForegroundMask) -> ObjectProposals:
        count, labels_HW = cv2.connectedComponents(foreground.mask_HW.astype(np.uint8))
        masks_NHW = np.stack([labels_HW == part for part in range(1, count)])
        scores_N = np.ones(len(masks_NHW), np.float32)
        return ObjectProposals(masks_NHW, scores_N, foreground.mask_HW)

    telea = inpaint.OpenCvInpainter("telea")
    stand_in = SimpleNamespace(foreground=find, proposals=propose, inpaint=telea, fill=None)
    return stand_in  # type: ignore[return-value]

"""The images of docs/edits.md: every kind of edit on rendered products, before and after.

    python -m benchmarks.edit_pictures docs/pictures

One sheet per product: first column the good image with the change mask outlined, then three
accepted samples. They come from the full pipeline (bundled models, gate); seeds count up from 0 and
the first three that the gate accepts are shown, without selection by eye. A kind that is not
applicable to a product has no row.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.pictures import GAP, INK, PAPER
from pipeline.edits.apply import apply
from pipeline.edits.context import ImageContext
from pipeline.edits.donors import Donors
from pipeline.edits.plan import plan
from pipeline.gate.judge import judge
from pipeline.kinds import KINDS
from pipeline.models import build as models
from pipeline.models.settings import ModelSettings, ProposalSettings
from pipeline.records import ObjectProposals, Sample
from scenes.render import render

# Product and the seed of its scene; the next two seeds are its donors.
PRODUCTS = {"tray": 0, "pins": 0, "bag": 1, "bottle": 0}
# Side of a scene, and of a tile of the sheet, in pixels.
SIZE = 256
TILE = 184
# Accepted samples per row, and seeds that are tried for them.
COLUMNS = 3
SEEDS = 24
OUTLINE = (230, 30, 60)


def sheet(product: str, seed: int, loaded: models.Models) -> np.ndarray:
    """All kinds on one scene of a product, uint8 RGB."""
    scenes = {str(number): _analysed(product, number, loaded) for number in range(seed, seed + 3)}
    image_HW3, proposals = scenes.pop(str(seed))
    # Two other scenes of the product are the donor images.
    donors = Donors.of({name: lambda scene=scene: scene for name, scene in scenes.items()})
    rows = []
    for kind in KINDS:
        # Rows in the order of the kinds.
        samples = _accepted(kind, image_HW3, proposals, donors, loaded)
        if samples:
            rows.append(_row(kind, image_HW3, samples))
    return np.vstack(rows)


def _analysed(product: str, seed: int, loaded: models.Models) -> tuple[np.ndarray, ObjectProposals]:
    image_HW3 = render(product, seed=seed, size=SIZE).image_HW3
    return image_HW3, loaded.proposals(image_HW3, loaded.foreground(image_HW3))


def _accepted(
    kind: str,
    image_HW3: np.ndarray,
    proposals: ObjectProposals,
    donors: Donors,
    loaded: models.Models,
) -> list[Sample]:
    context = ImageContext(image_HW3, proposals, loaded.inpaint, donors=donors)
    samples: list[Sample] = []
    for seed in range(SEEDS):
        # None: the kind is not applicable with this seed.
        edit = plan(context, np.random.default_rng(seed), kind=kind)
        if edit is None:
            continue
        sample = apply(edit, context)
        # The gate also rejects near-copies of samples that are already shown.
        if judge(sample, image_HW3, accepted=samples).accepted:
            samples.append(sample)
        if len(samples) == COLUMNS:
            break
    return samples


def _row(kind: str, image_HW3: np.ndarray, samples: list[Sample]) -> np.ndarray:
    marked_HW3 = image_HW3.copy()
    for sample in samples:
        # The change masks of all shown samples, on the good image.
        outline, _ = cv2.findContours(
            sample.change_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(marked_HW3, outline, -1, OUTLINE, 1)
    tiles = [marked_HW3, *(sample.pixels_HW3 for sample in samples)]
    blank = np.full_like(image_HW3, PAPER)
    tiles += [blank] * (COLUMNS + 1 - len(tiles))
    small = [cv2.resize(tile, (TILE, TILE), interpolation=cv2.INTER_AREA) for tile in tiles]
    gap = np.full((TILE, GAP, 3), PAPER, np.uint8)
    row = np.hstack([piece for tile in small for piece in (tile, gap)])
    # The kind's name above its row.
    bar = np.full((20, row.shape[1], 3), PAPER, np.uint8)
    cv2.putText(bar, kind, (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    return np.vstack([bar, row])


def _with_palette(image: Image.Image) -> Image.Image:
    """In 256 colours: the most frequent ones for surfaces, the most distant ones for details."""
    # Median cut alone would drop the few pixels of a red outline.
    halves = [
        image.quantize(colours, method).getpalette()[: 3 * colours]
        for colours, method in ((176, Image.Quantize.MEDIANCUT), (80, Image.Quantize.MAXCOVERAGE))
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette(halves[0] + halves[1])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    loaded = models.load(ModelSettings(), ProposalSettings(), models.resolve(ModelSettings()))
    for product, seed in PRODUCTS.items():
        path = Path(sys.argv[1]) / f"edits-{product}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(sheet(product, seed, loaded))
        _with_palette(image).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    main()

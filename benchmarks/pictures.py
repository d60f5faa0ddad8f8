"""The images of the README and the docs, made from published versions of rendered scenes.

    python -m benchmarks.pictures out/store docs/pictures

One strip per sample: original, foreground, proposals, edited, change mask. Samples are selected by
kind and position, not by eye; `bad.png` shows rejected samples with the reason, `weak.png` removals
that were accepted although they are visible.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import Version, latest

# Height of a tile, and the white gap around it, in pixels.
TILE = 224
GAP = 6
INK = (40, 40, 40)
PAPER = 255
# Colours of the proposals, in turn.
COLOURS = (
    (230, 70, 60),
    (60, 140, 230),
    (60, 180, 90),
    (235, 170, 40),
    (160, 90, 200),
    (40, 190, 190),
)
# Share of the image from which a mask is the product, whose tint would cover its parts.
PRODUCT = 0.15
# Category and kind of the strips at the top of the README.
HERO = (("tray", "missing"), ("bottle", "wrong_type"), ("pins", "extra"), ("tray", "swapped"))


def strip(shard: ShardReader, row: int) -> np.ndarray:
    """original | foreground | proposals | edited | change mask of one sample, uint8 RGB."""
    # Each sample refers to its original image by row.
    image = int(shard.array("samples/source")[row])
    original_HW3, edited_HW3 = shard.original(image), shard.edited(row)
    mask_HW = shard.mask(row)
    # Background becomes pale, so that the foreground stands out.
    foreground_HW3 = np.where(
        shard.foreground(image)[..., None], original_HW3, original_HW3 // 4 + 150
    )
    tiles = [
        original_HW3,
        foreground_HW3.astype(np.uint8),
        outlined(original_HW3, shard.proposals(image)[0]),
        edited_HW3,
        mask_HW[..., None].repeat(3, 2).astype(np.uint8) * 255,
    ]
    return np.hstack([framed(tile) for tile in tiles])


def outlined(image_HW3: np.ndarray, masks_NHW: np.ndarray) -> np.ndarray:
    """Proposals as tinted areas with an outline; of the product itself the outline alone."""
    drawn_HW3 = image_HW3.copy()
    for number, mask_HW in enumerate(masks_NHW):
        colour = COLOURS[number % len(COLOURS)]
        if mask_HW.mean() < PRODUCT:
            tinted = 0.55 * drawn_HW3[mask_HW] + 0.45 * np.array(colour)
            drawn_HW3[mask_HW] = tinted.astype(np.uint8)
        outline, _ = cv2.findContours(
            mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(drawn_HW3, outline, -1, colour, 1)
    return drawn_HW3


def framed(tile_HW3: np.ndarray) -> np.ndarray:
    """A tile at one size with a white gap around it."""
    height, width = tile_HW3.shape[:2]
    size = (round(width * TILE / height), TILE)
    # Equal heights, so that tiles can be joined side by side.
    small = cv2.resize(tile_HW3, size, interpolation=cv2.INTER_AREA)
    return cv2.copyMakeBorder(small, GAP, GAP, GAP, GAP, cv2.BORDER_CONSTANT, value=(PAPER,) * 3)


def captioned(strips_HW3: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Strips below one another, each with a caption above it."""
    rows = []
    for strip_HW3, text in zip(strips_HW3, captions, strict=True):
        bar = np.full((24, strip_HW3.shape[1], 3), PAPER, np.uint8)
        cv2.putText(bar, text, (GAP, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
        rows += [bar, strip_HW3]
    return np.vstack(rows)


def rows_of(shard: ShardReader, kind: str) -> list[int]:
    """Rows of a shard that hold samples of a kind."""
    kinds = shard.array("samples/kind")
    return np.flatnonzero(kinds == shard.kinds.index(kind)).tolist()


def hero(store: Path, number: int = 0) -> np.ndarray:
    """One sample of each kind over the products."""
    strips, captions = [], []
    for category, kind in HERO:
        shard = published(store, category).shards[0]
        # The first shard is enough; a kind without samples in it has no strip.
        rows = rows_of(shard, kind)
        if rows:
            strips.append(strip(shard, rows[number % len(rows)]))
            captions.append(f"{category}: {kind}")
    # The first caption also names the columns.
    captions[0] += "   (original | foreground | proposals | edited | change mask)"
    return captioned(strips, captions)


def rejected(
    store: Path, categories: Sequence[str] = ("tray", "bottle", "pins", "bag")
) -> np.ndarray:
    """One rejected sample per product with its rejection reason."""
    strips, captions = [], []
    for category in categories:
        shard = published(store, category).rejects
        if shard is not None and len(shard.array("samples/kind")):
            # The first one, without selection.
            record = shard.record(0)
            strips.append(strip(shard, 0))
            captions.append(f"{category}: {record['edit']['kind']}, rejected: {record['reason']}")
    return captioned(strips, captions)


def weak(store: Path) -> np.ndarray:
    """Accepted removals with large inpainted regions, which a person would still notice."""
    strips, captions = [], []
    for category in ("bottle", "tray", "bag"):
        shard = published(store, category).shards[0]
        for row in rows_of(shard, "missing")[:1]:
            strips.append(strip(shard, row))
            captions.append(f"{category}: missing, accepted")
    return captioned(strips, captions)


def published(store: Path, category: str) -> Version:
    """The newest version of a category; exits with one line when there is none."""
    version = latest(store, category)
    if version is None:
        sys.exit(f"{store} holds no version of {category}; run `anomalysmith generate` first")
    return version


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    store, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for name, image_HW3 in {
        "hero": hero(store),
        "bad": rejected(store),
        "weak": weak(store),
    }.items():
        path = folder / f"{name}.png"
        # OpenCV writes BGR.
        cv2.imwrite(str(path), image_HW3[..., ::-1])
        print(path)


if __name__ == "__main__":
    main()

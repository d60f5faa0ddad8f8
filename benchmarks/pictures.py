"""The pictures of the README and the docs, made from published versions of rendered scenes.

    python -m benchmarks.pictures out/store docs/pictures

One strip per sample: original, foreground, proposals, edited, change mask. Chosen by kind and
position, never by looks; `bad.png` shows what the gate refused, with its reason, `weak.png`
removals that passed although one sees them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import Version, latest

TILE = 224
GAP = 6
INK = (40, 40, 40)
PAPER = 255
COLOURS = (
    (230, 70, 60),
    (60, 140, 230),
    (60, 180, 90),
    (235, 170, 40),
    (160, 90, 200),
    (40, 190, 190),
)
HERO = (("tray", "missing"), ("pins", "misplaced"), ("bag", "extra"), ("tray", "swapped"))


def strip(shard: ShardReader, row: int) -> np.ndarray:
    """original | foreground | proposals | edited | change mask of one sample, uint8 RGB."""
    image = int(shard.array("samples/source")[row])
    original_HW3, edited_HW3 = shard.original(image), shard.edited(row)
    mask_HW = shard.mask(row)
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
    """Proposals as tinted areas with an outline."""
    picture = image_HW3.copy()
    for number, mask_HW in enumerate(masks_NHW):
        colour = COLOURS[number % len(COLOURS)]
        picture[mask_HW] = (0.55 * picture[mask_HW] + 0.45 * np.array(colour)).astype(np.uint8)
        outline, _ = cv2.findContours(
            mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(picture, outline, -1, colour, 1)
    return picture


def framed(tile_HW3: np.ndarray) -> np.ndarray:
    """A tile at one size with a white gap around it."""
    height, width = tile_HW3.shape[:2]
    size = (round(width * TILE / height), TILE)
    small = cv2.resize(tile_HW3, size, interpolation=cv2.INTER_AREA)
    return cv2.copyMakeBorder(small, GAP, GAP, GAP, GAP, cv2.BORDER_CONSTANT, value=(PAPER,) * 3)


def captioned(strips_HW3: Sequence[np.ndarray], words: Sequence[str]) -> np.ndarray:
    """Strips below one another, each under its words."""
    rows = []
    for picture, text in zip(strips_HW3, words, strict=True):
        bar = np.full((24, picture.shape[1], 3), PAPER, np.uint8)
        cv2.putText(bar, text, (GAP, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
        rows += [bar, picture]
    return np.vstack(rows)


def rows_of(shard: ShardReader, kind: str) -> list[int]:
    """Rows of a shard that hold samples of a kind."""
    kinds = shard.array("samples/kind")
    return np.flatnonzero(kinds == shard.kinds.index(kind)).tolist()


def hero(store: Path, number: int = 0) -> np.ndarray:
    """One sample of each kind over the products."""
    strips, words = [], []
    for category, kind in HERO:
        shard = published(store, category).shards[0]
        rows = rows_of(shard, kind)
        if rows:
            strips.append(strip(shard, rows[number % len(rows)]))
            words.append(f"{category}: {kind}")
    words[0] += "   (original | foreground | proposals | edited | change mask)"
    return captioned(strips, words)


def refused(
    store: Path, categories: Sequence[str] = ("tray", "bottle", "pins", "bag")
) -> np.ndarray:
    """One refused sample per product with the gate's reason."""
    strips, words = [], []
    for category in categories:
        shard = published(store, category).rejects
        if shard is not None and len(shard.array("samples/kind")):
            record = shard.record(0)
            strips.append(strip(shard, 0))
            words.append(f"{category}: {record['edit']['kind']}, refused: {record['reason']}")
    return captioned(strips, words)


def weak(store: Path) -> np.ndarray:
    """Accepted removals where ground had to be invented: what a person would still spot."""
    strips, words = [], []
    for category in ("bottle", "tray", "bag"):
        shard = published(store, category).shards[0]
        for row in rows_of(shard, "missing")[:1]:
            strips.append(strip(shard, row))
            words.append(f"{category}: missing, accepted")
    return captioned(strips, words)


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
    for name, picture in {"hero": hero(store), "bad": refused(store), "weak": weak(store)}.items():
        path = folder / f"{name}.png"
        cv2.imwrite(str(path), picture[..., ::-1])
        print(path)


if __name__ == "__main__":
    main()

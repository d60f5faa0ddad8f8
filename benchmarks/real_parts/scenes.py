"""Scenes composed from photographs of real parts, with exact masks, kinds and rules.

    scene = compose("free", seed=7, photographs=shared / "data" / "mvtec_ad")

Three arrangements: `free` (random places and turns, never touching), `touching` (pushed together
until they touch, never overlapping) and `tray` (each kind in its own compartments). Light changes
from scene to scene: gain, gamma, colour temperature, a shadow across the scene. Equal arguments
give equal scenes.

Shapes: H, W image; N parts; K compartments; 3 colour (RGB); 4 box as x0 y0 x1 y1 (exclusive end).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from benchmarks.real_parts.backgrounds import BACKGROUNDS, background_HW3
from benchmarks.real_parts.cutouts import Cutout, cutouts
from benchmarks.real_parts.light import contact_shadow, lit
from benchmarks.real_parts.places import Placed, arrange
from benchmarks.real_parts.tray import TRAY_CELLS, TRAY_RULE, cells_K4, draw_tray

ARRANGEMENTS = ("free", "touching", "tray")
# Parts of each kind in a scene without compartments.
COUNTS = {"bottle": 3, "hazelnut": 2, "transistor": 2}
# Longest side of a kind as a share of the image, and how much it varies.
LENGTHS = {"bottle": 0.20, "hazelnut": 0.19, "transistor": 0.23}
LENGTH_SPREAD = 0.03
# Scenes are composed larger by this factor and then reduced, for clean outlines.
OVERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """What makes a scene good: parts per kind, and with compartments the kinds in each of them."""

    counts: Mapping[str, int]
    cells: Mapping[int, Mapping[str, int]] = field(default_factory=dict)

    def broken_by(self, parts: Iterable[tuple[str, int]]) -> tuple[str, ...]:
        """What is wrong with `(kind, cell)` parts, in words; empty for a good scene.

        A part outside all compartments has cell -1, as all parts of a scene without a tray.
        """
        parts = list(parts)
        found = Counter(kind for kind, _ in parts)
        wrong = [
            f"{found[kind]} {kind} instead of {self.counts.get(kind, 0)}"
            for kind in sorted(found | Counter(self.counts))
            if found[kind] != self.counts.get(kind, 0)
        ]
        if self.cells:
            places = Counter(cell for _, cell in parts)
            wrong += [
                f"compartment {cell}: wrong parts"
                for cell in sorted(places | Counter(self.cells.keys()))
                if Counter(kind for kind, at in parts if at == cell)
                != Counter(self.cells.get(cell, {}))
            ]
        return tuple(wrong)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One good image, (H, W, 3) uint8, and the truth about it.

    `masks_NHW` is bool, one for each part; no two share a pixel. `kinds` and `cells` have N
    entries; a part outside of a compartment has cell -1. `boxes_K4` are the compartments, K = 0
    without a tray.
    """

    arrangement: str
    seed: int
    background: str
    image_HW3: np.ndarray
    masks_NHW: np.ndarray
    kinds: tuple[str, ...]
    cells: tuple[int, ...]
    boxes_K4: np.ndarray
    rule: Rule

    def cell_at(self, x: float, y: float) -> int:
        """The compartment that holds a point, -1 when none does."""
        inside_K = (
            (self.boxes_K4[:, 0] <= x) & (x < self.boxes_K4[:, 2])
            & (self.boxes_K4[:, 1] <= y) & (y < self.boxes_K4[:, 3])
        )  # fmt: skip
        return int(np.flatnonzero(inside_K)[0]) if inside_K.any() else -1


def compose(
    arrangement: str, seed: int, photographs: Path, size: int = 256, background: str | None = None
) -> Scene:
    """One of ARRANGEMENTS of `size` x `size` pixels; the background is drawn unless it is given.

    `photographs` is the folder of the MVTec AD categories. ValueError for an unknown arrangement
    or background.
    """
    if arrangement not in ARRANGEMENTS:
        raise ValueError(f"arrangement must be one of {ARRANGEMENTS}, got {arrangement!r}")
    name = background or BACKGROUNDS[seed % len(BACKGROUNDS)]
    if name not in BACKGROUNDS:
        raise ValueError(f"background must be one of {BACKGROUNDS}, got {name!r}")
    # Streams of their own, so that the same seed gives the same layout on any background.
    layout, surface, light = (
        np.random.default_rng([seed, ARRANGEMENTS.index(arrangement), stream])
        for stream in range(3)
    )
    large = OVERSAMPLING * size
    image_HW3 = background_HW3(name, large, surface, photographs)
    if arrangement == "tray":
        boxes_K4 = cells_K4(large)
        image_HW3 = draw_tray(image_HW3, boxes_K4, surface)
        wanted = [(kind, cell) for cell, kinds in TRAY_CELLS.items() for kind in kinds]
    else:
        boxes_K4 = np.zeros((0, 4), np.int64)
        wanted = [(kind, -1) for kind, count in COUNTS.items() for _ in range(count)]
    specimens = cutouts(photographs)
    parts = [
        (
            _scaled(specimens[kind], large * LENGTHS[kind], layout),
            boxes_K4[cell] if cell >= 0 else None,
        )
        for kind, cell in wanted
    ]
    placed = arrange(parts, large, touching=arrangement == "touching", rng=layout)
    image_HW3, layers = painted(image_HW3, placed, light)
    return Scene(
        arrangement, seed, name,
        lit(reduced(image_HW3, size), light),
        masks_of(layers, size),
        tuple(kind for kind, _ in wanted), tuple(cell for _, cell in wanted),
        boxes_K4 // OVERSAMPLING,
        Rule(TRAY_RULE, {cell: Counter(kinds) for cell, kinds in TRAY_CELLS.items()})
        if arrangement == "tray" else Rule(COUNTS),
    )  # fmt: skip


def _scaled(specimens: tuple[Cutout, ...], length: float, rng: np.random.Generator) -> Cutout:
    """A drawn specimen at its kind's length in pixels."""
    one = specimens[int(rng.integers(len(specimens)))]
    return resized(one, length * rng.uniform(1 - LENGTH_SPREAD, 1 + LENGTH_SPREAD))


def resized(one: Cutout, length: float) -> Cutout:
    """The cut-out with a longest side of about `length` pixels."""
    factor = length / one.length
    height, width = (max(1, round(factor * side)) for side in one.alpha_hw.shape)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    colour_hw3 = cv2.resize(one.colour_hw3, (width, height), interpolation=how)
    alpha_hw = cv2.resize(one.alpha_hw, (width, height), interpolation=how)
    return Cutout(colour_hw3, np.clip(alpha_hw, 0, 1))


def painted(
    image_HW3: np.ndarray, placed: list[Placed], rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The image with all shadows and then all parts, and the alpha of each part, (H, W)."""
    size = image_HW3.shape[0]
    layers = [part.painted(size) for part in placed]
    together_HW = np.zeros((size, size), np.float32)
    for _, alpha_HW in layers:
        together_HW = np.maximum(together_HW, alpha_HW)
    image_HW3 = image_HW3 * contact_shadow(together_HW, rng)[..., None]
    for colour_HW3, alpha_HW in layers:
        image_HW3 = image_HW3 + alpha_HW[..., None] * (colour_HW3 - image_HW3)
    return image_HW3, [alpha_HW for _, alpha_HW in layers]


def masks_of(layers: list[np.ndarray], size: int) -> np.ndarray:
    """The parts' masks, (N, size, size) bool, from their oversampled alphas; disjoint."""
    alphas_NHW = np.stack([reduced(alpha_HW, size) for alpha_HW in layers])
    # A pixel belongs to the part that covers most of it, if that is at least half.
    owner_HW = np.where(alphas_NHW.max(0) >= 0.5, alphas_NHW.argmax(0), -1)
    return np.stack([owner_HW == index for index in range(len(layers))])


def reduced(image: np.ndarray, size: int) -> np.ndarray:
    """An oversampled image or alpha at `size` x `size` pixels."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)

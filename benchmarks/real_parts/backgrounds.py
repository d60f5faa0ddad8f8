"""What parts lie on: paper, cloth and brushed metal made by a program, and felt as photographed.

Shapes: H, W image; 3 colour (RGB, float32 0-255).
"""

from pathlib import Path

import cv2
import numpy as np

from pipeline.imaging.decode import load_image

BACKGROUNDS = ("paper", "cloth", "metal", "felt")
# Side of a plain corner of a hazelnut's photograph, as a share of it.
CORNER = 0.19
# Mean grey level to which the felt is exposed; on the photographs it is almost black.
FELT_LEVEL = 105.0


def background_HW3(name: str, size: int, rng: np.random.Generator, photographs: Path) -> np.ndarray:
    """One of BACKGROUNDS, `size` pixels square, other for each state of `rng`."""
    if name == "felt":
        return _felt(size, rng, photographs)
    make = {"paper": _paper, "cloth": _cloth, "metal": _metal}[name]
    return np.clip(make(size, rng), 0, 255).astype(np.float32)


def noise_HW(size: int, grain: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1; `grain` is its blur in pixels."""
    # Drawn small and enlarged where the grain is coarse, which costs less than a wide blur.
    step = max(1, int(grain / 2))
    small_hw: np.ndarray = rng.standard_normal((size // step + 2,) * 2).astype(np.float32)
    small_hw = cv2.GaussianBlur(small_hw, (0, 0), max(grain / step, 0.3))
    found_HW = cv2.resize(small_hw, (size, size), interpolation=cv2.INTER_CUBIC)
    return (found_HW - found_HW.mean()) / max(float(found_HW.std()), 1e-6)


def _paper(size: int, rng: np.random.Generator) -> np.ndarray:
    """Light, with faint clouds and fibres."""
    fibres_HW = cv2.blur(noise_HW(size, 0.6, rng), (7, 1)) + cv2.blur(
        noise_HW(size, 0.6, rng), (1, 7)
    )
    grey_HW = 4 * noise_HW(size, size / 8, rng) + 5 * fibres_HW + 2 * noise_HW(size, 0.7, rng)
    tint_3 = np.array([214, 208, 194]) + rng.uniform(-8, 8, 3)
    return tint_3 + grey_HW[..., None]


def _cloth(size: int, rng: np.random.Generator) -> np.ndarray:
    """A linen weave: two threads that cross, uneven in thickness and slightly slanted."""
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    pitch, slant = size / rng.uniform(60, 80), rng.uniform(-0.08, 0.08)
    drift_HW = 0.5 * pitch * noise_HW(size, size / 12, rng)
    warp_HW = 2 * np.pi * (xs + slant * ys + drift_HW) / pitch
    weft_HW = 2 * np.pi * (ys - slant * xs + drift_HW) / pitch
    weave_HW = np.sin(warp_HW) * (np.sin(weft_HW) > 0) + np.sin(weft_HW) * (np.sin(warp_HW) > 0)
    grey_HW = 11 * weave_HW + 4 * noise_HW(size, 1.0, rng) + 5 * noise_HW(size, size / 6, rng)
    tint_3 = np.array([136, 148, 158]) + rng.uniform(-10, 10, 3)
    return tint_3 + grey_HW[..., None]


def _metal(size: int, rng: np.random.Generator) -> np.ndarray:
    """Brushed steel: long streaks of one direction and a soft reflection."""
    streaks_HW: np.ndarray = cv2.blur(
        rng.standard_normal((size, size)).astype(np.float32), (size // 4 | 1, 1)
    )
    streaks_HW /= max(float(streaks_HW.std()), 1e-6)
    ys = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    shine_HW = 16 * np.cos(2 * np.pi * (ys * rng.uniform(0.6, 1.4) + rng.uniform()))
    grey_HW = 6 * streaks_HW + shine_HW + 2 * noise_HW(size, 0.6, rng)
    tint_3 = np.array([168, 171, 176]) + rng.uniform(-5, 5, 3)
    return tint_3 + grey_HW[..., None]


def _felt(size: int, rng: np.random.Generator, photographs: Path) -> np.ndarray:
    """The mat below the hazelnuts: a plain corner of one photograph, mirrored into a surface."""
    paths = sorted((photographs / "hazelnut_reduced" / "train" / "good").glob("*.png"))
    image_HW3 = load_image(paths[int(rng.integers(len(paths)))]).astype(np.float32)
    side = int(CORNER * image_HW3.shape[1])
    corner_hw3 = image_HW3[:side, :side]
    # Without its vignette, which the mirroring would turn into a pattern.
    flat_hw3 = corner_hw3 - cv2.GaussianBlur(corner_hw3, (0, 0), 6)
    tile_hw3 = np.concatenate([flat_hw3, flat_hw3[:, ::-1]], 1)
    tile_hw3 = np.concatenate([tile_hw3, tile_hw3[::-1]], 0)
    times = -(-size // tile_hw3.shape[0])
    grain_HW3 = np.tile(tile_hw3, (times, times, 1))[:size, :size]
    # A longer exposure enlarges the grain as it does the level.
    gain = FELT_LEVEL / max(float(corner_hw3.mean()), 1.0)
    tint_3 = corner_hw3.mean((0, 1)) * gain
    found_HW3 = tint_3 + gain * grain_HW3 + 3 * noise_HW(size, size / 7, rng)[..., None]
    return np.clip(found_HW3, 0, 255).astype(np.float32)

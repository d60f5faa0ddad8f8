"""A folder of drawn photographs, and options for a quick run over it."""

from pathlib import Path

import numpy as np
from PIL import Image

FAST = ("--inpaint", "telea", "--image-size", "128", "--per-image", "2")


def draw_parts(folder: Path, count: int = 3) -> Path:
    """Photographs of a kind: dark round parts on a bright background with sensor noise."""
    folder.mkdir(parents=True, exist_ok=True)
    yy, xx = np.mgrid[:128, :128]
    for number in range(count):
        rng = np.random.default_rng(number)
        image_HW3 = 205 + rng.normal(0, 3, (128, 128, 3))
        for cx, cy in ((38, 40), (90, 42), (64, 90)):
            dx, dy, radius = *rng.integers(-4, 5, 2), rng.integers(11, 16)
            inside_HW = np.hypot(xx - cx - dx, yy - cy - dy) < radius
            image_HW3[inside_HW] = rng.integers(20, 110, 3) + rng.normal(0, 3, (inside_HW.sum(), 3))
        pixels_HW3 = image_HW3.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels_HW3).save(folder / f"{number:03d}.png")
    return folder

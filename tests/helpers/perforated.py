"""Drawn perforated boards, with and without a product mounted on them."""

from dataclasses import dataclass

import cv2
import numpy as np

COPPER, HOLE, STRIPE = (150, 95, 70), (25, 20, 20), (40, 30, 25)


@dataclass(frozen=True, slots=True, eq=False)
class Mounted:
    """A board (H, W, 3) uint8 without and with a product, which is where `product_HW` says."""

    bare_HW3: np.ndarray
    image_HW3: np.ndarray
    product_HW: np.ndarray


def board(
    period: tuple[float, float] = (28, 28), size: int = 160, start: tuple[float, float] = (9, 7),
    seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Holes at each point of a lattice and a stripe between their columns, uneven light, noise."""
    canvas = np.full((size, size, 3), COPPER, np.uint8)
    for x in np.arange(start[0] - period[0], size + period[0], period[0]):
        left = round((x + period[0] / 2) * 8)
        cv2.rectangle(canvas, (left - 14, -8), (left + 14, 8 * size), STRIPE, -1, shift=3)
        for y in np.arange(start[1] - period[1], size + period[1], period[1]):
            centre = round(x * 8), round(y * 8)
            cv2.circle(canvas, centre, 40, HOLE, -1, cv2.LINE_AA, shift=3)
    rng = np.random.default_rng(seed)
    light_HW1 = np.linspace(0.9, 1.1, size)[:, None, None]
    noisy = canvas * light_HW1 + rng.normal(0, 3, canvas.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def mounted(body: tuple[int, int, int] = (20, 18, 22), seed: int = 0) -> Mounted:
    """A body as dark as the holes, with three bright legs."""
    bare_HW3 = board(seed=seed)
    mask = np.zeros(bare_HW3.shape[:2], np.uint8)
    # Its sides cut through columns of holes.
    cv2.rectangle(mask, (54, 34), (106, 90), 1, -1)
    legs = np.zeros_like(mask)
    for x in (62, 80, 98):
        cv2.rectangle(legs, (x - 3, 91), (x + 3, 126), 1, -1)
    image_HW3 = bare_HW3.copy()
    rng = np.random.default_rng(seed + 1)
    for part, colour in ((mask, body), (legs, (210, 210, 215))):
        pixels = np.array(colour) + rng.normal(0, 3, (int(part.sum()), 3))
        image_HW3[part > 0] = np.clip(np.rint(pixels), 0, 255)
    return Mounted(bare_HW3, image_HW3, (mask | legs) > 0)

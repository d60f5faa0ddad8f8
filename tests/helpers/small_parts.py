"""A grey tray with objects whose ground truth is known, for the tests of edits."""

import numpy as np

from pipeline.edits.donors import Donors
from pipeline.records import ObjectProposals

RED, GREEN, BLUE, YELLOW = (200, 40, 40), (40, 160, 60), (40, 70, 200), (210, 190, 40)
BACKGROUND = 128.0
NOISE = 2.0


def disc(size: int, y: float, x: float, radius: float) -> np.ndarray:
    yy, xx = np.mgrid[:size, :size]
    return (yy - y) ** 2 + (xx - x) ** 2 < radius**2


def bar(size: int, y: float, x: float, length: float, width: float, degrees: float = 0):
    """A bar whose long side points `degrees` clockwise from the x axis, with a wider head."""
    yy, xx = np.mgrid[:size, :size]
    angle = np.deg2rad(degrees)
    along = (xx - x) * np.cos(angle) + (yy - y) * np.sin(angle)
    across = -(xx - x) * np.sin(angle) + (yy - y) * np.cos(angle)
    shaft = (np.abs(along) < length / 2) & (np.abs(across) < width / 2)
    head = (np.abs(along - length / 2 + width / 2) < width / 2) & (np.abs(across) < width)
    return shaft | head


def draw(
    masks: list[np.ndarray], colours: list[tuple[int, int, int]], seed: int = 0
) -> tuple[np.ndarray, ObjectProposals]:
    """The objects in their colours, shaded from left to right, with noise, and their true masks."""
    rng = np.random.default_rng(seed)
    size = masks[0].shape[0]
    image_HW3 = np.full((size, size, 3), BACKGROUND)
    for mask_HW, colour in zip(masks, colours, strict=True):
        ys, xs = np.nonzero(mask_HW)
        shading = 0.85 + 0.3 * (xs - xs.min()) / max(1, np.ptp(xs))
        image_HW3[ys, xs] = np.array(colour) * shading[:, None]
    image_HW3 += rng.normal(0, NOISE, image_HW3.shape)
    foreground_HW = np.zeros((size, size), np.bool_)
    foreground_HW[4:-4, 4:-4] = True
    scores_N = np.linspace(0.9, 0.5, len(masks)).astype(np.float32)
    proposals = ObjectProposals(np.stack(masks), scores_N, foreground_HW)
    return np.clip(image_HW3, 0, 255).astype(np.uint8), proposals


def kit(seed: int = 0, size: int = 128) -> tuple[np.ndarray, ObjectProposals]:
    """Three discs of three colours and a yellow screw: every kind finds something to do here."""
    masks = [
        disc(size, 28, 28, 11),
        disc(size, 28, 96, 11),
        disc(size, 92, 30, 11),
        bar(size, 84, 88, 34, 7),
    ]
    return draw(masks, [RED, GREEN, BLUE, YELLOW], seed)


def kit_donors(seed: int = 50) -> Donors:
    """Two more normal kits as donor images."""
    return Donors.of(
        {f"train/good/{n}.png": lambda n=n: kit(seed + n) for n in range(2)},
        {f"train/good/{n}.png": f"{n:064x}" for n in range(2)},
    )

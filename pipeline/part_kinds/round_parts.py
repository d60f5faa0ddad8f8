"""The whole outline of a round part of which a mask shows less, or to which it adds background.

A bottle seen from above has dark rings, and a mask may end at an inner one: its edge passes for the
outline. Where a kind is round, and about how large, the circle is looked for whose edge is the
outermost one on nearly all rays. What lies between it and the mask tells whether the mask is wrong:
what the mask lacks must be unlike the background beyond the circle, and what it adds like it.

Shapes: H, W image; h, w window; P pixels; C centres; R radii; A rays; 3 colour (CIELAB, float32).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.imaging.masks import dilated, window
from pipeline.settings import pixels_at

# Smoothing of colours, and the step between centres and half of that between radii: pixels at 256.
FINE, STEP = 0.7, 1.0
RAYS = 48
# How far the centre may be from the mask's deepest point, as a share of the radius.
OFF_CENTRE = 0.2
# Steps of colour (CIELAB per pixel at 256) below which there is no edge, and from which one is
# clear: the rings inside are often sharper than the outline.
LEAST, CLEAR = 1.2, 3.6
# Standard deviation, in half pixels at 256, of where the edge lies on a ray of a round part.
NEARLY = 1.5
# Half pixels at 256 beyond a circle in which no edge is sharper than its own, by this factor.
BEYOND, SHARPER = (4, 8), 1.25
# How well a circle is seen (0-1) that is taken, and one that casts doubt on a mask. Measured:
# bottles on cloth, paper and metal 0.66 to 0.95 where the circle is right.
SEEN, FAINT = 0.65, 0.5
# Pixels at 256 by which the steepest step lies inside of the outline of a rounded part.
INSIDE = 0.25
# Pixels at 256 by which outlines may be off, and where the background beyond a circle is seen.
OFF, AROUND = 1.0, (2.0, 5.0)
# Least area of what a mask lacks or adds, as a share of the circle; share of its pixels that must
# be unlike, or like, the background; their distance to it (CIELAB, and in spreads).
SOME, MOSTLY = 0.003, 0.6
UNLIKE, SPREADS, SPREAD = 4.0, 2.0, 60


@dataclass(frozen=True, slots=True, eq=False)
class RoundPart:
    """The circle around a mask, (H, W) bool, and how well its edge is `seen`, 0-1.

    `lacks` says that the part goes on where the mask ends, `adds` that the mask holds background,
    and `fits` that nothing speaks against the circle.
    """

    circle_HW: np.ndarray
    seen: float
    lacks: bool
    adds: bool
    fits: bool

    @property
    def is_better(self) -> bool:
        """True when the circle is the part's outline and the mask is not."""
        return self.seen >= SEEN and self.fits and (self.lacks or self.adds)

    @property
    def is_cut(self) -> bool:
        """True when the part seems to go on where the mask ends."""
        return self.seen >= FAINT and self.lacks


def round_part(
    image_HW3: np.ndarray, mask_HW: np.ndarray, radii: tuple[float, float]
) -> RoundPart | None:
    """The best circle around a mask (bool, not empty) of a round kind whose radii are usually
    between two (pixels); None where it would leave the image. `image_HW3` is RGB uint8."""
    size_HW = mask_HW.shape[0], mask_HW.shape[1]
    px = pixels_at(1, size_HW)
    near = window(mask_HW, int(radii[1] + 10 * px))
    mask_hw = mask_HW[near]
    lab_hw3 = cv2.cvtColor(image_HW3[near].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab_hw3 = cv2.GaussianBlur(lab_hw3, (0, 0), FINE * px)
    x, y, radius, seen = _outermost_circle(lab_hw3, mask_hw, radii, px)
    top, left = near[0].start, near[1].start
    height, width = size_HW
    if not (radius <= x + left < width - radius and radius <= y + top < height - radius):
        return None
    circle_hw, inner_hw, outer_hw, *around = (
        _disc(mask_hw.shape, x, y, radius + more * px) for more in (0, -OFF / 2, OFF / 2, *AROUND)
    )
    away_hw = _unlike(lab_hw3, around[1] & ~around[0])
    margin = max(1, round(OFF * px))
    lacking_hw = inner_hw & ~dilated(mask_hw, margin)
    added_hw = mask_hw & ~dilated(outer_hw, margin)
    least = SOME * np.count_nonzero(circle_hw)
    much_lacks, much_adds = (np.count_nonzero(one) >= least for one in (lacking_hw, added_hw))
    lacks = bool(much_lacks and away_hw[lacking_hw].mean() >= MOSTLY)
    adds = bool(much_adds and away_hw[added_hw].mean() <= 1 - MOSTLY)
    circle_HW = np.zeros_like(mask_HW)
    circle_HW[near] = circle_hw
    fits = bool(lacks == much_lacks and adds == much_adds)
    return RoundPart(circle_HW, seen, lacks, adds, fits)


def _outermost_circle(
    lab_hw3: np.ndarray, mask_hw: np.ndarray, radii: tuple[float, float], px: float
) -> tuple[float, float, float, float]:
    """Centre (x, y) and radius of the circle whose edge is the outermost on most rays; how well it
    is seen, 0-1."""
    # Deepest inside of the mask: whatever sticks out of it does not matter.
    depth = cv2.distanceTransform(np.pad(mask_hw, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), depth.shape[1])
    off = np.arange(-OFF_CENTRE * radii[1], OFF_CENTRE * radii[1] + 1e-6, STEP * px)
    xs_C, ys_C = (one.ravel() for one in np.meshgrid(x + off, y + off))
    # With room on both sides for the neighbours of an edge.
    room = BEYOND[1]
    half = STEP * px / 2
    radii_R = np.arange(radii[0] - room * half, radii[1] + room * half + 1e-6, half)
    angles_A = np.arange(RAYS) * 2 * np.pi / RAYS

    def colours(radii_R: np.ndarray) -> np.ndarray:
        xs = xs_C[:, None, None] + radii_R[:, None] * np.cos(angles_A)
        ys = ys_C[:, None, None] + radii_R[:, None] * np.sin(angles_A)
        flat_xs, flat_ys = (one.reshape(len(xs_C), -1).astype(np.float32) for one in (xs, ys))
        pixels = cv2.remap(
            lab_hw3, flat_xs, flat_ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return pixels.reshape(*xs.shape, 3)

    steps_CRA = np.linalg.norm(colours(radii_R + px) - colours(radii_R - px), axis=-1) / 2

    def beside(values_CRA: np.ndarray, shifts: range) -> np.ndarray:
        """The largest value at other radii, by how many steps they are farther out."""
        last = values_CRA.shape[1] - room
        shifted = [values_CRA[:, room + shift : last + shift] for shift in shifts]
        return np.maximum.reduce(shifted)

    edge_CRA = steps_CRA >= LEAST
    edge_CRA[:, 1:] &= steps_CRA[:, 1:] >= steps_CRA[:, :-1]
    edge_CRA[:, :-1] &= steps_CRA[:, :-1] >= steps_CRA[:, 1:]
    clear_CRA = np.where(edge_CRA, np.minimum(steps_CRA / CLEAR, 1), 0)
    hit_CRA = np.maximum.reduce([
        np.exp(-(shift**2) / (2 * NEARLY**2)) * beside(clear_CRA, range(shift, shift + 1))
        for shift in range(-4, 5)
    ])  # fmt: skip
    farther_CRA = beside(np.where(edge_CRA, steps_CRA, 0), range(BEYOND[0], BEYOND[1] + 1))
    hit_CRA *= farther_CRA <= SHARPER * beside(steps_CRA, range(-2, 3))
    seen_CR = hit_CRA.mean(-1)
    centre, number = np.unravel_index(int(seen_CR.argmax()), seen_CR.shape)
    return (
        float(xs_C[centre]), float(ys_C[centre]), float(radii_R[room + number]) + INSIDE * px,
        float(seen_CR[centre, number]),
    )  # fmt: skip


def _unlike(lab_hw3: np.ndarray, background_hw: np.ndarray) -> np.ndarray:
    """Which pixels are unlike those of a piece of background, (h, w) bool."""
    background_P3 = lab_hw3[background_hw]
    if not len(background_P3):
        return np.zeros(background_hw.shape, np.bool_)
    middle_3 = np.median(background_P3, 0)
    spread = float(np.percentile(np.linalg.norm(background_P3 - middle_3, axis=1), SPREAD))
    unlike_hw: np.ndarray = np.linalg.norm(lab_hw3 - middle_3, axis=-1) > max(
        UNLIKE, SPREADS * spread
    )
    return unlike_hw


def _disc(shape_hw: tuple[int, ...], x: float, y: float, radius: float) -> np.ndarray:
    ys_h1, xs_1w = np.ogrid[: shape_hw[0], : shape_hw[1]]
    inside_hw: np.ndarray = (xs_1w - x) ** 2 + (ys_h1 - y) ** 2 <= radius**2
    return inside_hw

"""The geometry of a masked part, and the part cut out upright: what every description begins with.

Only the window of a part is touched, so a part costs the same in a large image.

Shapes: H, W image; h, w window; S side of a crop; K contour points; 3 colour.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.imaging.masks import window

# Grey behind a part: the mean colour of ImageNet, the weakest stimulus of a network.
GREY = (124, 116, 104)
# Side of a face, see `face_of`.
FACE_SIDE = 8
# Share of a part that must be left without its rim, or the rim counts.
LEAST_CORE = 0.3


@dataclass(frozen=True, slots=True)
class PartShape:
    """A mask's centre, area, half length along its axes (`reach`) and `radius`, all in pixels.

    `angle` is that of the long axis in radians, `elongation` the aspect ratio, `solidity` the
    filled area per convex hull, `holes` the share of the filled area.
    """

    centre: tuple[float, float]
    area: float
    angle: float
    elongation: float
    solidity: float
    holes: float
    reach: float
    radius: float

    @classmethod
    def of(cls, mask_HW: np.ndarray) -> "PartShape":
        """The geometry of a bool mask that is not empty."""
        rows, columns = window(mask_HW, 1)
        # Fill holes first: highlights that a mask misses must not move centre and axis.
        mask_u8 = mask_HW[rows, columns].astype(np.uint8)
        outlines, _ = cv2.findContours(mask_u8, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = cv2.drawContours(np.zeros_like(mask_u8), outlines, -1, 1, cv2.FILLED)
        area, whole = float(np.count_nonzero(mask_u8)), float(np.count_nonzero(filled))
        contour_K12 = np.concatenate(outlines)
        hull = cv2.convexHull(contour_K12)
        body = float(np.count_nonzero(cv2.fillConvexPoly(np.zeros_like(mask_u8), hull, 1)))
        m = cv2.moments(filled, binaryImage=True)
        x, y = m["m10"] / m["m00"], m["m01"] / m["m00"]
        spread = np.array([[m["mu20"], m["mu11"]], [m["mu11"], m["mu02"]]]) / m["m00"]
        # Axes from second central moments; 1/12 is the variance of a pixel's own extent.
        values, axes = np.linalg.eigh(spread + np.eye(2) / 12)
        points_K2 = contour_K12[:, 0, :] - (x, y)
        return cls(
            (x + columns.start, y + rows.start), area, float(np.arctan2(axes[1, 1], axes[0, 1])),
            float(np.sqrt(values[1] / values[0])), whole / max(body, 1), (whole - area) / whole,
            float(np.abs(points_K2 @ axes).max()) + 1,
            float(np.linalg.norm(points_K2, axis=1).max()) + 1,
        )  # fmt: skip


def circle_share(mask_HW: np.ndarray) -> float:
    """The share of its smallest enclosing circle that a mask (bool, not empty) covers, 0-1."""
    mask_u8 = mask_HW[window(mask_HW, 1)].astype(np.uint8)
    outlines, _ = cv2.findContours(mask_u8, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    _, radius = cv2.minEnclosingCircle(np.concatenate(outlines))
    # Of pixel centres: half a pixel sticks out on each side.
    return float(np.count_nonzero(mask_u8) / (np.pi * (radius + 0.5) ** 2))


def turned(
    image_HW3: np.ndarray,
    mask_HW: np.ndarray,
    centre: tuple[float, float],
    angle: float,
    side: int,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """A square crop of `side` around `centre`, rotated by -angle: pixels (S, S, 3) of the image's
    dtype, and the cover of the mask (S, S) float32 in 0-1."""
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    # The window holds the square in any rotation; beyond the image its border is repeated.
    half = math.ceil(side / scale * 0.71) + 2
    left, top = max(0, int(centre[0]) - half), max(0, int(centre[1]) - half)
    near = np.s_[top : int(centre[1]) + half + 1, left : int(centre[0]) + half + 1]
    x, y = centre[0] - left, centre[1] - top
    move = np.array([[c, s, side / 2 - c * x - s * y], [-s, c, side / 2 + s * x - c * y]])
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    pixels_SS3 = cv2.warpAffine(
        image_HW3[near], move, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    cover_SS = cv2.warpAffine(
        mask_HW[near].astype(np.float32), move, (side, side), flags=cv2.INTER_LINEAR
    )
    return pixels_SS3, cover_SS


def on_grey(pixels_SS3: np.ndarray, cover_SS: np.ndarray) -> np.ndarray:
    """A crop (RGB 0-255) on GREY where the part does not cover it, (S, S, 3) uint8."""
    alpha = cover_SS[..., None]
    return np.rint(alpha * pixels_SS3 + (1 - alpha) * np.array(GREY, np.float32)).astype(np.uint8)


def colour_of(lab_HW3: np.ndarray, mask_HW: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean CIELAB colour and standard deviation of lightness, without the rim where possible:
    its pixels mix with the background."""
    near = window(mask_HW, 1)
    mask_hw = mask_HW[near]
    core_hw = cv2.erode(mask_hw.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    enough = np.count_nonzero(core_hw) >= LEAST_CORE * np.count_nonzero(mask_hw)
    pixels = lab_HW3[near][core_hw if enough else mask_hw]
    return pixels.mean(0), float(pixels[:, 0].std())


def face_of(crop_SS3: np.ndarray) -> np.ndarray:
    """The lightness of a crop (uint8 RGB) on a grid of FACE_SIDE, with zero mean and unit length,
    (64,) float32: it tells which side is up."""
    grey_SS = cv2.cvtColor(crop_SS3, cv2.COLOR_RGB2GRAY)
    grid = cv2.resize(grey_SS, (FACE_SIDE, FACE_SIDE), interpolation=cv2.INTER_AREA)
    face = grid.astype(np.float32).ravel()
    face -= face.mean()
    unit: np.ndarray = face / (np.linalg.norm(face) + 1e-6)
    return unit

"""Mask geometry: crop a mask to its box, move, rotate, scale and dilate it; no pixel colours.

Planning and compositing call the same functions, so an outline that a plan found to fit is exactly
the one that is composited. Shapes: h w the crop's own box, H W the image, 4 a box x0 y0 x1 y1 with
exclusive end. Angles are degrees, clockwise as displayed (y points down).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from pipeline.imaging.artifacts import MARGIN
from pipeline.records import bounding_box

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class MaskCrop:
    """A bool mask inside its bounding box, and the box's corner; it may reach beyond the image."""

    mask_hw: np.ndarray
    x: int
    y: int
    # The area once it was counted: planning asks for it at hundreds of places.
    _counted: list[int] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, mask_HW: np.ndarray) -> "MaskCrop":
        """The True pixels of a full mask, cropped to their box (1 x 1, empty, if there are
        none)."""
        x0, y0, x1, y1 = bounding_box(mask_HW)
        return cls(np.ascontiguousarray(mask_HW[y0 : max(y1, 1), x0 : max(x1, 1)]), x0, y0)

    @property
    def box_4(self) -> Box:
        return self.x, self.y, self.x + self.mask_hw.shape[1], self.y + self.mask_hw.shape[0]

    @property
    def centre(self) -> tuple[float, float]:
        """The centre of the box, x and y, in pixels."""
        x0, y0, x1, y1 = self.box_4
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def area(self) -> int:
        if not self._counted:
            self._counted.append(int(np.count_nonzero(self.mask_hw)))
        return self._counted[0]

    def moved(self, dx: int, dy: int) -> "MaskCrop":
        return MaskCrop(self.mask_hw, self.x + dx, self.y + dy, self._counted)

    def inside_frame(self, size_HW: tuple[int, int]) -> bool:
        """True when the whole box lies in the image and touches none of its edges."""
        x0, y0, x1, y1 = self.box_4
        return x0 > 0 and y0 > 0 and x1 < size_HW[1] and y1 < size_HW[0]

    def share_on(self, mask_HW: np.ndarray) -> float:
        """Share of the crop's pixels that lie on a mask; pixels outside the image count as off."""
        x0, y0, x1, y1 = clipped(self.box_4, mask_HW.shape)
        # Entirely outside the image.
        if x0 >= x1 or y0 >= y1:
            return 0.0
        inner = self.mask_hw[y0 - self.y : y1 - self.y, x0 - self.x : x1 - self.x]
        return float(np.count_nonzero(inner & mask_HW[y0:y1, x0:x1])) / max(1, self.area)

    def overlaps(self, other: "MaskCrop") -> bool:
        """True when two crops share a pixel."""
        if disjoint(self.box_4, other.box_4):
            return False
        # Compare both masks inside the intersection of their boxes only.
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = self.box_4, other.box_4
        x0, y0, x1, y1 = max(ax0, bx0), max(ay0, by0), min(ax1, bx1), min(ay1, by1)
        mine = self.mask_hw[y0 - ay0 : y1 - ay0, x0 - ax0 : x1 - ax0]
        theirs = other.mask_hw[y0 - by0 : y1 - by0, x0 - bx0 : x1 - bx0]
        return bool((mine & theirs).any())

    def full(self, size_HW: tuple[int, int]) -> np.ndarray:
        """The mask in a full image (or in any window with its origin at 0, 0), (H, W) bool."""
        mask_HW = np.zeros(size_HW, np.bool_)
        x0, y0, x1, y1 = clipped(self.box_4, size_HW)
        if x0 < x1 and y0 < y1:
            inner = self.mask_hw[y0 - self.y : y1 - self.y, x0 - self.x : x1 - self.x]
            mask_HW[y0:y1, x0:x1] = inner
        return mask_HW

    def warped(self, matrix_22: np.ndarray) -> "MaskCrop":
        """The mask under a linear map about the centre of its box."""
        # Interpolated cover, thresholded at one half, keeps the area.
        soft_hw = warped(self.mask_hw.astype(np.float32), matrix_22)
        shape = MaskCrop.of(soft_hw > 0.5)
        x, y = corner_for(soft_hw.shape, self.centre)
        return MaskCrop(shape.mask_hw, x + shape.x, y + shape.y)


def rotation(degrees: float, mirror: bool = False) -> np.ndarray:
    """The 2 x 2 matrix that (mirrors left to right, then) rotates clockwise as displayed."""
    angle = np.deg2rad(degrees)
    turn_22 = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn_22 @ np.diag([-1.0, 1.0]) if mirror else turn_22


def scaling(factor: float, along: float | None = None) -> np.ndarray:
    """Scaling by a factor: evenly, or only along a direction (degrees clockwise from x)."""
    if along is None:
        return np.eye(2) * factor
    # Rotate the direction onto x, scale x, rotate back.
    axes_22 = rotation(along)
    return axes_22 @ np.diag([factor, 1.0]) @ axes_22.T


def warped(array_hwC: np.ndarray, matrix_22: np.ndarray, cubic: bool = False) -> np.ndarray:
    """A float32 array under a linear map about its centre, in the box that then holds it.

    Quarter turns and mirrors move whole pixels and change no value. Otherwise pixels are
    interpolated, and zeros come in from outside.
    """
    if moves_whole_pixels(matrix_22):
        return _quarter_turned(array_hwC, np.rint(matrix_22).astype(int))
    height, width = array_hwC.shape[:2]
    # The new box must hold the images of all four corners.
    reach = np.abs(matrix_22) @ (width, height)
    new_width, new_height = (int(np.ceil(side)) for side in reach)
    # Pixel centres have whole coordinates, hence the centre of n pixels is (n - 1) / 2.
    shift = np.array([new_width - 1, new_height - 1]) / 2
    shift = shift - matrix_22 @ (np.array([width - 1, height - 1]) / 2)
    return cv2.warpAffine(
        array_hwC,
        np.concatenate([matrix_22, shift[:, None]], axis=1),
        (new_width, new_height),
        flags=cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR,
    )


def moves_whole_pixels(matrix_22: np.ndarray) -> bool:
    """True for quarter turns and mirrors, which need no resampling."""
    # Plain Python numbers: this runs thousands of times per image, and NumPy is slow on four items.
    # The tolerances are those of `np.isclose`.
    entries = [abs(entry) for entry in matrix_22.ravel().tolist()]
    whole = [round(entry) for entry in entries]
    return sum(whole) == 2 and all(
        abs(entry - near) <= 1e-9 + 1e-5 * near for entry, near in zip(entries, whole, strict=True)
    )


def _quarter_turned(array_hwC: np.ndarray, whole_22: np.ndarray) -> np.ndarray:
    # Swap x and y first if the matrix does; what remains is diagonal: at most a flip per axis.
    if whole_22[0, 0] == 0:
        array_hwC = array_hwC.swapaxes(0, 1)
        whole_22 = whole_22 @ np.array([[0, 1], [1, 0]])
    return np.ascontiguousarray(array_hwC[:: int(whole_22[1, 1]), :: int(whole_22[0, 0])])


def corner_for(shape_hw: Sequence[int], centre: tuple[float, float]) -> tuple[int, int]:
    """The whole-pixel corner x, y that puts the centre of a box closest to a point."""
    return int(np.floor(centre[0] - shape_hw[1] / 2)), int(np.floor(centre[1] - shape_hw[0] / 2))


def main_axis(cover_hw: np.ndarray) -> tuple[float, float]:
    """Direction of a mask's long axis (degrees clockwise from x, 0-180), and its aspect ratio.

    From second central moments; `cover_hw` is bool or a cover in [0, 1].
    """
    moments = cv2.moments(cover_hw.astype(np.float32))
    area = max(1e-6, moments["m00"])
    xx, yy, xy = (moments[name] / area for name in ("mu20", "mu02", "mu11"))
    # 1/12 is the variance of one pixel's own extent; it keeps thin masks from being singular.
    spread_2, axes_22 = np.linalg.eigh(np.array([[xx, xy], [xy, yy]]) + np.eye(2) / 12)
    degrees = np.rad2deg(np.arctan2(axes_22[1, 1], axes_22[0, 1])) % 180
    return round(float(degrees), 1), float(np.sqrt(spread_2[1] / spread_2[0]))


def shifted(mask_HW: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """The array moved right by dx and down by dy, with zeros moving in; any trailing axes."""
    moved = np.zeros_like(mask_HW)
    height, width = mask_HW.shape[:2]
    # Source (s) and destination (d) slices; empty when the shift exceeds the image.
    ys, yd = (
        slice(max(0, -dy), min(height, height - dy)),
        slice(max(0, dy), min(height, height + dy)),
    )
    xs, xd = slice(max(0, -dx), min(width, width - dx)), slice(max(0, dx), min(width, width + dx))
    if ys.start < ys.stop and xs.start < xs.stop:
        moved[yd, xd] = mask_HW[ys, xs]
    return moved


def dilated(mask_HW: np.ndarray, radius: int) -> np.ndarray:
    """The mask dilated by a disc of `radius` pixels; a radius of 0 or less changes nothing."""
    if radius <= 0:
        return mask_HW
    # Views, not copies: a bool is a byte of 0 or 1.
    bytes_HW = np.ascontiguousarray(mask_HW).view(np.uint8)
    return cv2.dilate(bytes_HW, disc(radius)).view(np.bool_)


def opened(mask_HW: np.ndarray, radius: int) -> np.ndarray:
    """The mask without what a disc of `radius` pixels does not fit into, (H, W) bool."""
    return cv2.morphologyEx(mask_HW.astype(np.uint8), cv2.MORPH_OPEN, disc(radius)) > 0


@lru_cache(maxsize=64)
def disc(radius: int) -> np.ndarray:
    """A disc as a structuring element, uint8, 2 * `radius` + 1 pixels across; do not modify it."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def clipped(box_4: Sequence[int], size_HW: Sequence[int]) -> Box:
    """The part of a box inside the image; may be empty (x0 >= x1 or y0 >= y1)."""
    x0, y0, x1, y1 = map(int, box_4)
    return max(0, x0), max(0, y0), min(size_HW[1], x1), min(size_HW[0], y1)


def enclosing_box(boxes: Sequence[Sequence[int]], margin: int, size_HW: Sequence[int]) -> Box:
    """The smallest box around several boxes, plus a margin, clipped to the image."""
    edges_N4 = np.array(boxes)
    low, high = edges_N4[:, :2].min(0) - margin, edges_N4[:, 2:].max(0) + margin
    return clipped((*low.tolist(), *high.tolist()), size_HW)


def distance_from(mask_HW: np.ndarray) -> np.ndarray:
    """Distance in pixels of every pixel from a mask, (H, W) float32, 0 inside."""
    return cv2.distanceTransform((~mask_HW).view(np.uint8), cv2.DIST_L2, 5)


def disjoint(first: Sequence[float], second: Sequence[float]) -> bool:
    """True when two boxes share no pixel."""
    return (
        first[2] <= second[0]
        or second[2] <= first[0]
        or first[3] <= second[1]
        or second[3] <= first[1]
    )


def window(mask_HW: np.ndarray, margin: int = MARGIN) -> tuple[slice, slice]:
    """Rows and columns of the mask's box, wider by a margin where the image allows."""
    x0, y0, x1, y1 = bounding_box(mask_HW)
    # Only the low ends need clipping: slicing stops at the image's far edges by itself.
    return slice(max(0, y0 - margin), y1 + margin), slice(max(0, x0 - margin), x1 + margin)

"""What a diffusion model sees of an image: one square of the size that it was trained on.

The rules are Inpaint Anything's. *Fill*: enlarge the image until its shorter side reaches the
square, or shrink it until the hole fits, then cut the square around the hole. *Replace*: fit the
whole image into the square. Where the image does not reach, the square is black. The window is held
inside the image *after* its resizing; the original clamps with the size from before and may cut
beside the image.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class SquareCrop:
    """A square of `side` px on a canvas, on which the resized image lies; all (y, x), in px.

    `scaled` is the size of the image on the canvas, `offset` its upper left corner there, `corner`
    that of the square. `paint_beyond` says whether the model paints where no image is.
    """

    side: int
    scaled: tuple[int, int]
    offset: tuple[int, int]
    canvas: tuple[int, int]
    corner: tuple[int, int]
    paint_beyond: bool

    def see(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The square of the image, (S, S, 3) uint8, and of the hole, (S, S) bool."""
        hole_canvas = np.full(self.canvas, self.paint_beyond, np.bool_)
        # A square's pixel is painted as soon as the hole touches it, so thin holes survive.
        touched = _resized(hole_HW.astype(np.float32), self.scaled) > 0
        hole_canvas[self._image_on_canvas] = touched
        square_SS3 = self._laid_out(image_HW3)[self._square]
        return np.ascontiguousarray(square_SS3), np.ascontiguousarray(hole_canvas[self._square])

    def put_back(
        self, square_SS3: np.ndarray, image_HW3: np.ndarray, hole_HW: np.ndarray
    ) -> np.ndarray:
        """The image with the painted square's pixels inside the hole and its own outside."""
        canvas_HW3 = self._laid_out(image_HW3)
        canvas_HW3[self._square] = square_SS3
        painted_HW3 = _resized(canvas_HW3[self._image_on_canvas], image_HW3.shape[:2])
        return np.where(hole_HW[..., None], painted_HW3, image_HW3)

    @property
    def _square(self) -> tuple[slice, slice]:
        return _area(self.corner, (self.side, self.side))

    @property
    def _image_on_canvas(self) -> tuple[slice, slice]:
        return _area(self.offset, self.scaled)

    def _laid_out(self, image_HW3: np.ndarray) -> np.ndarray:
        canvas_HW3 = np.zeros((*self.canvas, 3), np.uint8)
        canvas_HW3[self._image_on_canvas] = _resized(image_HW3, self.scaled)
        return canvas_HW3


def fill_frame(box_4: tuple[int, int, int, int], size_HW: tuple[int, int], side: int) -> SquareCrop:
    """The square around the box `x0 y0 x1 y1` (exclusive end) of a hole; it holds the whole box."""
    x0, y0, x1, y1 = box_4
    longer = max(x1 - x0, y1 - y0)
    scale = max(1.0, side / min(size_HW))
    if scale * longer > side - 2:  # two pixels for the rounding of both ends
        scale = (side - 2) / longer
    scaled = _scaled(size_HW, scale)
    canvas = (max(side, scaled[0]), max(side, scaled[1]))
    top = _clamped((y0 + y1) / 2 * scaled[0] / size_HW[0], side, canvas[0])
    left = _clamped((x0 + x1) / 2 * scaled[1] / size_HW[1], side, canvas[1])
    return SquareCrop(side, scaled, (0, 0), canvas, (top, left), paint_beyond=False)


def replace_frame(size_HW: tuple[int, int], side: int) -> SquareCrop:
    """The whole image in the middle of the square; the black beside it is painted over, too."""
    scaled = _scaled(size_HW, side / max(size_HW))
    offset = ((side - scaled[0]) // 2, (side - scaled[1]) // 2)
    return SquareCrop(side, scaled, offset, (side, side), (0, 0), paint_beyond=True)


def _scaled(size_HW: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size_HW[0] * scale)), max(1, round(size_HW[1] * scale))


def _clamped(centre: float, side: int, limit: int) -> int:
    """Where a span of `side` around the centre begins, moved inside the limit."""
    return min(max(0, round(centre - side / 2)), limit - side)


def _area(corner: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    return slice(corner[0], corner[0] + size[0]), slice(corner[1], corner[1] + size[1])


def _resized(array: np.ndarray, size_HW: tuple[int, ...]) -> np.ndarray:
    """Averaged when it shrinks, cubic (masks: linear) when it grows, untouched when it stays."""
    if array.shape[:2] == tuple(size_HW):
        return array.copy()
    smaller = size_HW[0] * size_HW[1] < array.shape[0] * array.shape[1]
    grown = cv2.INTER_LINEAR if array.ndim == 2 else cv2.INTER_CUBIC
    how = cv2.INTER_AREA if smaller else grown
    return cv2.resize(np.ascontiguousarray(array), (size_HW[1], size_HW[0]), interpolation=how)

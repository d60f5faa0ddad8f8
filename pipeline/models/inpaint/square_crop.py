"""The square crop that a diffusion model inpaints, of the size that it was trained on.

The rules are those of Inpaint Anything (Yu et al., 2023). *Fill*: enlarge the image until its
shorter side reaches the square, or shrink it until the hole fits, then crop the square around the
hole. *Replace*: letterbox the whole image into the square. The square is black where it has no
image. The crop is clamped to the *resized* image; the original clamps to the size before resizing
and may crop outside of the image.

Shapes: H, W image; S side of the square; 3 colour (RGB).
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class SquareCrop:
    """A square of `side` px on a canvas that holds the resized image; all pairs are (y, x) in px.

    `scaled` is the size of the image on the canvas, `offset` its upper left corner there, `corner`
    that of the square. `inpaint_border` is True when the model inpaints where there is no image.
    """

    side: int
    scaled: tuple[int, int]
    offset: tuple[int, int]
    canvas: tuple[int, int]
    corner: tuple[int, int]
    inpaint_border: bool

    def cut(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The square of the image, (S, S, 3) uint8, and of the hole, (S, S) bool."""
        hole_canvas = np.full(self.canvas, self.inpaint_border, np.bool_)
        # A pixel of the square is inpainted as soon as the hole touches it, so thin holes survive.
        touched = _resized(hole_HW.astype(np.float32), self.scaled) > 0
        hole_canvas[self._image_on_canvas] = touched
        square_SS3 = self._on_canvas(image_HW3)[self._square]
        return np.ascontiguousarray(square_SS3), np.ascontiguousarray(hole_canvas[self._square])

    def paste_back(
        self, square_SS3: np.ndarray, image_HW3: np.ndarray, hole_HW: np.ndarray
    ) -> np.ndarray:
        """The image with the pixels of the inpainted square inside the hole and its own outside."""
        # The canvas again, because the resizing back reads pixels beside the square.
        canvas_HW3 = self._on_canvas(image_HW3)
        canvas_HW3[self._square] = square_SS3
        inpainted_HW3 = _resized(canvas_HW3[self._image_on_canvas], image_HW3.shape[:2])
        # The mask at full size, not the one that was resized: pixels outside stay exact.
        return np.where(hole_HW[..., None], inpainted_HW3, image_HW3)

    @property
    def _square(self) -> tuple[slice, slice]:
        return _area(self.corner, (self.side, self.side))

    @property
    def _image_on_canvas(self) -> tuple[slice, slice]:
        return _area(self.offset, self.scaled)

    def _on_canvas(self, image_HW3: np.ndarray) -> np.ndarray:
        canvas_HW3 = np.zeros((*self.canvas, 3), np.uint8)
        canvas_HW3[self._image_on_canvas] = _resized(image_HW3, self.scaled)
        return canvas_HW3


def fill_crop(box_4: tuple[int, int, int, int], size_HW: tuple[int, int], side: int) -> SquareCrop:
    """The square around the box `x0 y0 x1 y1` (exclusive end) of a hole; it holds the whole box."""
    x0, y0, x1, y1 = box_4
    longer = max(x1 - x0, y1 - y0)
    # Never shrink unless the hole needs it: small objects would lose detail.
    scale = max(1.0, side / min(size_HW))
    # Two pixels of margin for rounding at both ends.
    if scale * longer > side - 2:
        scale = (side - 2) / longer
    scaled = _scaled(size_HW, scale)
    # After shrinking, a side of the image may be shorter than the square.
    canvas = (max(side, scaled[0]), max(side, scaled[1]))
    top = _clamped((y0 + y1) / 2 * scaled[0] / size_HW[0], side, canvas[0])
    left = _clamped((x0 + x1) / 2 * scaled[1] / size_HW[1], side, canvas[1])
    return SquareCrop(side, scaled, (0, 0), canvas, (top, left), inpaint_border=False)


def replace_crop(size_HW: tuple[int, int], side: int) -> SquareCrop:
    """The whole image in the centre of the square; its black borders are inpainted as well."""
    scaled = _scaled(size_HW, side / max(size_HW))
    offset = ((side - scaled[0]) // 2, (side - scaled[1]) // 2)
    return SquareCrop(side, scaled, offset, (side, side), (0, 0), inpaint_border=True)


def _scaled(size_HW: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size_HW[0] * scale)), max(1, round(size_HW[1] * scale))


def _clamped(centre: float, side: int, limit: int) -> int:
    """Start of a span of `side` px around the centre, shifted into 0..limit."""
    return min(max(0, round(centre - side / 2)), limit - side)


def _area(corner: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    return slice(corner[0], corner[0] + size[0]), slice(corner[1], corner[1] + size[1])


def _resized(array: np.ndarray, size_HW: tuple[int, ...]) -> np.ndarray:
    """Resize by area averaging when smaller, bicubic (masks: bilinear) when larger; or a copy."""
    # Interpolation at equal size could still change pixels.
    if array.shape[:2] == tuple(size_HW):
        return array.copy()
    smaller = size_HW[0] * size_HW[1] < array.shape[0] * array.shape[1]
    grown = cv2.INTER_LINEAR if array.ndim == 2 else cv2.INTER_CUBIC
    how = cv2.INTER_AREA if smaller else grown
    return cv2.resize(np.ascontiguousarray(array), (size_HW[1], size_HW[0]), interpolation=how)

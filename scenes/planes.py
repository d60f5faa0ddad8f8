"""Colour arithmetic on (H, W, 3) images and (H, W) planes, fast.

NumPy broadcasts `(H, W, 1)` against `(H, W, 3)` with an inner loop of three elements, five to seven
times slower than a contiguous pass. The helpers here copy the plane to three channels first.
"""

import cv2
import numpy as np

Array = np.ndarray
WHITE = np.ones(3, np.float32)


def triple(plane_HW: Array) -> Array:
    """The plane in all three channels, float32."""
    plane_HW = np.asarray(plane_HW, np.float32)
    return cv2.merge((plane_HW, plane_HW, plane_HW))


def tint(plane_HW: Array, colour_3: Array) -> Array:
    """One colour (3,) scaled by the plane, (H, W, 3) float32."""
    plane_HW = np.asarray(plane_HW, np.float32)
    return cv2.merge([plane_HW * np.float32(channel) for channel in colour_3])


def mix(below_HW3: Array, above: Array, alpha_HW: Array) -> Array:
    """Alpha-blend `above`, an image or one colour (3,), over an image."""
    alpha_HW = np.asarray(alpha_HW, np.float32)
    # `tint` for one colour saves the full-size copy of it.
    top_HW3 = triple(alpha_HW) * above if np.ndim(above) == 3 else tint(alpha_HW, above)
    result: Array = below_HW3 * triple(1 - alpha_HW)
    # In place: these are the largest arrays of the renderer.
    result += top_HW3
    return result

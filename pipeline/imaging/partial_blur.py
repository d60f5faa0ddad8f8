"""A wide Gaussian blur where only a part of the result is needed; the same bits as of the whole.

A blur of sigma 54 multiplies every pixel by 866 weights, whether anybody reads the result or not.
OpenCV blurs along the rows first and along the columns second, and so does this in two calls: the
first leaves out rows of zeros, the second columns that nobody asked for.

Shapes: h, w image; a, b the part; C channels.
"""

import cv2
import numpy as np

# Columns of a part begin and end at multiples of so many, or at the image's edge: OpenCV computes
# whole vectors of pixels and rounds the rest of a row differently.
ALIGNED = 16


def aligned(part: tuple[slice, slice], size_hw: tuple[int, ...]) -> tuple[slice, slice]:
    """The part with columns that begin and end as OpenCV's vectors do; none is lost."""
    left, right, _ = part[1].indices(size_hw[1])
    return part[0], slice(left - left % ALIGNED, min(size_hw[1], right + -right % ALIGNED))


def blurred_part(
    image_hwC: np.ndarray, sigma: float, part: tuple[slice, slice], rows: slice = slice(None)
) -> np.ndarray:
    """`cv2.GaussianBlur(image_hwC, (0, 0), sigma)[part]`, of float32, (a, b, C) or (a, b).

    Nothing but zeros may lie outside of `rows`.
    """
    height, width = image_hwC.shape[:2]
    # The width that OpenCV chooses for an image of floats.
    side = round(8 * sigma + 1) | 1
    top, bottom, _ = part[0].indices(height)
    left, right, _ = part[1].indices(width)
    first, last, _ = aligned(part, (height, width))[1].indices(width)
    # Rows that the blur of the part reads.
    low, high = max(0, top - side // 2), min(height, bottom + side // 2)
    upper, lower, _ = rows.indices(height)
    upper, lower = max(low, upper), min(high, lower)
    along_hbC = np.zeros((high - low, last - first, *image_hwC.shape[2:]), np.float32)
    if upper < lower:
        whole_hwC = cv2.GaussianBlur(image_hwC[upper:lower], (side, 1), sigma, sigmaY=sigma)
        # OpenCV drops an axis of one channel.
        whole_hwC = whole_hwC.reshape(lower - upper, *image_hwC.shape[1:])
        along_hbC[upper - low : lower - low] = whole_hwC[:, first:last]
    found_hbC = cv2.GaussianBlur(along_hbC, (1, side), sigma, sigmaY=sigma).reshape(along_hbC.shape)
    answer_abC: np.ndarray = found_hbC[top - low : bottom - low, left - first : right - first]
    return answer_abC

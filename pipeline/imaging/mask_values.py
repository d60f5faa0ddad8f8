"""What the pixels of a mask file mean: grey values, 0 for background.

| what the file holds                           | what comes out                                 |
|-----------------------------------------------|------------------------------------------------|
| grey 8 bit, 1 bit, palette                    | the value or the grey of the colour; 1 bit: 255 |
| grey 16 bit                                   | values up to 255 as they are, others >> 8      |
| colours                                       | their luma, at least 1                         |
| alpha where the visible pixels have one colour | the shape is in alpha: visible is marked       |
| alpha elsewhere                               | what is transparent is background              |
| JPEG, or more levels than labels have         | soft edges and noise: cut at half of the range |

The last row does not hold for masks whose values are defect types.
"""

import numpy as np
from PIL import Image

# Alpha from here on is visible; marked pixels without a value of their own get this one.
_VISIBLE, _MARKED = 128, 255
# More grey levels than a label map has: edges were smoothed. And what is left of an empty mask
# after JPEG.
_MOST_LABELS, _NOISE = 32, 32


def grey_values(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 grey values of a mask in one of Pillow's 8-bit modes."""
    # By way of RGB, so that palette indices become their colours.
    rgb = image.convert("RGB")
    rgb_HW3 = np.asarray(rgb)
    # The luma of a dark blue is 0. `any` over the last axis is twenty times slower.
    marked_HW = rgb_HW3[..., 0] | rgb_HW3[..., 1] | rgb_HW3[..., 2]
    grey_HW = np.maximum(np.asarray(rgb.convert("L")), np.minimum(marked_HW, 1))
    if not image.has_transparency_data:
        return grey_HW
    visible_HW = np.asarray(image.convert("RGBA"))[..., 3] >= _VISIBLE
    # Alpha that is the same everywhere says nothing.
    if visible_HW.all() or not visible_HW.any():
        return grey_HW
    seen_N3 = rgb_HW3[visible_HW]
    if (seen_N3 == seen_N3[0]).all():
        # A label of one value keeps it; black on transparent is a drawing, too.
        grey_HW = np.full_like(grey_HW, int(grey_HW[visible_HW][0]) or _MARKED)
    return np.where(visible_HW, grey_HW, 0).astype(np.uint8)


def deep_grey_values(values_HW: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of whole numbers from 0 to 65535; nothing above 0 becomes 0."""
    if values_HW.max() <= 0xFF:
        return values_HW.astype(np.uint8)
    return np.maximum(values_HW >> 8, values_HW > 0).astype(np.uint8)


def without_soft_edges(grey_HW: np.ndarray, lossy: bool) -> np.ndarray:
    """The mask as 0 and 255 where its file is lossy or its edges are smooth; else unchanged."""
    if not lossy and np.count_nonzero(np.bincount(grey_HW.ravel())) <= _MOST_LABELS:
        return grey_HW
    low, high = int(grey_HW.min()), int(grey_HW.max())
    if high <= _NOISE:
        return np.zeros_like(grey_HW)
    # A mask that is full, but for noise.
    half = high / 2 if low > high / 2 else (low + high) / 2
    return np.where(grey_HW >= half, _MARKED, 0).astype(np.uint8)

"""The colour of a region as seen from the pixels around it.

Shapes: h, w window; 3 colour (one layer does as well); 1 one value per pixel.
"""

import cv2
import numpy as np


def mean_near(
    source_hw3: np.ndarray, where_hw: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """The Gaussian-weighted mean colour of a region around every pixel, (h, w, 3) float32.

    Also the weight of the region there, (h, w, 1) in [0, 1]: where it is about 0, the colour is
    meaningless.
    """
    # Normalised convolution: blur of colour times mask, divided by blur of mask.
    weight_hw = where_hw.astype(np.float32)
    total_hw1 = cv2.GaussianBlur(weight_hw, (0, 0), sigma)[..., None]
    blur_hw3 = cv2.GaussianBlur(source_hw3 * weight_hw[..., None], (0, 0), sigma)
    # OpenCV drops an axis of one channel.
    blur_hw3 = blur_hw3.reshape(source_hw3.shape)
    return np.divide(blur_hw3, np.maximum(total_hw1, 1e-6), out=blur_hw3), total_hw1

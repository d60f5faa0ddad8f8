"""Alpha matting along an object's outline: proposals miss the true outline by a pixel or two.

Shapes: h, w window; 3 colour (RGB, float32, 0-255); 1 one value per pixel.
"""

import cv2
import numpy as np

from pipeline.imaging.masks import dilated, disc, opened
from pipeline.imaging.region_values import with_labels

# Gaussian sigma in pixels of the neighbourhood in which mean object and background colours are
# estimated.
NEAR_SIGMA = 3.0
# RGB distance between object and background from which colour is more reliable than the outline.
CONTRAST = 24.0
# Root mean square by which pixels of object or background may be off their mean, as a share of the
# distance between the two; from twice as much on colour tells nothing.
PLAIN = 0.25
# How far the background beside the outline may lie towards the colour of the object, compared with
# the background farther out (sigma in pixels), as a share of their distance; from twice as much on
# colour tells nothing: it is the object's shadow, and would be cut out with it.
SHADED, FARTHER_SIGMA = 0.08, 9.0
# Gaussian sigma in pixels by which alpha is smoothed, and the factor on its slope afterwards.
SMOOTH, STEEPER = 1.2, 2.2


def alpha_matte(
    source_hw3: np.ndarray, mask_hw: np.ndarray, band: int, feather: int = 3, *, even: bool = True
) -> np.ndarray:
    """Alpha of the object, (h, w) float32 in [0, 1].

    Within `band` pixels of the outline, alpha is the position of a pixel's colour on the line
    between the mean colours of object and background nearby. Where these are similar, alpha is the
    blurred mask, `feather` pixels soft. Farther in it is 1, farther out 0. `even` smooths the
    outline, for objects that are cut out: the texture of the background makes it ragged.
    """
    # The uncertain band lies between the eroded and the dilated mask.
    inner_hw = cv2.erode(mask_hw.astype(np.uint8), disc(band)).astype(np.bool_)
    outer_hw = dilated(mask_hw, band)
    soft_hw = cv2.GaussianBlur(mask_hw.astype(np.float32), (0, 0), max(feather, 1) / 3)
    # Without any sure object or sure background there are no colours to compare with.
    if not inner_hw.any() or outer_hw.all():
        return soft_hw
    object_hw3, object_hw1 = mean_near(source_hw3, inner_hw, NEAR_SIGMA)
    background_hw3, background_hw1 = mean_near(source_hw3, ~outer_hw, NEAR_SIGMA)
    # Project each pixel's colour onto the axis from background to object.
    axis_hw3 = object_hw3 - background_hw3
    length_hw = np.sqrt(_summed(axis_hw3**2))
    position_hw = _summed((source_hw3 - background_hw3) * axis_hw3) / np.maximum(length_hw**2, 1)
    # Thin objects have no sure inside nearby, and no colour can be estimated there. The colours of
    # a body tell nothing about its legs.
    seen_hw = np.minimum(object_hw1, background_hw1)[..., 0] > 1e-3
    thin_hw = cv2.dilate(thin_pieces(mask_hw, band).astype(np.uint8), np.ones((3, 3))) > 0
    seen_hw &= ~thin_hw
    # Softened like a body, they would be half transparent.
    soft_hw = np.where(thin_hw, np.clip(0.5 + STEEPER * (soft_hw - 0.5), 0, 1), soft_hw)
    trust_hw = np.clip(length_hw / CONTRAST - 0.5, 0, 1) * seen_hw
    position_hw = np.clip(position_hw, 0, 1)
    # Facets of a part, or stripes of its background, may lie anywhere between the two means.
    off_hw = np.maximum(_spread(1 - position_hw, inner_hw), _spread(position_hw, ~outer_hw))
    trust_hw *= np.clip(2 - off_hw / PLAIN, 0, 1)
    farther_hw3, _ = mean_near(source_hw3, ~outer_hw, FARTHER_SIGMA)
    from_hw3 = object_hw3 - farther_hw3
    shaded_hw = _summed((background_hw3 - farther_hw3) * from_hw3)
    shaded_hw /= np.maximum(_summed(from_hw3**2), 1)
    # Smooth along the outline, or where the shadow begins it would be jagged.
    trust_hw *= cv2.GaussianBlur(np.clip(2 - shaded_hw / SHADED, 0, 1), (0, 0), NEAR_SIGMA)
    if even:
        # A steeper slope gives the blurred edge its sharpness back.
        position_hw = cv2.GaussianBlur(position_hw, (0, 0), SMOOTH)
        position_hw = np.clip(0.5 + STEEPER * (position_hw - 0.5), 0, 1)
    alpha_hw = trust_hw * position_hw + (1 - trust_hw) * soft_hw
    alpha_hw = np.where(inner_hw, 1, np.where(outer_hw, alpha_hw, 0))
    return alpha_hw.astype(np.float32)


def thin_pieces(mask_hw: np.ndarray, band: int) -> np.ndarray:
    """The pieces of a mask hardly wider than 2 * `band` pixels, (h, w) bool: legs, wires."""
    thin_hw = mask_hw & ~opened(mask_hw, band + 1)
    # Rounded corners of thick pieces are no thin pieces.
    _, labels_hw, stats, _ = cv2.connectedComponentsWithStats(thin_hw.astype(np.uint8))
    large = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= 4 * band * band)
    return with_labels(labels_hw, large[large > 0])


def _spread(off_hw: np.ndarray, where_hw: np.ndarray) -> np.ndarray:
    """How far the pixels of a region are off nearby, root mean square, (h, w)."""
    square_hw1 = np.square(off_hw)[..., None]
    spread_hw: np.ndarray = np.sqrt(mean_near(square_hw1, where_hw, NEAR_SIGMA)[0][..., 0])
    return spread_hw


def _summed(layers_hw3: np.ndarray) -> np.ndarray:
    """The sum of three channels; NumPy's own sum over so short an axis is ten times slower."""
    total_hw: np.ndarray = layers_hw3[..., 0] + layers_hw3[..., 1] + layers_hw3[..., 2]
    return total_hw


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
    return blur_hw3 / np.maximum(total_hw1, 1e-6), total_hw1

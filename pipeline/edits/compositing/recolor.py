"""Recolour an object in CIELAB, keeping its shading, highlights and sensor noise.

Lightness is scaled, as a change of albedo would do (shading is a factor), but highlights stay
white, because they have the colour of the lamp. Chroma is rotated and scaled, so a pattern stays a
pattern. What a grey object lacks is added as a tint that fades out towards black and white.

Shapes: h, w window; 3 colour; 2 CIELAB a and b.
"""

import cv2
import numpy as np

from pipeline.imaging.noise import HIGH_PASS_SIGMA

# Bounds of the wanted chroma when only a hue is given: grey objects become coloured ones.
CHROMA = (32.0, 70.0)
# Bounds of the wanted lightness then: colour is invisible on black and white.
LIGHTNESS = (35.0, 80.0)
# Bounds of the factor on an object's own chroma; the rest is added as tint.
SCALE = (0.4, 1.6)
# Mean chroma up to which an object is grey, so that its hue is arbitrary: a rotation would turn
# what is coloured on it, such as a copper ring, into any other colour. And that of a wanted grey.
GREY, WANTED_GREY = 12.0, 5.0
# Bounds of the factor on lightness: outside, too few grey levels of the object would be left.
DARKEST = 0.45
BRIGHTEST = 2.2
# Lightness above the object's mean from which a pixel counts as highlight.
HIGHLIGHT = 18.0
# Lightness that the rest of an object reaches at most, so that highlights still differ from it.
BELOW_WHITE = 75.0


def recoloured(
    pixels_hw3: np.ndarray,
    where_hw: np.ndarray,
    lab: tuple[float, float, float] | None = None,
    hue: float | None = None,
) -> np.ndarray:
    """The image with the region's mean colour moved to `lab`, or its hue rotated by `hue` degrees.

    `pixels_hw3` and the result are float32 RGB 0-255. Every pixel is recoloured as if it belonged
    to the object; the caller blends with alpha. Exactly one of `lab` and `hue` is given.
    """
    lab_hw3 = cv2.cvtColor(pixels_hw3.astype(np.float32, copy=False) / 255, cv2.COLOR_RGB2LAB)
    # Scale the smoothed lightness only, and add the noise back unscaled.
    base_hw = cv2.GaussianBlur(lab_hw3, (0, 0), HIGH_PASS_SIGMA)[..., 0].copy()
    noise_hw = lab_hw3[..., 0] - base_hw
    mean_3 = lab_hw3[where_hw].mean(0)
    wanted_3 = _in_hue(mean_3, hue) if lab is None else np.asarray(lab, np.float32)
    lightness_hw = _scaled_lightness(base_hw, float(mean_3[0]), float(wanted_3[0]))
    rotated_hw2 = _rotated_chroma(lab_hw3[..., 1:], mean_3[1:], wanted_3[1:])
    # The tint is 0 on black and white and 1 at mid grey; normalised so that the mean is reached.
    weight_hw = np.clip(4 * lightness_hw * (100 - lightness_hw) / 1e4, 0, 1)
    tint_2 = wanted_3[1:] - rotated_hw2[where_hw].mean(0)
    tint_hw2 = tint_2 * (weight_hw / max(0.25, float(weight_hw[where_hw].mean())))[..., None]
    rotated_hw2 += tint_hw2
    result_hw3 = np.dstack([np.clip(lightness_hw + noise_hw, 0, 100), rotated_hw2])
    # In place, and nothing for longer than it is needed: a large image takes 12 bytes per pixel.
    del lab_hw3, rotated_hw2, tint_hw2
    recoloured_hw3 = cv2.cvtColor(result_hw3.astype(np.float32, copy=False), cv2.COLOR_LAB2RGB)
    np.clip(recoloured_hw3, 0, 1, out=recoloured_hw3)
    recoloured_hw3 *= 255
    return recoloured_hw3


def _in_hue(mean_3: np.ndarray, hue: float | None) -> np.ndarray:
    """The wanted CIELAB colour after a rotation of the hue, in visible bounds."""
    angle = np.arctan2(mean_3[2], mean_3[1]) + np.deg2rad(hue or 0.0)
    chroma = np.clip(np.hypot(mean_3[1], mean_3[2]), *CHROMA)
    lightness = np.clip(mean_3[0], *LIGHTNESS)
    return np.array([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], np.float32)


def _scaled_lightness(lightness_hw: np.ndarray, mean: float, wanted: float) -> np.ndarray:
    """Lightness times a factor; highlights end at white, where they began."""
    factor = float(np.clip(wanted / max(mean, 1.0), DARKEST, BRIGHTEST))
    start = min(95.0, mean + HIGHLIGHT)
    factor = max(min(factor, BELOW_WHITE / start), DARKEST)
    shine_hw = np.clip((lightness_hw - start) / (100 - start), 0, 1)
    if factor <= 1:
        return factor * lightness_hw + (100 - factor * 100) * shine_hw**2
    # Brightened, most highlights would be beyond white, and bright pieces of a dark object (its
    # legs) one white area: they share what is left between the brightest part of it and white.
    return factor * np.minimum(lightness_hw, start) + (100 - factor * start) * shine_hw


def _rotated_chroma(ab_hw2: np.ndarray, mean_2: np.ndarray, wanted_2: np.ndarray) -> np.ndarray:
    """The a and b channels rotated and scaled so that `mean_2` comes near `wanted_2`."""
    have, want = float(np.hypot(*mean_2)), float(np.hypot(*wanted_2))
    angle = np.arctan2(wanted_2[1], wanted_2[0]) - np.arctan2(mean_2[1], mean_2[0])
    angle = angle if have > GREY and want > WANTED_GREY else 0.0
    scale = float(np.clip(want / max(have, 1e-3), *SCALE))
    turn_22 = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ab_hw2 @ turn_22.T.astype(np.float32)

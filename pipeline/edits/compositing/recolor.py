"""A part in another colour: in CIELAB, with its shading, its highlights and its grain kept.

Lightness is scaled as paint would scale it (shading is a factor), but a highlight stays white, for
it is the lamp's colour. Colour is turned and scaled like the part's own, so a pattern stays a
pattern; what a grey part lacks is added as a tint that fades towards black and white.
"""

import cv2
import numpy as np

from pipeline.imaging.noise import HIGH_PASS_SIGMA

CHROMA = (32.0, 70.0)
"""Bounds of the chroma of a part in another hue: a grey part becomes a coloured one."""
LIGHTNESS = (35.0, 80.0)
"""Bounds of its lightness: colour does not show on black or white."""
SCALE = (0.4, 1.6)
"""Bounds of the factor on a part's own chroma; the rest is tint."""
DARKEST = 0.45
"""Smallest factor on lightness; below it the picture has too few grey levels of the part left."""
BRIGHTEST = 2.2
HIGHLIGHT = 18.0
"""Lightness above the part's mean from which on a pixel is highlight and no longer paint."""


def recoloured(
    pixels_hw3: np.ndarray,
    where_hw: np.ndarray,
    lab: tuple[float, float, float] | None = None,
    hue: float | None = None,
) -> np.ndarray:
    """The picture with the region's mean colour moved to `lab`, or its hue turned by `hue` degrees.

    `pixels_hw3` and the result are float32 RGB 0-255; every pixel is recoloured as if it were of
    the part, the caller blends. Exactly one of `lab` and `hue` is given.
    """
    lab_hw3 = cv2.cvtColor(pixels_hw3.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    base_hw3 = cv2.GaussianBlur(lab_hw3, (0, 0), HIGH_PASS_SIGMA)
    grain_hw3 = lab_hw3 - base_hw3
    mean_3 = lab_hw3[where_hw].mean(0)
    wanted_3 = _in_hue(mean_3, hue) if lab is None else np.asarray(lab, np.float32)
    lightness_hw = _painted(base_hw3[..., 0], float(mean_3[0]), float(wanted_3[0]))
    turned_hw2 = _turned(lab_hw3[..., 1:], mean_3[1:], wanted_3[1:])
    weight_hw = np.clip(4 * lightness_hw * (100 - lightness_hw) / 1e4, 0, 1)
    tint_2 = wanted_3[1:] - turned_hw2[where_hw].mean(0)
    tint_hw2 = tint_2 * (weight_hw / max(0.25, float(weight_hw[where_hw].mean())))[..., None]
    result_hw3 = np.dstack([lightness_hw + grain_hw3[..., 0], turned_hw2 + tint_hw2])
    result_hw3[..., 0] = np.clip(result_hw3[..., 0], 0, 100)
    painted_hw3 = cv2.cvtColor(result_hw3.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.clip(painted_hw3, 0, 1) * 255


def _in_hue(mean_3: np.ndarray, hue: float | None) -> np.ndarray:
    angle = np.arctan2(mean_3[2], mean_3[1]) + np.deg2rad(hue or 0.0)
    chroma = np.clip(np.hypot(mean_3[1], mean_3[2]), *CHROMA)
    lightness = np.clip(mean_3[0], *LIGHTNESS)
    return np.array([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], np.float32)


def _painted(lightness_hw: np.ndarray, mean: float, wanted: float) -> np.ndarray:
    """Lightness times a factor, bent back to white where the part shines."""
    factor = float(np.clip(wanted / max(mean, 1.0), DARKEST, BRIGHTEST))
    start = min(95.0, mean + HIGHLIGHT)
    shine_hw = np.clip((lightness_hw - start) / (100 - start), 0, 1) ** 2
    return factor * lightness_hw + (100 - factor * 100) * shine_hw


def _turned(ab_hw2: np.ndarray, mean_2: np.ndarray, wanted_2: np.ndarray) -> np.ndarray:
    """The a and b axes turned and scaled so that one mean colour comes near the other."""
    have, want = float(np.hypot(*mean_2)), float(np.hypot(*wanted_2))
    angle = np.arctan2(wanted_2[1], wanted_2[0]) - np.arctan2(mean_2[1], mean_2[0])
    angle = angle if min(have, want) > 5 else 0.0  # a grey's hue is an accident
    scale = float(np.clip(want / max(have, 1e-3), *SCALE))
    turn_22 = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ab_hw2 @ turn_22.T.astype(np.float32)

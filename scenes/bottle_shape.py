"""The bottle as a turned body: its outline, its glass, the lamp's strips on it."""

import numpy as np

from scenes.planes import tint, triple
from scenes.shapes import Patch, ramp
from scenes.stage import Sprite, Stage

Array = np.ndarray
# The patch of the bottle is centred here; its y is measured from this height.
AXIS_Y = 0.5
BODY = 0.158
# Height (y from AXIS_Y, negative is up) and radius along the bottle: mouth, thread collar, neck,
# shoulder, straight body, foot.
_KNOTS = [
    (-0.40, 0.052),
    (-0.352, 0.052),
    (-0.349, 0.060),
    (-0.336, 0.060),
    (-0.333, 0.054),
    (-0.29, 0.055),
    (-0.25, 0.066),
    (-0.21, 0.098),
    (-0.175, 0.130),
    (-0.145, 0.148),
    (-0.11, 0.1565),
    (-0.07, BODY),
    (0.345, BODY),
    (0.368, 0.152),
    (0.382, 0.136),
]


def _table() -> tuple[Array, Array]:
    """The profile, smoothed: moulded glass has no corners."""
    y = np.linspace(-0.5, 0.5, 16001)
    heights, radii = zip(*_KNOTS, strict=True)
    r = np.interp(y, heights, radii)
    # A Gaussian over 201 of 16001 samples: about 1 % of the image height.
    kernel = np.exp(-(np.linspace(-2.5, 2.5, 201) ** 2) / 2)
    smooth = np.convolve(np.pad(r, 100, mode="edge"), kernel / kernel.sum(), mode="valid")
    return y.astype(np.float32), smooth.astype(np.float32)


_Y, _R = _table()
_SLOPE = np.gradient(_R, _Y).astype(np.float32)


def outline(p: Patch, y: Array) -> tuple[Array, Array]:
    """Distance to the silhouette (negative inside), and radius at that height."""
    # A table lookup by index is much faster than np.interp for every pixel.
    place = np.clip((y + 0.5) * (len(_Y) - 1) + 0.5, 0, len(_Y) - 1).astype(np.int32)
    radius, slope = np.take(_R, place), np.take(_SLOPE, place)
    # Scaled by the wall's slope, the horizontal distance becomes the distance to the wall.
    side = (np.abs(p.x_HW) - radius) / np.sqrt(1 + slope * slope)
    return np.maximum(side, np.maximum(-0.392 - y, y - 0.382)), radius


def strips(stage: Stage, t: Array, inside: Array, y: Array) -> Array:
    """Reflections of the lamp: a tall soft strip on its side, a thin one on the other."""
    side = -1.0 if stage.light.x < 0 else 1.0
    along = ramp(y, -0.34, -0.20) * (1 - ramp(y, 0.30, 0.37))
    main = 0.50 * ramp(0.085 - np.abs(t - side * 0.60), 0, 0.05)
    thin = 0.22 * ramp(0.035 - np.abs(t + side * 0.80), 0, 0.03)
    # On the shoulder the strips bend inwards and fade.
    return (main + thin) * (0.25 + 0.75 * along) * inside


def glass(stage: Stage) -> Sprite:
    """Thin clear glass: dark refracting sides, a hint of green, the lamp's strips."""
    p = stage.patch(0.5, AXIS_Y, 0.46, over=1, narrow=0.18)
    d, radius = outline(p, p.y_HW)
    t = np.clip(p.x_HW / radius, -1, 1)
    # Glass refracts strongly near its silhouette only.
    rim = np.abs(t) ** 7
    inside = p.cover(d)
    # The thick bottom is darker.
    foot = np.exp(-(((p.y_HW - 0.366) / 0.012) ** 2)) * 0.45
    # The open mouth, seen when the cap is gone: a lip and two turns of thread.
    sag = p.y_HW + 0.006 * np.sqrt(np.maximum(1 - t * t, 0))
    mouth = sum(np.exp(-(((sag + k) / 0.0022) ** 2)) for k in (0.384, 0.372, 0.360))
    shine = strips(stage, t, inside, p.y_HW)
    alpha = np.clip(0.10 + 0.62 * rim + foot + shine + 0.4 * mouth, 0, 0.95)
    dark = np.array([0.075, 0.095, 0.09], np.float32)
    # `alpha` mixes dark glass and bright reflections; this is the reflections' share of it.
    lightness = shine / np.maximum(alpha, 1e-3)
    # A thin bright line inside the silhouette, where glass guides light.
    edge = np.exp(-(((np.abs(t) - 0.93) / 0.025) ** 2)) * 0.45
    rgb = tint(1 - lightness, dark) + triple(lightness + edge * 0.5 + 0.25 * mouth)
    return Sprite(p, rgb, alpha * inside)

"""The two paper labels of the bottle: a fruit icon, and lines of print. Both wrap the glass."""

import math
from functools import lru_cache

import cv2
import numpy as np

from scenes.bottle_shape import BODY
from scenes.lighting import lit
from scenes.materials import fractal, jitter, linear
from scenes.planes import WHITE, mix, tint, triple
from scenes.records import Part
from scenes.shapes import Patch, box, capsule, circle, ramp
from scenes.stage import Sprite, Stage

Array = np.ndarray
FRUITS = ("orange", "cherry", "lime")
# Half width and height of each label on the glass, in product-frame units.
HALF = {"label": (0.112, 0.112), "text": (0.118, 0.062)}


def paint_label(stage: Stage, part: Part) -> Sprite:
    """Paper on a cylinder: the print is foreshortened and darker towards the sides."""
    rng = np.random.default_rng(part.seed)
    kind = "text" if part.name == "text_label" else "label"
    half_x, half_y = HALF[kind]
    p = stage.long_patch(part.x, part.y, half_x + 0.006, half_y + 0.010, part.angle)
    x = p.x_HW
    # Seen from slightly above, horizontal lines sag in the middle.
    y = p.y_HW - 0.008 * (np.sqrt(np.maximum(1 - (x / BODY) ** 2, 0)) - 0.85)
    t = np.clip(x / BODY, -0.99, 0.99)
    # `u` is the arc length on the glass: print is laid out in (u, y), pixels lie in (x, y).
    u = np.arcsin(t) * BODY
    d = box(x, y, half_x, half_y, 0.014 if kind == "label" else 0.006)
    paper = jitter(rng, linear("#ece7d8"), 0.03)
    # Faint paper texture.
    mottle = 1 + 0.025 * fractal(rng, p.shape, 50, 50, 2)
    albedo = tint(mottle, paper)
    if kind == "label":
        albedo = _icon(p, albedo, u, y, part.name.removeprefix("label_"))
    else:
        albedo = _print(albedo, u, y, half_x * 1.13, half_y)
    alpha, flaw = p.cover(d), None
    if part.flaw == "torn":
        # The tear takes one upper or lower corner, along a slanted noisy line.
        side = -1.0 if rng.random() < 0.5 else 1.0
        rip = (side * x + y * rng.uniform(0.5, 1.2)) / half_x - 0.72
        rip = rip + 0.12 * fractal(rng, p.shape, 5, 5, 4)
        gone = ramp(rip, -0.01, 0.01)
        # Torn paper shows white fibres beside the missing area.
        fibre = ramp(rip, -0.09, -0.06) * (1 - gone)
        albedo = mix(albedo, 0.92 * WHITE, fibre)
        # The region holds both what is missing and the torn border.
        flaw = alpha * np.maximum(gone, fibre)
        alpha = alpha * (1 - gone)
    elif part.flaw == "smudged":
        cx, cy = half_x * rng.uniform(-0.5, 0.5), half_y * rng.uniform(-0.5, 0.5)
        # An irregular blot, wider than high, as a wiping finger leaves it.
        m = np.hypot((x - cx) / 0.055, (y - cy) / 0.026) + 0.45 * fractal(rng, p.shape, 5, 4, 3)
        smear = ramp(1 - m, -0.08, 0.25) * alpha
        albedo = mix(albedo, linear("#3b2f2a"), 0.85 * smear)
        flaw = smear
    # Normals of a cylinder.
    n = (t, np.zeros_like(t), np.sqrt(1 - t * t))
    rgb = lit(albedo, n, stage.light, 0.05, 12)
    # The cut edge of the paper is slightly darker.
    edge = np.exp(-(((d + 0.0015) / 0.0014) ** 2))
    return Sprite(p, rgb * triple(1 - 0.15 * edge), alpha, flaw, lift=0.0022, shadow=0.45)


def _icon(p: Patch, albedo: Array, u: Array, y: Array, fruit: str) -> Array:
    """A printed fruit in a thin frame, with a brand line above."""
    frame = p.cover(np.abs(box(u, y, 0.112, 0.101, 0.010)) - 0.0014)
    albedo = mix(albedo, linear("#7b6a48"), 0.8 * frame)
    leaf_green, stem_brown = linear("#4c7a2a"), linear("#5a4323")

    def leaf(cx: float, cy: float, turn: float, size: float) -> Array:
        c, s = math.cos(turn), math.sin(turn)
        a, b = c * (u - cx) + s * (y - cy), c * (y - cy) - s * (u - cx)
        # A pointed leaf is the intersection of two circles.
        return p.cover(np.maximum(circle(a, b - 0.7 * size, size), circle(a, b + 0.7 * size, size)))

    def ball(cx: float, cy: float, r: float, colour: Array) -> Array:
        k = np.clip(np.hypot(u - cx, y - cy) / r, 0, 1)
        # A printed sphere: darker towards the rim, with a highlight at the upper left.
        shade = 1.08 - 0.35 * k**2
        gleam = 0.55 * np.exp(-((np.hypot(u - cx + 0.35 * r, y - cy + 0.35 * r) / (0.28 * r)) ** 2))
        painted = mix(tint(shade, colour), WHITE, gleam)
        return mix(albedo, painted, p.cover(circle(u - cx, y - cy, r)))

    if fruit == "orange":
        albedo = ball(0.0, 0.016, 0.060, linear("#ee7d0c"))
        albedo = mix(albedo, leaf_green, leaf(0.028, -0.050, -0.5, 0.034))
        albedo = mix(albedo, stem_brown, p.cover(capsule(u, y, 0, -0.045, 0.002, -0.058, 0.003)))
    elif fruit == "cherry":
        for cx, cy in ((-0.034, 0.034), (0.036, 0.022)):
            stem = capsule(u, y, cx, cy - 0.030, 0.010, -0.062, 0.0022)
            albedo = mix(albedo, stem_brown, p.cover(stem))
            albedo = ball(cx, cy, 0.036, linear("#a50e22"))
        albedo = mix(albedo, leaf_green, leaf(0.038, -0.058, 0.2, 0.034))
    else:
        cx, cy, r = 0.0, 0.012, 0.062
        # The lime is shown as a slice: peel, pith, eight segments of pulp.
        k = np.hypot(u - cx, y - cy) / r
        theta = np.arctan2(y - cy, u - cx)
        albedo = mix(albedo, linear("#5f8f1f"), p.cover(circle(u - cx, y - cy, r)))
        albedo = mix(albedo, linear("#eef2cf"), ramp(0.88 - k, 0, 0.03))
        wedge = np.abs(((theta * 8 / (2 * np.pi)) % 1) - 0.5) * k
        pulp = ramp(0.80 - k, 0, 0.03) * ramp(0.5 * k - wedge, 0.02, 0.045) * ramp(k, 0.10, 0.14)
        albedo = mix(albedo, linear("#b7d04a"), pulp)
    underline = p.cover(box(u, y - 0.089, 0.05, 0.0014))
    return mix(albedo, linear("#7b6a48"), underline)


def _print(albedo: Array, u: Array, y: Array, half_x: float, half_y: float) -> Array:
    """Sample the printed text at label coordinates."""
    # Look the ink up in the prepared bitmap: print is resampled, not drawn per label.
    text = _text()
    column = (u / half_x * 0.5 + 0.5) * text.shape[1]
    row = (y / half_y * 0.5 + 0.5) * text.shape[0]
    ink = cv2.remap(text, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR)
    return mix(albedo, linear("#2c3a2c"), ink)


@lru_cache(maxsize=1)
def _text() -> Array:
    """The text label's ink (0-1), soft enough for the scale at which it is seen."""
    ink = np.zeros((240, 480), np.uint8)
    font = cv2.FONT_HERSHEY_DUPLEX
    for words, y, scale, weight in (
        ("100% JUICE", 88, 2.1, 5),
        ("NO ADDED SUGAR", 140, 1.05, 3),
        ("0.5 L  PASTEURISED", 184, 0.85, 2),
    ):
        (width, _), _ = cv2.getTextSize(words, font, scale, weight)
        cv2.putText(ink, words, ((480 - width) // 2, y), font, scale, 255, weight, cv2.LINE_AA)
    cv2.rectangle(ink, (40, 206), (440, 211), 255, -1)
    return cv2.GaussianBlur(ink, (0, 0), 0.8).astype(np.float32) / 255

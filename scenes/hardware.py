"""Bolts, nuts and washers lying flat: every body is a height map with metal shading."""

import math

import numpy as np

from scenes.lighting import metal, normals
from scenes.materials import fractal, linear, noise
from scenes.planes import mix, tint, triple
from scenes.records import Part
from scenes.shapes import box, circle, hexagon, ramp
from scenes.stage import Sprite, Stage

Array = np.ndarray
# Whole length with head, in product-frame units.
LENGTHS = {"long_bolt": 0.40, "short_bolt": 0.25}
# Radius of the shaft, half width of the head across corners, length of the head.
SHAFT, HEAD, HEAD_LENGTH = 0.0225, 0.041, 0.040
# Half width of the nut across flats, outer radius of the washer, radius of its hole.
NUT, WASHER, HOLE = 0.041, 0.050, 0.0245
# Linear colour of zinc plating: slightly blue.
ZINC = np.array([0.95, 0.97, 1.0], np.float32)


def bolt(stage: Stage, part: Part) -> Sprite:
    """A hexagon-head bolt on its side: facets, collar, unthreaded shank, thread, chamfered tip."""
    rng = np.random.default_rng(part.seed)
    length = LENGTHS[part.name]
    bent = part.flaw == "bent"
    # A bent bolt leaves its straight outline, so its window is wider.
    p = stage.long_patch(part.x, part.y, length / 2 + 0.02, 0.11 if bent else 0.05, part.angle)
    x, y = p.x_HW + length / 2, p.y_HW
    if bent:
        # The shaft follows a parabola behind its middle, towards the inside of the bag.
        inward = (0.5 - part.x) * -math.sin(part.angle) + (0.55 - part.y) * math.cos(part.angle)
        side = -1.0 if inward > 0 else 1.0
        y = y + side * 0.50 * np.maximum(x - 0.36 * length, 0) ** 2 / length
    r = np.float32(SHAFT)
    # The first fifth of the shaft behind the head has no thread.
    thread_from = HEAD_LENGTH + 0.22 * (length - HEAD_LENGTH)
    pitch = 0.0125
    # Half a turn across the shaft: seen from above, threads run at a slant.
    phase = (x - thread_from) / pitch + 0.5 * y / r
    # Triangular profile, 0 to 1.
    tooth = np.abs(phase - np.floor(phase) - 0.5) * 2
    cut = ramp(x, thread_from - 0.004, thread_from + 0.006)
    radius = r * (1 - cut * (0.02 + 0.17 * tooth))
    # Chamfered tip.
    radius = radius * (1 - 0.32 * ramp(x, length - 0.016, length))
    # The silhouette follows the mean of the thread; drawing every tooth there would alias.
    outline = r * (1 - cut * 0.06) * (1 - 0.32 * ramp(x, length - 0.016, length))
    shaft = np.maximum(np.abs(y) - outline, np.maximum(HEAD_LENGTH - x, x - length))
    shaft_height = np.sqrt(np.maximum(radius**2 - y * y, 0))
    # Hexagon across its corners: one flat facet up, two falling away.
    turn = rng.uniform(-0.25, 0.25) * HEAD
    facet = np.minimum(0.866 * HEAD, (HEAD - np.abs(y - turn * 0.4)) * 1.7)
    chamfer = 0.010 * ramp(0.012 - x, 0, 0.012) + 0.004 * ramp(x - HEAD_LENGTH + 0.005, 0, 0.005)
    head = box(x - HEAD_LENGTH / 2, y, HEAD_LENGTH / 2, HEAD, 0.004)
    head_height = np.maximum(facet, 0.1 * HEAD) - chamfer
    on_head = head < 0
    height = np.where(on_head, head_height, shaft_height)
    # Fine unevenness breaks up the reflection.
    height = height + 0.0004 * fractal(rng, p.shape, 22, 22, 2)
    d = np.minimum(shaft, head)
    # Thread valleys are dark.
    tone = np.where(on_head, 0.95, 1 - 0.50 * cut * tooth**2)
    # The head shades the first bit of the shank.
    tone = tone * (1 - 0.45 * (~on_head) * np.exp(-np.maximum(x - HEAD_LENGTH, 0) / 0.006))
    rgb = metal(normals(height, p.unit), stage.light, ZINC) * triple(tone)
    alpha = p.cover(d)
    flaw = alpha if bent else None
    return Sprite(p, rgb, alpha, flaw, lift=0.026, shadow=0.62)


def nut(stage: Stage, part: Part) -> Sprite:
    """A hexagon nut, face up: turned chamfer, threaded hole that shows the background."""
    rng = np.random.default_rng(part.seed)
    p = stage.patch(part.x, part.y, NUT * 1.25, part.angle)
    x, y = p.x_HW, p.y_HW
    outer, rad = hexagon(x, y, NUT), np.sqrt(x * x + y * y)
    bore = HOLE * 0.98
    d = np.maximum(outer, bore - rad)
    # The turned chamfer cuts the six corners.
    height = -0.55 * np.maximum(rad - 0.98 * NUT, 0)
    height = height - 0.006 * ramp(outer, -0.004, 0.0)
    # The wall of the hole, with thread lines.
    sunk = ramp(bore + 0.006 - rad, 0, 0.006)
    height = height - 0.008 * sunk - 0.0012 * np.sin(rad / 0.0024) * (sunk > 0.2)
    theta = np.arctan2(y, x)
    height = height + 0.00010 * noise(rng, p.shape, 24, 24)
    n = normals(height, p.unit)
    # Turning marks are anisotropic: two opposite bright fans that follow the tool.
    turned = 1 + 0.28 * np.cos(2 * (theta - rng.uniform(0, 3.14))) + 0.05 * np.sin(rad / 0.0006)
    tone = 0.92 * np.where(rad < NUT * 0.98, turned, 1.05) * (1 - 0.5 * sunk)
    rgb = metal(n, stage.light, ZINC) * triple(tone)
    flaw = None
    if part.flaw == "rust":
        # Rust covers one side, with a noisy border.
        rust = ramp(fractal(rng, p.shape, 4, 4, 4) + 0.5 * x / NUT, -0.25, 0.35)
        brown = tint(0.8 + 0.5 * fractal(rng, p.shape, 24, 24, 2), linear("#8a4a1e"))
        rgb = mix(rgb, brown, 0.95 * rust)
        flaw = rust * p.cover(d)
    return Sprite(p, rgb, p.cover(d), flaw, lift=0.019, shadow=0.66)


def washer(stage: Stage, part: Part) -> Sprite:
    """A stamped ring with one rounded edge; turned metal shows two opposite bright fans."""
    rng = np.random.default_rng(part.seed)
    p = stage.patch(part.x, part.y, WASHER * 1.15, part.angle)
    x, y = p.x_HW, p.y_HW
    rad = np.sqrt(x * x + y * y)
    d = np.maximum(circle(x, y, WASHER), HOLE - rad)
    # Stamping rounds the upper edge.
    height = 0.004 * ramp(-d, 0, 0.0045) + 0.00008 * noise(rng, p.shape, 22, 22)
    theta = np.arctan2(y, x)
    fan = rng.uniform(0, 3.14)
    # Two opposite fans and fine concentric lines.
    tone = 0.95 + 0.38 * np.cos(2 * (theta - fan)) + 0.07 * np.sin(rad / 0.0008)
    alpha = p.cover(d)
    flaw = None
    if part.flaw == "cracked":
        # A wedge has broken out; the region is the missing metal.
        jag = 0.12 * noise(rng, p.shape, 12, 12)
        gone = ramp(0.42 - np.abs(theta) + jag, -0.05, 0.05)
        flaw = alpha * gone
        alpha = alpha * (1 - gone)
    rgb = metal(normals(height, p.unit), stage.light, ZINC) * triple(0.95 * tone)
    return Sprite(p, rgb, alpha, flaw, lift=0.010, shadow=0.68)


PAINT = {"long_bolt": bolt, "short_bolt": bolt, "nut": nut, "washer": washer}

"""A moulded plastic body with recessed cells: the tray and the compartment box."""

from collections.abc import Sequence

import cv2
import numpy as np

from scenes.lighting import diffuse, highlight, normals
from scenes.materials import Rng, fractal
from scenes.planes import tint, triple
from scenes.shapes import Patch, box, dome, ramp
from scenes.stage import Sprite, Stage

Array = np.ndarray
# x0, y0, x1, y1 in the product frame.
Cell = tuple[float, float, float, float]


def cells_distance(stage: Stage, patch: Patch, cells: Sequence[Cell], corner: float) -> Array:
    """Distance to the nearest recess, computed around each recess only; elsewhere it is 0.2."""
    nearest = np.full(patch.shape, 0.2, np.float32)
    for x0, y0, x1, y1 in cells:
        half_x, half_y = (x1 - x0) / 2, (y1 - y0) / 2
        # Each recess gets a window of its own with a margin of 0.02: outside it the distance has no
        # effect on the drawing.
        p = stage.patch((x0 + x1) / 2, (y0 + y1) / 2, max(half_x, half_y) + 0.02, over=1)
        top, left = p.top - patch.top, p.left - patch.left
        window = nearest[max(0, top) : top + p.height, max(0, left) : left + p.width]
        d = box(p.x_HW, p.y_HW, half_x, half_y, corner)
        # Crop the window where it leaves the patch.
        d = d[max(0, -top) :, max(0, -left) :][: window.shape[0], : window.shape[1]]
        np.minimum(window, d, out=window)
    return nearest


def moulded(
    stage: Stage,
    rng: Rng,
    half: tuple[float, float],
    cells: Sequence[Cell],
    colour_3: Array,
    depth: float,
    wall: float,
    corner: float = 0.03,
    rim: float = 0.012,
    lip: float = 0.0,
    gloss: float = 0.25,
) -> None:
    """Draw the body: rim, sloped walls, floors with the rim's shadow and corner occlusion.

    `half` is half width and height, `depth` the depth of a recess, `wall` the horizontal extent of
    its sloped wall, `lip` the height of a raised bead around the outer edge (0: none).
    """
    light = stage.light
    patch = stage.long_patch(0.5, 0.5, half[0] + 0.01, half[1] + 0.01, 0.0, over=1)
    outer = box(patch.x_HW, patch.y_HW, half[0], half[1], corner * 1.6)
    inner = cells_distance(stage, patch, cells, corner)
    # 0 on the rim, 1 on the floor of a recess.
    floor = ramp(-inner, 0.0, wall)
    height = dome(outer, rim, rim) - depth * floor
    if lip:
        height += lip * np.exp(-(((outer + 2.2 * lip) / lip) ** 2))
    # Moulded surfaces are slightly wavy.
    height += 0.0006 * fractal(rng, patch.shape, 5, 5, 2)
    n = normals(height, patch.unit)
    # The rim's shadow on the floor: where the floor, moved along the light, no longer covers
    # itself.
    scale = stage.size * stage.pose.scale
    length = depth * scale / light.z * 0.75
    move = np.array([[1, 0, -light.x * length], [0, 1, -light.y * length]], np.float32)
    size = (patch.shape[1], patch.shape[0])
    open_HW = cv2.warpAffine(floor, move, size)
    open_HW = cv2.GaussianBlur(open_HW, (0, 0), 0.012 * scale * light.softness)
    shadow = floor * (1 - open_HW)
    # Ambient light reaches the corners of a recess less.
    corner_dark = floor * np.exp(inner / 0.022) * 0.30
    tone = (1 - 0.50 * shadow) * (1 - corner_dark)
    texture = 1 + 0.012 * fractal(rng, patch.shape, 90, 90, 2)
    rgb = tint(texture * tone * diffuse(n, light), colour_3)
    # Shadowed floors do not reflect the lamp.
    rgb += triple(gloss * highlight(n, light, 60) * (1 - shadow))
    stage.put(Sprite(patch, rgb, patch.cover(outer), lift=0.022, shadow=0.6))


def stain(
    stage: Stage, rng: Rng, x: float, y: float, radius: float, colour_3: Array, region: int
) -> None:
    """A dried spill with a dark rim and a few splashes."""
    patch = stage.patch(x, y, radius * 1.9)
    px, py = patch.x_HW, patch.y_HW
    # An irregular outline.
    wobble = fractal(rng, patch.shape, 4, 4, 3)
    d = np.sqrt((px * rng.uniform(0.85, 1.2)) ** 2 + (py * rng.uniform(0.85, 1.2)) ** 2)
    d = d - radius * (0.85 + 0.35 * wobble)
    # Four splashes around the spill.
    for _ in range(4):
        angle, far = rng.uniform(0, 6.28), rng.uniform(1.15, 1.6) * radius
        drop = np.hypot(px - far * np.cos(angle), py - far * np.sin(angle))
        d = np.minimum(d, drop - radius * rng.uniform(0.04, 0.12))
    inside = ramp(-d, -2 * patch.unit, 2 * patch.unit)
    # Drying liquid leaves its pigment at the rim.
    rim = np.exp(-((d / (0.12 * radius)) ** 2))
    alpha = inside * np.clip(0.55 + 0.35 * rim + 0.15 * wobble, 0, 0.92)
    shrink = (patch.width, patch.height)
    stage.blend(patch, np.asarray(colour_3, np.float32), alpha)
    stage.mark(region, patch, cv2.resize(inside, shrink, interpolation=cv2.INTER_AREA) > 0.5)

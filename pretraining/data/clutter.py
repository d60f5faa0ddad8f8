"""Random pictures of random parts, painted layer by layer, with everything about them known.

A model that has only seen our rendered products would learn those products. Clutter has no
meaning: shapes, surfaces, light, shadows and camera faults are drawn from wide ranges, so what is
left to learn is what an object is. Inspection pictures (one part in the middle of a plain ground,
a bottle mouth from above, a part with legs on a perforated board) are drawn often on purpose.
Shapes: H, W picture; h, w the patch of one object; 3 colour (RGB).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from pretraining.data.textures import (
    GROUNDS,
    SURFACES,
    board,
    clouds,
    colour,
    noise,
    photo,
    plain,
    texture,
)

Outline = list[np.ndarray]
"""Polygons (P, 2) in units of the object's radius; the first is solid, the rest take turns."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One painted object: a patch at (y, x) with its cover, and the shade that it throws."""

    y: int
    x: int
    rgb_hw3: np.ndarray  # float32, 0-255
    alpha_hw: np.ndarray  # float32, 0-1
    shadow_hw: np.ndarray  # float32, 0-1: how much light it takes from what lies below


@dataclass(slots=True)
class Scene:
    """Layers from bottom to top over a ground; `carriers` layers at the bottom are no objects."""

    ground_HW3: np.ndarray
    layers: list[Layer] = field(default_factory=list)
    carriers: int = 0


# --- outlines --------------------------------------------------------------------------------


def _radial(radius_T: np.ndarray) -> np.ndarray:
    angle_T = np.linspace(0, 2 * np.pi, len(radius_T), endpoint=False)
    return np.stack([radius_T * np.cos(angle_T), radius_T * np.sin(angle_T)], 1)


def ellipse(rng: np.random.Generator) -> Outline:
    return [_radial(np.ones(72)) * [1, rng.choice([1.0, rng.uniform(0.35, 1)])]]


def rounded_polygon(rng: np.random.Generator) -> Outline:
    corners = int(rng.integers(3, 9))
    angle_T = np.linspace(0, 2 * np.pi, 144, endpoint=False)
    wedge_T = (angle_T % (2 * np.pi / corners)) - np.pi / corners
    radius_T = np.cos(np.pi / corners) / np.cos(wedge_T)
    soft = int(rng.integers(1, 24))
    around_T = np.concatenate([radius_T[-soft:], radius_T, radius_T[:soft]])
    radius_T = np.convolve(around_T, np.ones(2 * soft + 1) / (2 * soft + 1), "same")[soft:-soft]
    return [_radial(radius_T) * [1, rng.uniform(0.5, 1)]]


def gear(rng: np.random.Generator) -> Outline:
    angle_T = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    teeth = np.tanh(np.sin(angle_T * rng.integers(5, 24)) * rng.uniform(1, 6))
    depth = rng.uniform(0.04, 0.2)
    outline = [_radial(1 - depth + depth * teeth)]
    return [*outline, _radial(np.full(48, rng.uniform(0.15, 0.6)))]


def ring(rng: np.random.Generator) -> Outline:
    outer = (ellipse if rng.random() < 0.7 else rounded_polygon)(rng)[0]
    return [outer, outer * rng.uniform(0.35, 0.85)]


def blob(rng: np.random.Generator) -> Outline:
    angle_T = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius_T = np.ones(120)
    for wave in range(1, int(rng.integers(3, 9))):
        radius_T += rng.normal(0, 0.35 / wave) * np.sin(wave * angle_T + rng.uniform(0, 6.3))
    return [_radial(np.clip(radius_T, 0.25, None) / radius_T.max()) * [1, rng.uniform(0.5, 1)]]


def _bar(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def rod(rng: np.random.Generator) -> Outline:
    thick = rng.uniform(0.05, 0.3)
    outline = [_bar(-1, -thick, 1, thick)]
    if rng.random() < 0.5:  # a head makes it a screw, a nail, a bolt
        wide = thick * rng.uniform(1.4, 2.6)
        outline.append(_bar(-1, -wide, -1 + rng.uniform(0.1, 0.4), wide))
    return outline


def legged(rng: np.random.Generator) -> Outline:
    """A body with a few parallel legs, like a transistor or a plug."""
    wide, tall = rng.uniform(0.35, 0.7), rng.uniform(0.25, 0.55)
    legs, thick = int(rng.integers(2, 6)), rng.uniform(0.03, 0.08)
    outline = [_bar(-wide, -0.95, wide, -0.95 + 2 * tall)]
    for at in np.linspace(-wide * 0.75, wide * 0.75, legs):
        outline.append(_bar(at - thick, -0.95 + 1.9 * tall, at + thick, rng.uniform(0.85, 0.95)))
    return outline


def bracket(rng: np.random.Generator) -> Outline:
    thick = rng.uniform(0.15, 0.5)
    return [_bar(-0.9, -0.7, 0.9, -0.7 + thick), _bar(-0.9, -0.7, -0.9 + thick, 0.7)]


Shape = Callable[[np.random.Generator], Outline]
SHAPES: tuple[Shape, ...] = (
    ellipse, ellipse, rounded_polygon, rounded_polygon, gear, ring, blob, blob, rod, legged,
    bracket,
)  # fmt: skip
HOLED: tuple[Shape, ...] = (ring, gear)


def _raster(outline: Outline, radius: float, turn: float, side: int, holed: bool) -> np.ndarray:
    """Cover (side, side) float32 of an outline of this radius in the middle of the patch."""
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    cover = np.zeros((side, side), np.uint8)
    for number, polygon_P2 in enumerate(outline):
        points = np.round(((polygon_P2 @ spin) * radius + side / 2 - 0.5) * 16).astype(np.int32)
        value = 0 if holed and number else 255
        cv2.fillPoly(cover, [points], value, cv2.LINE_AA, 4)
    return cover.astype(np.float32) / 255


# --- one object ------------------------------------------------------------------------------


def _shade(rng: np.random.Generator, alpha_hw: np.ndarray, light_2: np.ndarray) -> np.ndarray:
    """Light on an invented relief, (h, w, 1): flat with a bevel, or a dome; sometimes glossy."""
    inside_hw = cv2.distanceTransform((alpha_hw > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    deepest = float(inside_hw.max()) + 1e-3
    bevel = rng.choice([rng.uniform(0.05, 0.3), 1.0])
    part_hw = np.minimum(inside_hw / (deepest * bevel), 1)
    height_hw = np.sqrt(1 - (1 - part_hw) ** 2) * deepest * bevel * rng.uniform(0.2, 1.0)
    if rng.random() < 0.3:
        rough_hw = noise(rng, alpha_hw.shape[0], alpha_hw.shape[1], 12)
        height_hw = height_hw + rough_hw * rng.uniform(0.2, 2)
    height_hw = cv2.GaussianBlur(height_hw, (0, 0), max(0.6, deepest * 0.04))
    slope_y, slope_x = np.gradient(height_hw)
    upright_hw = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    lit_hw = (slope_x * light_2[0] + slope_y * light_2[1] + 1) * upright_hw
    shade_hw = 1 + rng.uniform(0.15, 0.8) * (lit_hw - 1)
    gloss_hw = np.clip(lit_hw * 0.7, 0, 1) ** rng.integers(6, 40) * rng.choice([0.0, 0.0, 160.0])
    return np.dstack([shade_hw.clip(0.15, 1.8), gloss_hw]).astype(np.float32)


def paint(
    rng: np.random.Generator,
    outline: Outline,
    holed: bool,
    centre_yx: tuple[float, float],
    radius: float,
    light_2: np.ndarray,
    surface_hw3: np.ndarray | None = None,
    turn: float | None = None,
    shadow: float = 0.5,
) -> Layer:
    """Rasterise, colour and light one object; a given surface is resized to the patch."""
    reach = int(max(2, radius * 0.35))
    side = 2 * (int(np.ceil(radius)) + reach) + 2
    turn = rng.uniform(0, 2 * np.pi) if turn is None else turn
    alpha_hw = _raster(outline, radius, turn, side, holed)
    if surface_hw3 is None:
        surface_hw3 = texture(rng, side, side, SURFACES)
    rgb_hw3 = cv2.resize(surface_hw3, (side, side)).astype(np.float32)
    if rng.random() < 0.85:
        relief_hw2 = _shade(rng, alpha_hw, light_2)
        rgb_hw3 = rgb_hw3 * relief_hw2[..., :1] + relief_hw2[..., 1:]
    if rng.random() < 0.25:  # a drawn rim
        rim_hw = alpha_hw - cv2.erode(alpha_hw, np.ones((3, 3), np.uint8))
        rgb_hw3 += (colour(rng) - rgb_hw3) * rim_hw[..., None] * rng.uniform(0.3, 1)
    shift_x, shift_y = -light_2 * reach * 0.4
    moved = np.array([[1, 0, shift_x], [0, 1, shift_y]], np.float32)
    shadow_hw = cv2.warpAffine(alpha_hw, moved, (side, side))
    shadow_hw = cv2.GaussianBlur(shadow_hw, (0, 0), rng.uniform(0.15, 0.4) * reach + 0.3) * shadow
    y, x = round(centre_yx[0] - side / 2), round(centre_yx[1] - side / 2)
    return Layer(y, x, rgb_hw3.clip(0, 255), alpha_hw, shadow_hw)


# --- whole pictures --------------------------------------------------------------------------


def _light(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.2, 0.9)


def _scattered(rng: np.random.Generator, scene: Scene, size: int) -> None:
    """Up to twenty parts, all different or all alike, anywhere."""
    light_2, count = _light(rng), int(rng.integers(1, 21))
    alike = rng.random() < 0.35
    make = SHAPES[int(rng.integers(len(SHAPES)))]
    outline = make(rng)
    surface: np.ndarray | None = texture(rng, 64, 64, SURFACES)
    shadow = rng.choice([0.0, rng.uniform(0.2, 0.8)])
    largest = size * rng.uniform(0.08, 0.30) * (1.3 if count < 6 else 1)
    for _ in range(count):
        if not alike:
            make = SHAPES[int(rng.integers(len(SHAPES)))]
            outline, surface = make(rng), None
        radius = max(4.0, largest * (rng.uniform(0.9, 1) if alike else rng.uniform(0.35, 1)))
        centre = tuple(rng.uniform(0.06 * size, 0.94 * size, 2))
        scene.layers.append(
            paint(rng, outline, make in HOLED, centre, radius, light_2, surface, shadow=shadow)
        )


def _gridded(rng: np.random.Generator, scene: Scene, size: int) -> None:
    """Equal parts in rows and columns, a few of them changed."""
    light_2, rows, columns = _light(rng), int(rng.integers(1, 6)), int(rng.integers(2, 7))
    make = SHAPES[int(rng.integers(len(SHAPES)))]
    outline, surface = make(rng), texture(rng, 64, 64, SURFACES)
    turn, shadow = rng.uniform(0, 6.3), rng.uniform(0, 0.6)
    pitch = size * rng.uniform(0.75, 0.95) / max(rows, columns)
    radius = max(4.0, pitch * rng.uniform(0.28, 0.5))
    top, left = (size - pitch * rows) / 2, (size - pitch * columns) / 2
    for row in range(rows):
        for column in range(columns):
            skin = surface if rng.random() < 0.9 else None
            centre = top + pitch * (row + 0.5), left + pitch * (column + 0.5)
            scene.layers.append(
                paint(rng, outline, make in HOLED, centre, radius, light_2, skin, turn, shadow)
            )


def _centred(rng: np.random.Generator, scene: Scene, size: int) -> None:
    """One large part in the middle, plain or of nested parts, as inspection cameras see it."""
    light_2, radius = _light(rng), size * rng.uniform(0.22, 0.47)
    centre = (size * rng.uniform(0.44, 0.56), size * rng.uniform(0.44, 0.56))
    kind, turn = rng.random(), rng.uniform(0, 6.3)
    make: Shape
    surface: np.ndarray | None = None
    shadow = rng.choice([0.0, rng.uniform(0.1, 0.7)])
    if kind < 0.4:  # a bottle mouth, a cap, a bearing: nested rounds of one part
        outline, scale = ellipse(rng) if rng.random() < 0.8 else rounded_polygon(rng), 1.0
        for depth in range(int(rng.integers(2, 6))):
            surface = None if rng.random() < 0.5 else texture(rng, 160, 160, ((plain, 1.0),))
            shade = shadow if depth == 0 else rng.uniform(0, 0.4)
            scene.layers.append(
                paint(rng, outline, False, centre, radius * scale, light_2, surface, turn, shade)
            )
            scale *= rng.uniform(0.6, 0.93)
        return
    if kind < 0.6:  # a nut, a stone, a pill
        make = blob if rng.random() < 0.5 else ellipse
        if rng.random() < 0.7:
            surface = (photo if rng.random() < 0.5 else clouds)(rng, 160, 160)
    else:
        make = SHAPES[int(rng.integers(len(SHAPES)))]
    if rng.random() < 0.25:  # a transistor, a plug: legs of one stuff, the body of another
        body, *legs = legged(rng)
        turn = rng.normal(0, 0.15)
        if rng.random() < 0.7:
            scene.ground_HW3 = board(rng, size, size)
        for outline in (legs, [body]):
            scene.layers.append(
                paint(rng, outline, False, centre, radius, light_2, None, turn, shadow)
            )
        return
    scene.layers.append(
        paint(rng, make(rng), make in HOLED, centre, radius, light_2, surface, turn, shadow)
    )
    for _ in range(int(rng.choice([0, 0, 1, 3]))):  # a print, a dent, a fitting on it
        offset = rng.normal(0, 0.25 * radius, 2)
        small = SHAPES[int(rng.integers(len(SHAPES)))]
        at = (centre[0] + offset[0], centre[1] + offset[1])
        scene.layers.append(
            paint(rng, small(rng), small in HOLED, at, radius * rng.uniform(0.1, 0.3), light_2)
        )


def scene(rng: np.random.Generator, size: int, centred: float = 0.35) -> Scene:
    """A random picture's layers, before camera and light; `centred` is the share of lone parts."""
    built = Scene(texture(rng, size, size, GROUNDS))
    if rng.random() < centred:
        _centred(rng, built, size)
        return built
    if rng.random() < 0.2:  # a tray, a card, a plate under the parts
        outline = (rounded_polygon if rng.random() < 0.5 else ellipse)(rng)
        middle = (size / 2, size / 2)
        built.layers.append(
            paint(rng, outline, False, middle, size * rng.uniform(0.46, 0.62), _light(rng))
        )
        built.carriers = 1
    (_gridded if rng.random() < 0.25 else _scattered)(rng, built, size)
    return built


def compose(built: Scene, skip: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Paint the layers: picture (H, W, 3) float32 and top layer per pixel (H, W) int16, 0 ground.

    Layer `skip` leaves neither its body nor its shadow.
    """
    image_HW3 = built.ground_HW3.astype(np.float32).copy()
    owner_HW = np.zeros(image_HW3.shape[:2], np.int16)
    height, width = image_HW3.shape[:2]
    for number, layer in enumerate(built.layers):
        if number == skip:
            continue
        h, w = layer.alpha_hw.shape
        y0, x0, y1, x1 = max(layer.y, 0), max(layer.x, 0), layer.y + h, layer.x + w
        y1, x1 = min(y1, height), min(x1, width)
        if y0 >= y1 or x0 >= x1:
            continue
        part = np.s_[y0 - layer.y : y1 - layer.y, x0 - layer.x : x1 - layer.x]
        here = np.s_[y0:y1, x0:x1]
        alpha = layer.alpha_hw[part][..., None]
        below = image_HW3[here] * (1 - layer.shadow_hw[part][..., None])
        image_HW3[here] = below + (layer.rgb_hw3[part] - below) * alpha
        owner_HW[here][layer.alpha_hw[part] > 0.5] = number + 1
    return image_HW3, owner_HW


def camera(seed: int, image_HW3: np.ndarray) -> np.ndarray:
    """Light, blur, noise and coding of one picture, to uint8; equal seeds make equal faults."""
    rng = np.random.default_rng(seed)
    height, width = image_HW3.shape[:2]
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j].astype(np.float32)
    light_HW = np.ones((height, width), np.float32)
    if rng.random() < 0.6:
        light_HW += rng.normal(0, 0.25) * x + rng.normal(0, 0.25) * y
    if rng.random() < 0.3:
        light_HW -= rng.uniform(0, 0.7) * (x**2 + y**2)
    image_HW3 = image_HW3 * np.clip(light_HW, 0.2, 2)[..., None] * rng.uniform(0.75, 1.15)
    if rng.random() < 0.4:
        image_HW3 = cv2.GaussianBlur(image_HW3, (0, 0), rng.uniform(0.3, 1.3))
    if rng.random() < 0.3:
        image_HW3 = 255 * (np.clip(image_HW3, 0, 255) / 255) ** rng.uniform(0.7, 1.5)
    if rng.random() < 0.7:
        grains = rng.standard_normal((height, width, int(rng.choice([1, 3]))), np.float32)
        image_HW3 = image_HW3 + grains * rng.uniform(0.5, 7)
    image_HW3 = np.clip(np.rint(image_HW3), 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
        coded = cv2.imencode(".jpg", image_HW3, quality)[1]
        image_HW3 = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return image_HW3

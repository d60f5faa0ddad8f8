"""Random images of random parts, painted layer by layer, with full ground truth.

A model that has only seen our rendered products would overfit to them. Clutter is domain
randomisation: shapes, surfaces, light, shadows and camera faults are drawn from wide ranges, so the
model has to learn what an object is. Typical inspection images (one part in the middle of a plain
background, a bottle mouth from above, a part with legs on a perforated board) are frequent on
purpose.
Shapes: H, W image; h, w the patch of one object; 3 colour (RGB).
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from pretraining.data.outlines import (
    HOLED,
    SHAPES,
    Outline,
    Shape,
    blob,
    ellipse,
    legged,
    raster,
    rounded_polygon,
)
from pretraining.data.textures import (
    BACKGROUNDS,
    SURFACES,
    board,
    clouds,
    colour,
    noise,
    photo,
    plain,
    texture,
)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One painted object: a patch at (y, x) with its coverage, and the shadow that it casts."""

    y: int
    x: int
    # Float32, 0-255.
    rgb_hw3: np.ndarray
    # Float32, 0-1.
    alpha_hw: np.ndarray
    # Float32, 0-1: the share of light that it takes from the layers below.
    shadow_hw: np.ndarray


@dataclass(slots=True)
class Scene:
    """Layers from bottom to top over a background.

    The lowest `carriers` layers (a tray, a plate) are foreground but no objects.
    """

    background_HW3: np.ndarray
    layers: list[Layer] = field(default_factory=list)
    carriers: int = 0


# --- one object ------------------------------------------------------------------------------


def _shade(rng: np.random.Generator, alpha_hw: np.ndarray, light_2: np.ndarray) -> np.ndarray:
    """Light on an invented relief, (h, w, 1): flat with a bevel, or a dome; sometimes glossy."""
    # The distance to the outline serves as the relief: rising over the bevel, flat further inside.
    inside_hw = cv2.distanceTransform((alpha_hw > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    deepest = float(inside_hw.max()) + 1e-3
    bevel = rng.choice([rng.uniform(0.05, 0.3), 1.0])
    part_hw = np.minimum(inside_hw / (deepest * bevel), 1)
    # A quarter circle as the profile of the bevel.
    height_hw = np.sqrt(1 - (1 - part_hw) ** 2) * deepest * bevel * rng.uniform(0.2, 1.0)
    if rng.random() < 0.3:
        rough_hw = noise(rng, alpha_hw.shape[0], alpha_hw.shape[1], 12)
        height_hw = height_hw + rough_hw * rng.uniform(0.2, 2)
    # The distance transform has creases; smooth them.
    height_hw = cv2.GaussianBlur(height_hw, (0, 0), max(0.6, deepest * 0.04))
    slope_y, slope_x = np.gradient(height_hw)
    upright_hw = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    # Lambert shading, 1 on a flat surface.
    lit_hw = (slope_x * light_2[0] + slope_y * light_2[1] + 1) * upright_hw
    shade_hw = 1 + rng.uniform(0.15, 0.8) * (lit_hw - 1)
    # One object in three is glossy.
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
    # The patch is larger than the object, to hold its shadow.
    reach = int(max(2, radius * 0.35))
    side = 2 * (int(np.ceil(radius)) + reach) + 2
    turn = rng.uniform(0, 2 * np.pi) if turn is None else turn
    alpha_hw = raster(outline, radius, turn, side, holed)
    if surface_hw3 is None:
        surface_hw3 = texture(rng, side, side, SURFACES)
    rgb_hw3 = cv2.resize(surface_hw3, (side, side)).astype(np.float32)
    # The rest stays flat, like a print.
    if rng.random() < 0.85:
        relief_hw2 = _shade(rng, alpha_hw, light_2)
        rgb_hw3 = rgb_hw3 * relief_hw2[..., :1] + relief_hw2[..., 1:]
    if rng.random() < 0.25:
        # A drawn rim.
        rim_hw = alpha_hw - cv2.erode(alpha_hw, np.ones((3, 3), np.uint8))
        rgb_hw3 += (colour(rng) - rgb_hw3) * rim_hw[..., None] * rng.uniform(0.3, 1)
    # The shadow falls away from the light.
    shift_x, shift_y = -light_2 * reach * 0.4
    moved = np.array([[1, 0, shift_x], [0, 1, shift_y]], np.float32)
    shadow_hw = cv2.warpAffine(alpha_hw, moved, (side, side))
    shadow_hw = cv2.GaussianBlur(shadow_hw, (0, 0), rng.uniform(0.15, 0.4) * reach + 0.3) * shadow
    y, x = round(centre_yx[0] - side / 2), round(centre_yx[1] - side / 2)
    return Layer(y, x, rgb_hw3.clip(0, 255), alpha_hw, shadow_hw)


# --- whole images --------------------------------------------------------------------------


def _light(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.2, 0.9)


def _scattered(rng: np.random.Generator, scene: Scene, size: int) -> None:
    """Up to twenty parts, all different or all alike, anywhere."""
    light_2, count = _light(rng), int(rng.integers(1, 21))
    # Equal parts in one image teach a model that instances of one kind are separate objects.
    alike = rng.random() < 0.35
    make = SHAPES[int(rng.integers(len(SHAPES)))]
    outline = make(rng)
    surface: np.ndarray | None = texture(rng, 64, 64, SURFACES)
    shadow = rng.choice([0.0, rng.uniform(0.2, 0.8)])
    # A few parts may be larger than many.
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
    """Equal parts in rows and columns, some with another surface."""
    light_2, rows, columns = _light(rng), int(rng.integers(1, 6)), int(rng.integers(2, 7))
    make = SHAPES[int(rng.integers(len(SHAPES)))]
    outline, surface = make(rng), texture(rng, 64, 64, SURFACES)
    turn, shadow = rng.uniform(0, 6.3), rng.uniform(0, 0.6)
    pitch = size * rng.uniform(0.75, 0.95) / max(rows, columns)
    radius = max(4.0, pitch * rng.uniform(0.28, 0.5))
    top, left = (size - pitch * rows) / 2, (size - pitch * columns) / 2
    for row in range(rows):
        for column in range(columns):
            # One part in ten gets another surface.
            skin = surface if rng.random() < 0.9 else None
            centre = top + pitch * (row + 0.5), left + pitch * (column + 0.5)
            scene.layers.append(
                paint(rng, outline, make in HOLED, centre, radius, light_2, skin, turn, shadow)
            )


def _centred(rng: np.random.Generator, scene: Scene, size: int) -> None:
    """One large part in the middle, plain or made of nested parts, as inspection cameras see it."""
    light_2, radius = _light(rng), size * rng.uniform(0.22, 0.47)
    centre = (size * rng.uniform(0.44, 0.56), size * rng.uniform(0.44, 0.56))
    kind, turn = rng.random(), rng.uniform(0, 6.3)
    make: Shape
    surface: np.ndarray | None = None
    shadow = rng.choice([0.0, rng.uniform(0.1, 0.7)])
    if kind < 0.4:
        # A bottle mouth, a cap, a bearing: concentric discs of one part.
        outline, scale = ellipse(rng) if rng.random() < 0.8 else rounded_polygon(rng), 1.0
        for depth in range(int(rng.integers(2, 6))):
            surface = None if rng.random() < 0.5 else texture(rng, 160, 160, ((plain, 1.0),))
            # Only the outermost disc casts the part's full shadow.
            shade = shadow if depth == 0 else rng.uniform(0, 0.4)
            scene.layers.append(
                paint(rng, outline, False, centre, radius * scale, light_2, surface, turn, shade)
            )
            scale *= rng.uniform(0.6, 0.93)
        return
    if kind < 0.6:
        # A nut, a stone, a pill.
        make = blob if rng.random() < 0.5 else ellipse
        if rng.random() < 0.7:
            surface = (photo if rng.random() < 0.5 else clouds)(rng, 160, 160)
    else:
        make = SHAPES[int(rng.integers(len(SHAPES)))]
    if rng.random() < 0.25:
        # A transistor, a plug: legs of one material, the body of another.
        body, *legs = legged(rng)
        turn = rng.normal(0, 0.15)
        if rng.random() < 0.7:
            scene.background_HW3 = board(rng, size, size)
        # Two layers, so that each gets a surface of its own.
        for outline in (legs, [body]):
            scene.layers.append(
                paint(rng, outline, False, centre, radius, light_2, None, turn, shadow)
            )
        return
    scene.layers.append(
        paint(rng, make(rng), make in HOLED, centre, radius, light_2, surface, turn, shadow)
    )
    for _ in range(int(rng.choice([0, 0, 1, 3]))):
        # A print, a dent, a fitting on it.
        offset = rng.normal(0, 0.25 * radius, 2)
        small = SHAPES[int(rng.integers(len(SHAPES)))]
        at = (centre[0] + offset[0], centre[1] + offset[1])
        scene.layers.append(
            paint(rng, small(rng), small in HOLED, at, radius * rng.uniform(0.1, 0.3), light_2)
        )


def scene(rng: np.random.Generator, size: int, centred: float = 0.35) -> Scene:
    """The layers of a random image, before camera and light; `centred` is the share of lone
    parts."""
    built = Scene(texture(rng, size, size, BACKGROUNDS))
    if rng.random() < centred:
        _centred(rng, built, size)
        return built
    if rng.random() < 0.2:
        # A tray, a card, a plate under the parts.
        outline = (rounded_polygon if rng.random() < 0.5 else ellipse)(rng)
        middle = (size / 2, size / 2)
        built.layers.append(
            paint(rng, outline, False, middle, size * rng.uniform(0.46, 0.62), _light(rng))
        )
        built.carriers = 1
    (_gridded if rng.random() < 0.25 else _scattered)(rng, built, size)
    return built


def compose(built: Scene, skip: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Paint the layers: image (H, W, 3) float32 and top layer per pixel (H, W) int16.

    The second array is 0 on background and counts layers from 1. Layer `skip` is left out with its
    shadow.
    """
    image_HW3 = built.background_HW3.astype(np.float32).copy()
    owner_HW = np.zeros(image_HW3.shape[:2], np.int16)
    height, width = image_HW3.shape[:2]
    for number, layer in enumerate(built.layers):
        if number == skip:
            continue
        h, w = layer.alpha_hw.shape
        # Clip the patch to the image.
        y0, x0, y1, x1 = max(layer.y, 0), max(layer.x, 0), layer.y + h, layer.x + w
        y1, x1 = min(y1, height), min(x1, width)
        if y0 >= y1 or x0 >= x1:
            continue
        part = np.s_[y0 - layer.y : y1 - layer.y, x0 - layer.x : x1 - layer.x]
        here = np.s_[y0:y1, x0:x1]
        alpha = layer.alpha_hw[part][..., None]
        # Shadow first, then the object over it.
        below = image_HW3[here] * (1 - layer.shadow_hw[part][..., None])
        image_HW3[here] = below + (layer.rgb_hw3[part] - below) * alpha
        owner_HW[here][layer.alpha_hw[part] > 0.5] = number + 1
    return image_HW3, owner_HW


def camera(seed: int, image_HW3: np.ndarray) -> np.ndarray:
    """Camera effects on one image: uneven light, blur, gamma, sensor noise, JPEG; to uint8.

    Equal seeds give equal effects: an image with and without an object must differ in nothing else.
    """
    rng = np.random.default_rng(seed)
    height, width = image_HW3.shape[:2]
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j].astype(np.float32)
    light_HW = np.ones((height, width), np.float32)
    if rng.random() < 0.6:
        # A lamp from one side.
        light_HW += rng.normal(0, 0.25) * x + rng.normal(0, 0.25) * y
    if rng.random() < 0.3:
        # Vignette.
        light_HW -= rng.uniform(0, 0.7) * (x**2 + y**2)
    image_HW3 = image_HW3 * np.clip(light_HW, 0.2, 2)[..., None] * rng.uniform(0.75, 1.15)
    if rng.random() < 0.4:
        image_HW3 = cv2.GaussianBlur(image_HW3, (0, 0), rng.uniform(0.3, 1.3))
    if rng.random() < 0.3:
        image_HW3 = 255 * (np.clip(image_HW3, 0, 255) / 255) ** rng.uniform(0.7, 1.5)
    if rng.random() < 0.7:
        # Grey noise or colour noise.
        sensor_noise = rng.standard_normal((height, width, int(rng.choice([1, 3]))), np.float32)
        image_HW3 = image_HW3 + sensor_noise * rng.uniform(0.5, 7)
    image_HW3 = np.clip(np.rint(image_HW3), 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
        coded = cv2.imencode(".jpg", image_HW3, quality)[1]
        image_HW3 = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return image_HW3

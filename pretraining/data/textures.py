"""Surface textures for training: crops of the photographs in scikit-image, and procedural ones.

Every function draws from a NumPy generator and returns float32 RGB, 0-255, so that lighting can be
applied later without rounding twice. Nothing is downloaded: a photograph that is not on disk is
left out.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import ImageError

# Files inside the scikit-image wheel; free to use (public domain or CC0), see its README.
PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip


@cache
def photographs() -> list[np.ndarray]:
    """The bundled photographs, (H, W, 3) uint8 RGB, in a fixed order; at most 640 px wide."""
    # Only for its folder: skimage.data's functions could start a download.
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    found = []
    for name in PHOTOGRAPHS:
        if not (folder / name).is_file():
            continue
        image_HW3 = read_image(folder / name)
        # Larger photographs would only cost memory: crops are resized to a few hundred pixels.
        shrink = min(1.0, 640 / max(image_HW3.shape[:2]))
        if shrink < 1:
            image_HW3 = cv2.resize(
                image_HW3, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA
            )
        found.append(image_HW3)
    return found


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB."""
    image_HW3 = cv2.imread(str(path))
    if image_HW3 is None:
        raise ImageError(f"{path} is not an image that OpenCV can read; remove or replace the file")
    return np.asarray(cv2.cvtColor(image_HW3, cv2.COLOR_BGR2RGB))


def noise(rng: np.random.Generator, height: int, width: int, coarsest: int = 3) -> np.ndarray:
    """Smooth random field (H, W) float32, -1 to 1: a few octaves of enlarged white noise."""
    field = np.zeros((height, width), np.float32)
    cells, gain, fade = float(coarsest), 1.0, rng.uniform(0.35, 0.7)
    for _ in range(int(rng.integers(2, 6))):
        rows = min(height, max(2, round(cells)))
        columns = min(width, max(2, round(cells * width / height)))
        white = rng.standard_normal((rows, columns), np.float32)
        field += gain * cv2.resize(white, (width, height), interpolation=cv2.INTER_CUBIC)
        # Each octave is twice as fine and weaker.
        cells, gain = cells * 2, gain * fade
    return field / (np.abs(field).max() + 1e-6)


def colour(rng: np.random.Generator) -> np.ndarray:
    """One colour (3,) float32, 0-255; industrial parts are often black, white or grey."""
    kind = rng.random()
    # 15 % blackish, 15 % whitish, 25 % greyish, the rest any colour.
    if kind < 0.15:
        return np.float32(rng.uniform(0, 45) + rng.uniform(-6, 6, 3)).clip(0, 255)
    if kind < 0.30:
        return np.float32(rng.uniform(205, 250) + rng.uniform(-8, 8, 3)).clip(0, 255)
    if kind < 0.55:
        return np.float32(rng.uniform(20, 235) + rng.uniform(-20, 20, 3)).clip(0, 255)
    return rng.uniform(5, 250, 3).astype(np.float32)


def plain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.tile(colour(rng), (height, width, 1))


def photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random crop of a random photograph, turned, and often recoloured."""
    images = photographs()
    image_HW3 = images[int(rng.integers(len(images)))]
    # The crop has the aspect ratio of the target, and 15 % to all of the photograph.
    limit = min(image_HW3.shape[0], round(image_HW3.shape[1] * height / width))
    rows = int(rng.uniform(0.15, 1.0) * limit) + 1
    columns = max(1, min(image_HW3.shape[1], round(rows * width / height)))
    y = int(rng.integers(image_HW3.shape[0] - rows + 1))
    x = int(rng.integers(image_HW3.shape[1] - columns + 1))
    crop = cv2.resize(
        image_HW3[y : y + rows, x : x + columns], (width, height), interpolation=cv2.INTER_AREA
    )
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    crop = crop.astype(np.float32)
    if rng.random() < 0.3:
        # Keep the texture, replace the colours.
        crop = crop.mean(2, keepdims=True) * (colour(rng) + 30) / 150
    if rng.random() < 0.3:
        crop = crop[..., rng.permutation(3)]
    # Random contrast and brightness.
    return np.clip((crop - 128) * rng.uniform(0.4, 1.2) + 128 + rng.uniform(-50, 50), 0, 255)


def clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two colours mixed by smooth noise."""
    field = noise(rng, height, width, int(rng.integers(2, 12)))[..., None]
    # From a barely visible mottle to two distinct colours.
    strength = rng.choice([0.08, 0.25, 0.6, 1.0])
    first, second = colour(rng), colour(rng)
    return first + (second - first) * (0.5 + 0.5 * field * strength)


def wood(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Wood-like growth rings, stretched along one axis and warped by noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(height, width)
    if rng.random() < 0.5:
        # Along either axis.
        y, x = x, y
    warp = noise(rng, height, width, 2) * rng.uniform(0.02, 0.25)
    waves = np.sin((x + 0.1 * y + warp) * rng.uniform(20, 140))
    field = (0.5 + 0.5 * waves * rng.uniform(0.2, 1))[..., None]
    first = colour(rng)
    fibres = 4 * noise(rng, height, width, 40)[..., None]
    return first * (1 - field * rng.uniform(0.1, 0.5)) + fibres


def brushed(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Brushed metal: noise that is long in one direction."""
    white = rng.standard_normal((height, width), np.float32)
    length = int(rng.integers(5, max(6, width // 3)))
    # Blurred along one axis only.
    streaks = cv2.blur(white, (length, 1) if rng.random() < 0.5 else (1, length))
    streaks = streaks / (streaks.std() + 1e-6)
    return (colour(rng) + rng.uniform(3, 18) * streaks[..., None]).clip(0, 255)


def pattern(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Stripes, checks, or a perforated board: a regular grid of dots on a plain colour."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    # Axis-aligned or at any angle.
    angle = rng.choice([0.0, rng.uniform(0, np.pi)])
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    pitch = rng.uniform(0.03, 0.15) * max(height, width, 64)
    # Coordinates within one cell of the grid, -0.5 to 0.5, with a random offset.
    u, v = (u / pitch + rng.random()) % 1 - 0.5, (v / pitch + rng.random()) % 1 - 0.5
    # `edge` is one pixel in cell units, for antialiased borders.
    kind, edge = rng.random(), 1.0 / pitch
    if kind < 0.5:
        # Dots, stripes or checks: positive inside.
        inside = rng.uniform(0.12, 0.4) - np.hypot(u, v)
    elif kind < 0.75:
        inside = rng.uniform(0.1, 0.4) - np.abs(u)
    else:
        inside = u * v / 0.5
    field = np.clip(0.5 + inside / edge, 0, 1)[..., None]
    first, second = colour(rng), colour(rng)
    mixed = first + (second - first) * field * rng.uniform(0.3, 1)
    return mixed + rng.uniform(0, 14) * noise(rng, height, width, 24)[..., None]


def board(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A circuit board without parts: slots one way, and rows of drilled holes with rims."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    if rng.random() < 0.3:
        y, x = x, y
    pitch = rng.uniform(0.1, 0.3) * max(height, width)
    u, v = (x / pitch + rng.random()) % 1 - 0.5, (y / pitch + rng.random()) % 1 - 0.5
    radius, edge = rng.uniform(0.1, 0.25), 1.2 / pitch
    away = np.hypot(u, v)
    hole = np.clip(0.5 + (radius - away) / edge, 0, 1)[..., None]
    # Solder rings around the holes.
    rim = np.clip(1 - np.abs(away - radius - 0.04) / 0.06, 0, 1)[..., None]
    slot = np.clip(0.5 + (np.abs(u) - rng.uniform(0.38, 0.46)) / edge, 0, 1)[..., None]
    base, dark = colour(rng), colour(rng) * 0.35
    image = base + 12 * noise(rng, height, width, 30)[..., None]
    image = image * (1 + rim * rng.uniform(-0.3, 0.4))
    # Slots are absent in a third of the boards.
    return image + (dark - image) * np.maximum(hole, slot * rng.choice([0.0, 0.7, 1.0]))


def rings(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Concentric shades around the middle, as on turned parts and bottle mouths."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    # A random walk over the radius, normalised to standard deviation 1.
    steps = np.cumsum(rng.standard_normal(24)).astype(np.float32)
    steps = (steps - steps.mean()) / (steps.std() + 1e-6)
    field = np.interp(np.hypot(x, y), np.linspace(0, 1.45, 24), steps)[..., None]
    # Brightness also varies with the angle, as reflections on turned metal do.
    glints = np.sin(np.arctan2(y, x) * rng.integers(1, 5) + rng.uniform(0, 6))[..., None]
    return (colour(rng) + rng.uniform(5, 45) * field * (1 + 0.5 * glints)).clip(0, 255)


Texture = Callable[[np.random.Generator, int, int], np.ndarray]
# Kinds with their weights. Boards occur as background only, rings on objects only.
BACKGROUNDS: tuple[tuple[Texture, float], ...] = (
    (plain, 0.28), (photo, 0.22), (clouds, 0.17), (wood, 0.1), (brushed, 0.08), (pattern, 0.1),
    (board, 0.05),
)  # fmt: skip
SURFACES: tuple[tuple[Texture, float], ...] = (
    (plain, 0.3), (photo, 0.22), (clouds, 0.2), (wood, 0.06), (brushed, 0.07), (pattern, 0.06),
    (rings, 0.09),
)  # fmt: skip


def texture(
    rng: np.random.Generator, height: int, width: int, kinds: tuple[tuple[Texture, float], ...]
) -> np.ndarray:
    """One surface (H, W, 3) float32 of a kind drawn by its weight."""
    weights = np.array([weight for _, weight in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))][0]
    return kind(rng, height, width).astype(np.float32)

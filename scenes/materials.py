"""Noise and surface textures, in linear light.

Noise is a random grid of a fixed number of cells, enlarged with cubic interpolation: the same
seed gives the same pattern at every image size, sampled more or less finely.
"""

import cv2
import numpy as np

from scenes.planes import mix, tint, triple

Rng = np.random.Generator


def linear(colour: str) -> np.ndarray:
    """'#rrggbb' (sRGB) to linear light, float32 (3,)."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255
    # A plain gamma of 2.2; `lighting.develop` applies the inverse.
    return srgb ** np.float32(2.2)


def jitter(rng: Rng, colour_3: np.ndarray, amount: float) -> np.ndarray:
    """The colour with a little random brightness and hue."""
    # One factor for brightness, and a smaller one per channel for hue.
    factors = 1 + amount * rng.uniform(-1, 1) + 0.4 * amount * rng.uniform(-1, 1, 3)
    return (colour_3 * factors).astype(np.float32)


def noise(rng: Rng, shape: tuple[int, int], cells_y: float, cells_x: float) -> np.ndarray:
    """Smooth noise (H, W) float32, mean 0, about -1 to 1, with that many cells across the image."""
    return _fit(_grid(rng, cells_y, cells_x), shape)


def fractal(
    rng: Rng, shape: tuple[int, int], cells_y: float, cells_x: float, octaves: int = 4
) -> np.ndarray:
    """Octaves of noise, each twice as fine and half as strong.

    Coarse octaves are summed on their own small grids; only the sum is enlarged to the image.
    """
    total = _grid(rng, cells_y, cells_x)
    for octave in range(1, octaves):
        finer = _grid(rng, cells_y * 2**octave, cells_x * 2**octave)
        total = _fit(total, (finer.shape[0], finer.shape[1])) + finer * np.float32(0.5**octave)
    return _fit(total, shape)


def _grid(rng: Rng, cells_y: float, cells_x: float) -> np.ndarray:
    # At least two cells per axis: cubic interpolation needs something to interpolate.
    grid = rng.random((max(2, round(cells_y)), max(2, round(cells_x))), dtype=np.float32)
    return grid * np.float32(2) - np.float32(1)


def _fit(grid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize: average along an axis that is finer than the image, cubic along the others."""
    rows, columns = min(grid.shape[0], shape[0]), min(grid.shape[1], shape[1])
    # Averaging first avoids aliasing when the grid has more cells than the image has pixels.
    if (rows, columns) != grid.shape:
        grid = cv2.resize(grid, (columns, rows), interpolation=cv2.INTER_AREA)
    return cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _turned(texture_HW: np.ndarray, degrees: float, size: int) -> np.ndarray:
    """Rotate a texture and crop its middle, size x size."""
    height, width = texture_HW.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    # Rotation is about the texture's middle; move that to the middle of the crop.
    turn[:, 2] += (size - width) / 2, (size - height) / 2
    return cv2.warpAffine(
        texture_HW, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def wood(rng: Rng, size: int) -> np.ndarray:
    """Planed board: long wood grain, wavy growth rings, fine pores, a joint between planks."""
    # Larger than the image, so that a rotation of a few degrees leaves no empty corner.
    big = round(size * 1.12)
    shape = (big, big)
    y = np.linspace(0, 1.12, big, dtype=np.float32)[:, None]
    wander = fractal(rng, shape, 3, 2, 3)
    rings = np.sin((y * rng.uniform(9, 15) + 0.55 * wander) * 6.283)
    # Many cells across and few along: stretched noise.
    fibre = noise(rng, shape, 420, 7) + 0.7 * noise(rng, shape, 200, 3)
    # Only the peaks of the noise become pores.
    pores = np.clip(noise(rng, shape, 380, 22) - 0.62, 0, 1)
    tone = 0.10 * rings + 0.16 * fibre + 0.20 * wander - 1.1 * pores
    # Distance to the joint, in units of 1/512 of the image height.
    joint = np.abs(y - rng.uniform(0.15, 0.95)) * 512
    tone = tone - 1.2 * np.exp(-(joint**2) / 2.0)
    # Planks run horizontally or vertically, slightly off.
    turned = _turned(tone, rng.choice([0, 90]) + rng.uniform(-4, 4), size)
    dark = linear(["#8a5a36", "#a87a4e", "#6f5140"][rng.integers(3)])
    light = jitter(rng, dark * 1.5, 0.1)
    return mix(
        np.zeros((size, size, 3), np.float32) + dark * 0.75,
        light,
        np.clip(0.5 + 0.9 * turned, -0.2, 1.2),
    )


def cardboard(rng: Rng, size: int) -> np.ndarray:
    """Kraft board: pulp mottle, short fibres, faint corrugation."""
    shape = (size, size)
    x = np.linspace(0, 1, size, dtype=np.float32)[None, :]
    # About forty flutes across the image, slightly wavy.
    flutes = np.sin(x * 6.283 * rng.uniform(38, 46) + noise(rng, shape, 3, 3))
    mottle = fractal(rng, shape, 24, 24, 4)
    specks = np.clip(noise(rng, shape, 260, 170) - 0.7, 0, 1)
    tone = 1 + 0.020 * flutes + 0.05 * mottle - 0.5 * specks
    return tint(tone, jitter(rng, linear("#b98f62"), 0.12))


def felt(rng: Rng, size: int) -> np.ndarray:
    """Inspection mat: matted fibres in all directions, almost no gloss."""
    shape = (size, size)
    # Horizontal, vertical and undirected fibres.
    fibres = noise(rng, shape, 400, 90) + noise(rng, shape, 90, 400) + noise(rng, shape, 300, 300)
    tone = 1 + 0.17 * fibres + 0.08 * fractal(rng, shape, 5, 5, 3)
    base = linear(["#39434f", "#4a4f55", "#2f4a46"][rng.integers(3)])
    return tint(np.clip(tone, 0.3, 2), jitter(rng, base, 0.12))


def brushed(rng: Rng, size: int) -> np.ndarray:
    """Brushed steel: very long fine scratches and a broad soft reflection."""
    big = round(size * 1.12)
    scratches = noise(rng, (big, big), 600, 4) + 0.6 * noise(rng, (big, big), 260, 9)
    turned = _turned(scratches, rng.uniform(-5, 5), size)
    y = np.linspace(-1, 1, size, dtype=np.float32)[:, None]
    # The reflection of a broad lamp: a soft horizontal band.
    sheen = 0.35 * np.exp(-((y - rng.uniform(-0.6, 0.6)) ** 2) / 0.35)
    tone = 0.85 + sheen + 0.11 * turned + 0.04 * fractal(rng, (size, size), 3, 3, 3)
    return tint(tone, jitter(rng, linear("#8f959b"), 0.08))


def studio(rng: Rng, size: int) -> np.ndarray:
    """Paper backdrop falling off from a lamp, and a satin shelf in the lowest sixth."""
    y = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    x = np.linspace(0, 1, size, dtype=np.float32)[None, :]
    centre = rng.uniform(0.35, 0.65)
    glow = np.exp(-(((x - centre) / 0.55) ** 2 + ((y - 0.4) / 0.6) ** 2))
    wall = jitter(rng, linear("#9aa4ad"), 0.12)
    wall_tone = 0.45 + 0.75 * glow
    # The height at which the wall meets the shelf.
    edge = rng.uniform(0.795, 0.815)
    steel = noise(rng, (size, size), 420, 5)
    shelf_tone = 0.55 + 0.5 * np.clip((y - edge) / 0.20, 0, 1) + 0.07 * steel
    shelf = tint(shelf_tone * (0.6 + 0.5 * glow), jitter(rng, linear("#7d8288"), 0.1))
    # The transition is about three pixels of 512 wide; a dark line lies along it.
    blend = np.clip((y - edge) * 170 + 0.5, 0, 1)
    mottle = 1 + 0.02 * fractal(rng, (size, size), 60, 60, 3)
    line = 1 - 0.35 * np.exp(-(((y - edge) * 130) ** 2))
    # Both are columns (H, 1); `mix` and `triple` expect full planes.
    blend, line = (np.repeat(column, size, 1) for column in (blend, line))
    return mix(tint(wall_tone * mottle, wall), shelf, blend) * triple(line)


# Every background by name; each gives float32 (size, size, 3) linear albedo.
SURFACES = {
    "wood": wood,
    "cardboard": cardboard,
    "felt": felt,
    "brushed": brushed,
    "studio": studio,
}

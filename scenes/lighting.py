"""One lamp over the product: shading of bodies, reflections on metal, and the camera."""

from dataclasses import dataclass

import cv2
import numpy as np

from scenes.materials import Rng, noise
from scenes.planes import tint, triple

Array = np.ndarray
Normals = tuple[Array, Array, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """Direction towards the lamp (x right, y down, z to the camera), colour, ambient share.

    `softness` scales shadow blur; `gain` is the exposure.
    """

    x: float
    y: float
    z: float
    colour_3: Array
    ambient: float
    softness: float
    gain: float


def draw_light(rng: Rng) -> Light:
    """A lamp from the upper half, warm to cold, hard to soft."""
    # Angles in radians. y points down, so a negative sine is a lamp in the upper half of the image.
    azimuth = rng.uniform(-2.6, -0.55)
    tilt = rng.uniform(0.45, 0.75)
    warmth = rng.uniform(-0.07, 0.07)
    return Light(
        float(np.sin(tilt) * np.cos(azimuth)),
        float(np.sin(tilt) * np.sin(azimuth)),
        float(np.cos(tilt)),
        np.array([1 + warmth, 1, 1 - warmth], np.float32),
        float(rng.uniform(0.38, 0.52)),
        float(rng.uniform(0.8, 1.4)),
        float(rng.uniform(0.92, 1.1)),
    )


def normals(height_HW: Array, unit: float) -> Normals:
    """Unit normals of a height map, both in the same length unit."""
    height_HW = np.ascontiguousarray(height_HW, np.float32)
    # Sobel gives 8 times the slope per pixel. The sign: a normal leans away from rising ground.
    gx = cv2.Sobel(height_HW, cv2.CV_32F, 1, 0, ksize=3, scale=-0.125 / unit)
    gy = cv2.Sobel(height_HW, cv2.CV_32F, 0, 1, ksize=3, scale=-0.125 / unit)
    nz = 1 / np.sqrt(1 + gx * gx + gy * gy)
    return gx * nz, gy * nz, nz


def diffuse(n: Normals, light: Light) -> Array:
    """Lambert with ambient: 1 on a flat surface. Ambient comes from above, sides see less."""
    nx, ny, nz = n
    # Divided by light.z, a flat surface that faces the camera gets exactly 1.
    direct = np.maximum(nx * light.x + ny * light.y + nz * light.z, 0) / light.z
    return light.ambient * (0.45 + 0.55 * nz) + (1 - light.ambient) * direct


def lit(
    albedo: Array, n: Normals, light: Light, gloss: float = 0.0, shininess: float = 30.0
) -> Array:
    """Lambert with ambient, plus a Blinn-Phong highlight; a flat surface keeps its albedo."""
    shaded: Array = albedo * triple(diffuse(n, light))
    if gloss:
        shaded += triple(gloss * highlight(n, light, shininess))
    return shaded


def highlight(n: Normals, light: Light, shininess: float) -> Array:
    """Blinn-Phong lobe around the half vector of lamp and camera."""
    # The camera looks straight down, so the half vector is the lamp direction plus (0, 0, 1).
    hx, hy, hz = light.x, light.y, light.z + 1
    norm = (hx * hx + hy * hy + hz * hz) ** 0.5
    cosine = (n[0] * hx + n[1] * hy + n[2] * hz) / norm
    # exp(2 s (cos - 1)) is close to cos ** (2 s) near the peak and cheaper than a power.
    return np.exp(shininess * (np.minimum(cosine, 1) - 1) * 2).astype(np.float32)


def metal(n: Normals, light: Light, tint_3: Array, polish: float = 1.0) -> Array:
    """Metal reflects a small studio: a softbox at the lamp, a fill strip, a dark horizon."""
    nx, ny, nz = n
    # Mirror the viewing direction (0, 0, 1) about the normal.
    rx, ry, rz = 2 * nz * nx, 2 * nz * ny, 2 * nz * nz - 1
    toward = rx * light.x + ry * light.y + rz * light.z
    # Coordinates around the lamp: `toward` it, and `across` its azimuth.
    across = rx * -light.y + ry * light.x
    # A softbox with soft edges; polish makes the edges sharper.
    box = 1 / (1 + np.exp(-(toward - 0.93) * 18 * polish))
    fill = 0.35 * np.exp(-(((toward + 0.25) / 0.22) ** 2)) * np.exp(-((across / 0.8) ** 2))
    sky = 0.17 + 0.22 * np.maximum(rz, 0) + 0.10 * toward
    glow = np.maximum(sky + 0.85 * box + fill, 0.02)
    return tint(glow, tint_3)


def develop(rng: Rng, image_HW3: Array, light: Light) -> Array:
    """Linear image to (H, W, 3) uint8 sRGB: lamp fall-off, vignette, colour cast, noise, tone.

    Sensor noise follows the usual model: variance proportional to the signal, plus a floor.
    """
    size = image_HW3.shape[0]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    # The side towards the lamp is brighter.
    falloff = 1 + rng.uniform(0.05, 0.16) * (x * light.x + y * light.y) / 0.7
    vignette = 1 - rng.uniform(0.08, 0.2) * (x * x + y * y) / 2
    uneven = 1 + 0.03 * noise(rng, (size, size), 3, 3)
    frame = image_HW3 * tint(falloff * vignette * uneven * light.gain, light.colour_3)
    np.maximum(frame, 0, out=frame)
    # The standard deviation of shot noise grows with the root of the signal; read noise is a floor.
    sensor_noise = np.sqrt(frame * np.float32(1.6e-4) + np.float32(4e-6))
    sensor_noise *= _white_noise(rng, frame.shape)
    frame += sensor_noise
    # The tone curve is a table of 4096 entries: 2047 is linear 1, above it are highlights.
    frame *= np.float32(2047)
    np.clip(frame, 0, 4095, out=frame)
    return np.take(_TONE, frame.astype(np.uint16))


def _white_noise(rng: Rng, shape: tuple[int, ...]) -> Array:
    """Nearly normal noise of variance 1: a sum of three random bytes, much cheaper than a normal.

    The sum has mean 3 x 127.5 = 382.5 and standard deviation 73.9 x sqrt(3) = 128.
    """
    raw = np.frombuffer(rng.bytes(3 * int(np.prod(shape))), np.uint8).reshape(3, *shape)
    total = raw[0].astype(np.float32)
    total += raw[1]
    total += raw[2]
    total -= np.float32(382.5)
    total *= np.float32(1 / 128)
    return total


def _tone_curve() -> Array:
    """sRGB-like gamma with a soft shoulder: highlights roll off instead of clipping."""
    signal = np.arange(4096, dtype=np.float64) / 2047
    # Linear up to 0.7, then an exponential approach to 1.
    shoulder = np.where(signal < 0.7, signal, 0.7 + 0.3 * (1 - np.exp(-(signal - 0.7) / 0.3)))
    return np.round(255 * np.clip(shoulder, 0, 1) ** (1 / 2.2)).astype(np.uint8)


_TONE = _tone_curve()

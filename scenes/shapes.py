"""Signed distances and height profiles on a patch of pixels.

A patch is a small window of the image with its own turned coordinates, so a part is an analytic
function and never a rotated bitmap. Distances are negative inside; lengths are product-frame units.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A window of the image: its place in whole pixels, and local coordinates per sample.

    `over` samples per pixel side are drawn and averaged later; `unit` is one sample's length.
    """

    top: int
    left: int
    height: int
    width: int
    over: int
    unit: float
    x_HW: Array
    y_HW: Array

    @property
    def shape(self) -> tuple[int, int]:
        return (self.height * self.over, self.width * self.over)

    def cover(self, distance_HW: Array) -> Array:
        """How much of each sample is inside (0-1): an anti-aliased edge."""
        # A linear ramp one sample wide, centred on the outline.
        return np.clip(0.5 - distance_HW / np.float32(self.unit), 0, 1)


def circle(x: Array, y: Array, radius: float) -> Array:
    return np.sqrt(x * x + y * y) - radius


def ellipse(x: Array, y: Array, a: float, b: float) -> Array:
    """Approximate signed distance: exact on the outline, correct to first order near it."""
    k = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    slope = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2) + 1e-6
    # The function divided by its gradient; limited, as the gradient vanishes at the centre.
    return np.minimum(k * (k - 1) / slope, 10.0)


def box(x: Array, y: Array, half_x: float, half_y: float, corner: float = 0.0) -> Array:
    """Signed distance to a rectangle with rounded corners of radius `corner`."""
    qx, qy = np.abs(x) - (half_x - corner), np.abs(y) - (half_y - corner)
    # Inside, the nearest side counts; outside, the distance to the nearest corner or side.
    deep = np.minimum(np.maximum(qx, qy), 0)
    np.maximum(qx, 0, out=qx)
    np.maximum(qy, 0, out=qy)
    return np.sqrt(qx * qx + qy * qy) + deep - corner


def hexagon(x: Array, y: Array, apothem: float) -> Array:
    """Distance to the nearest of six sides; `apothem` is half the width across flats."""
    ax, ay = np.abs(x), np.abs(y)
    # By symmetry two of the six sides are enough: the horizontal one and one at 30 degrees.
    return np.maximum(ax * 0.8660254 + ay * 0.5, ay) - apothem


def capsule(x: Array, y: Array, x0: float, y0: float, x1: float, y1: float, r: float) -> Array:
    dx, dy = x1 - x0, y1 - y0
    # Project onto the axis; the small constant allows for an axis of length zero.
    t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy + 1e-12), 0, 1)
    return np.sqrt((x - x0 - t * dx) ** 2 + (y - y0 - t * dy) ** 2) - r


def dome(distance_HW: Array, width: float, height: float) -> Array:
    """A round shoulder: rises from the outline like a quarter circle, flat after `width`."""
    t = np.clip(-distance_HW / width, 0, 1)
    return height * np.sqrt(np.maximum(t * (2 - t), 0))


def ramp(value: Array, low: float, high: float) -> Array:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def lathe(y: Array, radius_HW: Array) -> tuple[Array, Array]:
    """A turned body on its side: (distance across the axis, height over the axis)."""
    solid_HW = np.maximum(radius_HW, 0)
    return np.abs(y) - radius_HW, np.sqrt(np.maximum(solid_HW * solid_HW - y * y, 0))


def profile(x: Array, knots: list[tuple[float, float]]) -> Array:
    """Piecewise-linear radius along the axis; zero radius outside the knots."""
    xs, radii = zip(*knots, strict=True)
    return np.interp(x, xs, radii, left=-1, right=-1).astype(np.float32)


def scatter(
    rng: np.random.Generator,
    count: int,
    area: tuple[float, float, float, float],
    radius: float,
    taken: tuple[tuple[float, float], ...] = (),
) -> list[tuple[float, float]]:
    """Points inside (x0, y0, x1, y1), about 2 x radius from each other and from `taken`.

    The wanted gap shrinks while no place is found, so the search always ends.
    """
    x0, y0, x1, y1 = area
    points: list[tuple[float, float]] = []
    gap, tries = 2 * radius, 0
    while len(points) < count:
        x, y = float(rng.uniform(x0, x1)), float(rng.uniform(y0, y1))
        if all((x - u) ** 2 + (y - v) ** 2 >= gap * gap for u, v in [*points, *taken]):
            points.append((x, y))
        tries += 1
        # Accept less distance every 60 tries, and start over every 240 tries: early points may
        # block all places.
        if tries % 60 == 0:
            gap *= 0.93
            points = points if tries % 240 else []
    return points

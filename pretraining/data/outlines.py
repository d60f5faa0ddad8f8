"""Outlines of random parts: discs, gears, rings, blobs, rods, and parts with legs.

Shapes: T angles around the part; P points of a polygon.
"""

from collections.abc import Callable

import cv2
import numpy as np

# Polygons (P, 2) in units of the object's radius. The first is solid; further ones are added to it,
# or are holes where the shape is in HOLED.
Outline = list[np.ndarray]


def _radial(radius_T: np.ndarray) -> np.ndarray:
    angle_T = np.linspace(0, 2 * np.pi, len(radius_T), endpoint=False)
    return np.stack([radius_T * np.cos(angle_T), radius_T * np.sin(angle_T)], 1)


def ellipse(rng: np.random.Generator) -> Outline:
    return [_radial(np.ones(72)) * [1, rng.choice([1.0, rng.uniform(0.35, 1)])]]


def rounded_polygon(rng: np.random.Generator) -> Outline:
    corners = int(rng.integers(3, 9))
    angle_T = np.linspace(0, 2 * np.pi, 144, endpoint=False)
    # Angle within one side of a regular polygon; the radius along it follows from the apothem.
    wedge_T = (angle_T % (2 * np.pi / corners)) - np.pi / corners
    radius_T = np.cos(np.pi / corners) / np.cos(wedge_T)
    # A moving average over the radius rounds the corners; padding closes it over the seam.
    soft = int(rng.integers(1, 24))
    around_T = np.concatenate([radius_T[-soft:], radius_T, radius_T[:soft]])
    radius_T = np.convolve(around_T, np.ones(2 * soft + 1) / (2 * soft + 1), "same")[soft:-soft]
    return [_radial(radius_T) * [1, rng.uniform(0.5, 1)]]


def gear(rng: np.random.Generator) -> Outline:
    angle_T = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    # tanh turns a sine into teeth with flat tops and steep flanks.
    teeth = np.tanh(np.sin(angle_T * rng.integers(5, 24)) * rng.uniform(1, 6))
    depth = rng.uniform(0.04, 0.2)
    outline = [_radial(1 - depth + depth * teeth)]
    # The second outline is the bore.
    return [*outline, _radial(np.full(48, rng.uniform(0.15, 0.6)))]


def ring(rng: np.random.Generator) -> Outline:
    outer = (ellipse if rng.random() < 0.7 else rounded_polygon)(rng)[0]
    return [outer, outer * rng.uniform(0.35, 0.85)]


def blob(rng: np.random.Generator) -> Outline:
    angle_T = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius_T = np.ones(120)
    # Lower harmonics are stronger, so blobs stay smooth.
    for wave in range(1, int(rng.integers(3, 9))):
        radius_T += rng.normal(0, 0.35 / wave) * np.sin(wave * angle_T + rng.uniform(0, 6.3))
    return [_radial(np.clip(radius_T, 0.25, None) / radius_T.max()) * [1, rng.uniform(0.5, 1)]]


def _bar(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def rod(rng: np.random.Generator) -> Outline:
    thick = rng.uniform(0.05, 0.3)
    outline = [_bar(-1, -thick, 1, thick)]
    if rng.random() < 0.5:
        # A head makes it a screw, a nail, a bolt.
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
# Common shapes are listed twice and drawn twice as often.
SHAPES: tuple[Shape, ...] = (
    ellipse, ellipse, rounded_polygon, rounded_polygon, gear, ring, blob, blob, rod, legged,
    bracket,
)  # fmt: skip
# Shapes whose further outlines are holes.
HOLED: tuple[Shape, ...] = (ring, gear)


def raster(outline: Outline, radius: float, turn: float, side: int, holed: bool) -> np.ndarray:
    """Cover (side, side) float32 of an outline of this radius in the middle of the patch."""
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    cover = np.zeros((side, side), np.uint8)
    for number, polygon_P2 in enumerate(outline):
        # fillPoly takes fixed-point coordinates with 4 fractional bits here, hence the 16.
        points = np.round(((polygon_P2 @ spin) * radius + side / 2 - 0.5) * 16).astype(np.int32)
        value = 0 if holed and number else 255
        cv2.fillPoly(cover, [points], value, cv2.LINE_AA, 4)
    return cover.astype(np.float32) / 255

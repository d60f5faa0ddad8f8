"""Fruit and nuts seen from above: shaded bodies with skin, grooves and fibre."""

import math

import numpy as np

from scenes.lighting import lit, normals
from scenes.materials import fractal, jitter, linear, noise
from scenes.planes import mix, tint
from scenes.records import Part
from scenes.shapes import circle, dome, ramp
from scenes.stage import Sprite, Stage

Array = np.ndarray


def mandarin(stage: Stage, part: Part) -> Sprite:
    """A peel with pores, a flattened crown and a small green-brown stem star."""
    rng = np.random.default_rng(part.seed)
    r = 0.079 * part.scale
    p = stage.patch(part.x, part.y, r * 1.15, part.angle)
    x, y = p.x_HW, p.y_HW
    theta = np.arctan2(y, x)
    rad = np.sqrt(x * x + y * y)
    # Not quite round: two low harmonics with random phases.
    outline = r * (
        1
        + 0.018 * np.sin(3 * theta + rng.uniform(0, 6))
        + 0.012 * np.sin(5 * theta + rng.uniform(0, 6))
    )
    d = rad - outline
    # The stem lies near the middle; small ridges radiate from it.
    sx, sy = 0.3 * r * rng.uniform(-1, 1), 0.3 * r * rng.uniform(-1, 1)
    stem = np.hypot(x - sx, y - sy) / r
    ridges = np.cos(theta * 9 + rng.uniform(0, 6)) * np.exp(-(((stem - 0.2) / 0.14) ** 2))
    # A flattened sphere with a dip at the stem, pores and coarse bumps.
    height = 0.9 * np.sqrt(np.maximum(outline**2 - rad**2, 0))
    height -= r * 0.10 * np.exp(-((stem / 0.2) ** 2))
    height += r * (0.016 * noise(rng, p.shape, 34, 34) + 0.012 * fractal(rng, p.shape, 7, 7, 2))
    height += r * 0.012 * ridges
    peel = jitter(rng, linear("#ef8412"), 0.12)
    tone = 1 + 0.10 * fractal(rng, p.shape, 4, 4, 3)
    albedo = tint(tone, peel)
    # Around the stem the peel is yellowish green.
    green = np.exp(-((stem / 0.42) ** 2)) * 0.35
    albedo = mix(albedo, linear("#c9a018"), green)
    # The remains of the stem are a small star.
    points = 0.085 * (1 + 0.3 * np.cos(theta * 5))
    knob = ramp(-(stem - points), -0.02, 0.02)
    albedo = mix(albedo, linear("#5f6a2c"), knob)
    flaw = None
    # A fuzzy spot: pale rim, grey-green core, raised above the peel.
    if part.flaw == "mould":
        angle = rng.uniform(0, 6.28)
        # Off the middle, but far enough from the outline to be seen whole.
        mx, my = 0.42 * r * math.cos(angle), 0.42 * r * math.sin(angle)
        md = np.hypot(x - mx, y - my) / r - 0.42 + 0.16 * fractal(rng, p.shape, 7, 7, 3)
        fur = ramp(-md, -0.06, 0.06)
        core = ramp(-md, 0.12, 0.25)
        fuzz = 1 + 0.35 * noise(rng, p.shape, 60, 60)
        colour = mix(tint(fuzz, linear("#d9dccb")), tint(fuzz, linear("#6f8a72")), core)
        albedo = mix(albedo, colour, fur)
        height += r * 0.05 * fur * (1 + 0.5 * noise(rng, p.shape, 50, 50))
        flaw = fur * p.cover(d)
    n = normals(height, p.unit)
    rgb = lit(albedo, n, stage.light, 0.26, 26)
    return Sprite(p, rgb, p.cover(d), flaw, lift=r * 0.55, shadow=0.62)


def walnut(stage: Stage, part: Part) -> Sprite:
    """A shell with a seam and wandering furrows."""
    rng = np.random.default_rng(part.seed)
    a, b = 0.066 * part.scale, 0.054 * part.scale
    p = stage.patch(part.x, part.y, a * 1.2, part.angle)
    x, y = p.x_HW, p.y_HW
    u, v = x / a, y / b
    # A blunt point at one end, as walnuts have.
    v = v * (1 + 0.10 * ramp(u, 0.4, 1.1))
    # Elliptical radius, 1 on the outline, slightly wobbly.
    k = np.sqrt(u * u + v * v) + 0.02 * fractal(rng, p.shape, 5, 5, 2)
    d = (k - 1) * b
    body = np.sqrt(np.maximum(1 - k * k, 0)) * b
    warp = fractal(rng, p.shape, 5, 5, 2)
    # The absolute value of noise has sharp valleys: furrows.
    furrows = -np.abs(noise(rng, p.shape, 9, 7) + 0.35 * noise(rng, p.shape, 18, 14))
    # A groove along the middle between two beads.
    seam = np.exp(-(((v + 0.05 * warp) / 0.055) ** 2))
    bead = np.exp(-(((np.abs(v + 0.05 * warp) - 0.13) / 0.07) ** 2))
    height = body * (1 + 0.10 * np.clip(-furrows, 0, 0.6)) + b * (0.05 * bead - 0.05 * seam)
    height += b * 0.02 * warp
    shell = jitter(rng, linear("#c39a66"), 0.12)
    # Furrows are darker than the shell.
    deep = np.exp(furrows / 0.10)
    tone = (1 - 0.45 * deep) * (1 - 0.5 * seam) * (1 + 0.12 * warp)
    rgb = lit(tint(tone, shell), normals(height, p.unit), stage.light, 0.07, 14)
    return Sprite(p, rgb, p.cover(d), lift=b * 0.6, shadow=0.62)


def almond(stage: Stage, part: Part) -> Sprite:
    """A brown teardrop with long fibres; the flaw is a broken tip that shows the white inside."""
    rng = np.random.default_rng(part.seed)
    a, b = 0.052 * part.scale, 0.029 * part.scale
    p = stage.patch(part.x, part.y, a * 1.2, part.angle)
    x, y = p.x_HW, p.y_HW
    u = np.clip(x / a, -1, 1)
    # A teardrop: an ellipse that is wider at one end.
    width = b * np.sqrt(np.maximum(1 - u * u, 0)) * (1 - 0.36 * u) * 1.06
    bend = 0.05 * b * np.sin(u * 3 + rng.uniform(0, 6))
    d = (np.abs(y - bend) - width) * 0.85
    d = np.maximum(d, np.abs(x) - a)
    t = np.clip((y - bend) / np.maximum(width, 1e-5), -1, 1)
    height = 0.75 * width * np.sqrt(np.maximum(1 - t * t, 0))
    # Long fibres, bent and interrupted by noise.
    strands = np.sin(t * 17 + 2.5 * noise(rng, p.shape, 3, 3) + rng.uniform(0, 6))
    strands = strands * (0.6 + 0.4 * noise(rng, p.shape, 12, 5))
    height += 0.012 * b * strands
    skin = jitter(rng, linear("#9c5a2c"), 0.14)
    tone = 1 + 0.17 * strands + 0.12 * fractal(rng, p.shape, 6, 6, 3) + 0.25 * ramp(u, 0.5, 1)
    albedo = tint(tone, skin)
    flaw = None
    cover = p.cover(d)
    if part.flaw == "broken":
        jag = 0.10 * a * fractal(rng, p.shape, 5, 5, 3)
        # The tip is missing; the fracture shows white flesh.
        gone = ramp(x - 0.12 * a + jag, -p.unit, p.unit)
        face = ramp(x - 0.12 * a + jag, -0.26 * a, -0.22 * a)
        cream = tint(1 + 0.12 * fractal(rng, p.shape, 9, 9, 2), linear("#efe0be"))
        albedo = mix(albedo, cream, face)
        height -= 0.5 * b * face
        flaw = np.maximum(gone, face) * cover
        cover = cover * (1 - gone)
    rgb = lit(albedo, normals(height, p.unit), stage.light, 0.06, 12)
    return Sprite(p, rgb, cover, flaw, lift=b * 0.7, shadow=0.6)


def banana_chip(stage: Stage, part: Part) -> Sprite:
    """A fried slice: slightly curled, pale flesh, seed ring in the middle, darker edge."""
    rng = np.random.default_rng(part.seed)
    r = 0.049 * part.scale
    p = stage.patch(part.x, part.y, r * 1.25, part.angle)
    # Slices are cut at a slant, so they are slightly oval.
    x, y = p.x_HW, p.y_HW * rng.uniform(1.02, 1.18)
    theta = np.arctan2(y, x)
    d = circle(x, y, r) + r * (
        0.04 * np.sin(3 * theta + rng.uniform(0, 6)) + 0.03 * fractal(rng, p.shape, 5, 5, 2)
    )
    k = 1 + d / r
    # Frying bends the rim up on two sides.
    curl = rng.uniform(0.10, 0.2)
    height = dome(d, 0.10 * r, 0.09 * r) + curl * r * np.clip(k, 0, 1) ** 2 * np.cos(
        2 * theta + rng.uniform(0, 6)
    )
    # Three rays of seeds around the middle.
    rays = np.cos(3 * theta + rng.uniform(0, 6))
    seeds = np.exp(-(((k - 0.26 - 0.05 * rays) / 0.10) ** 2))
    height += r * (0.018 * fractal(rng, p.shape, 12, 12, 2) - 0.03 * seeds)
    flesh = jitter(rng, linear("#e9c877"), 0.08)
    tone = 1 - 0.22 * seeds * (0.7 + 0.3 * rays) + 0.07 * fractal(rng, p.shape, 8, 8, 3)
    # The rim is fried darker.
    edge = np.exp(-(((k - 0.97) / 0.07) ** 2)) * 0.55
    albedo = mix(tint(tone, flesh), linear("#b9863a"), edge)
    flaw = None
    if part.flaw == "burnt":
        # Burnt from one side, with a noisy border.
        scorch = ramp(fractal(rng, p.shape, 3, 3, 3) + x / r * 0.9, -0.55, 0.25)
        albedo = mix(albedo, 0.55 * linear("#2a1709"), 0.88 * scorch)
        flaw = scorch * p.cover(d)
    rgb = lit(albedo, normals(height, p.unit), stage.light, 0.10, 20)
    return Sprite(p, rgb, p.cover(d), flaw, lift=r * 0.20, shadow=0.55)


PAINT = {"mandarin": mandarin, "walnut": walnut, "almond": almond, "banana_chip": banana_chip}

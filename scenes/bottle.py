"""Product `bottle`: a labelled juice bottle, front view.

Rule: the fruit on the upper label matches the juice; the bottle is filled to the line in
its neck; a white cap closes it; the text label sits below the fruit label.
"""

import math
from dataclasses import replace

import numpy as np

from scenes.bottle_labels import FRUITS, paint_label
from scenes.bottle_shape import AXIS_Y, glass, outline, strips
from scenes.lighting import diffuse, lit
from scenes.materials import Rng, fractal, jitter, linear, noise
from scenes.planes import WHITE, mix, tint, triple
from scenes.records import Defect, Layout, Part
from scenes.shapes import Patch, ramp
from scenes.stage import Sprite, Stage

Array = np.ndarray
RULE = (
    "label fruit = juice; filled to the neck line; white cap on; "
    "fruit label above, text label below"
)
BACKDROP = "studio"
# A standing bottle barely turns or shifts in the image; see `render._pose`.
UPRIGHT = True
# Height of the juice surface in the product frame.
LEVEL = 0.255
LABEL_Y, TEXT_Y = 0.525, 0.745
JUICE = {"orange": "#f08a0a", "cherry": "#8c0f1c", "lime": "#a9bf2a"}
# The second value is the fraction of the image at which sPRO saturates.
DEFECTS = {
    "wrong_label": Defect("logical", 0.015),
    "missing_label": Defect("logical", 0.040),
    "missing_text_label": Defect("logical", 0.025),
    "swapped_labels": Defect("logical", 0.025),
    "underfilled": Defect("logical", 0.008),
    "missing_cap": Defect("logical", 0.009),
    "torn_label": Defect("structural"),
    "smudged_label": Defect("structural"),
    "particles": Defect("structural"),
    "scratch": Defect("structural"),
}


def layout(rng: Rng) -> Layout:
    """Juice, cap and two labels; labels are slightly off, as a labelling machine places them."""
    fruit = str(rng.choice(sorted(JUICE)))

    def part(name: str, y: float, slack: float) -> Part:
        dx, dy, turn = rng.uniform(-1, 1, 3) * slack
        return Part(
            name, 0.5 + float(dx), y + float(dy), float(turn), seed=int(rng.integers(2**31))
        )

    parts = (
        part(f"liquid_{fruit}", LEVEL, 0.0),
        part("cap", 0.115, 0.0),
        part(f"label_{fruit}", LABEL_Y, 0.005),
        part("text_label", TEXT_Y, 0.005),
    )
    # Where a scratch would be; drawn for every plan, so that all defects use the same draws.
    spot = (float(rng.uniform(0.42, 0.58)), float(rng.uniform(0.33, 0.40)))
    return Layout(parts, int(rng.integers(2**31)), spot=spot)


def spoil(plan: Layout, defect: str, rng: Rng) -> Layout:
    """The plan with one defect."""
    liquid, cap, label, text = plan.parts
    if defect == "wrong_label":
        # Any fruit but the one of the juice.
        other = str(rng.choice([fruit for fruit in sorted(FRUITS) if fruit not in label.name]))
        label = replace(label, name=f"label_{other}", region=0)
    elif defect == "missing_label":
        label = replace(label, ghost=True, region=0)
    elif defect == "missing_text_label":
        text = replace(text, ghost=True, region=0)
    elif defect == "swapped_labels":
        # Both labels change height; the offsets allow for their different heights.
        label, text = (
            replace(label, y=text.y + 0.012, region=0),
            replace(text, y=label.y - 0.035, region=1),
        )
    elif defect == "underfilled":
        # The surface sinks below the neck line at 0.255 but stays above the label.
        liquid = replace(liquid, y=float(rng.uniform(0.305, 0.36)), flaw="low", region=0)
    elif defect == "missing_cap":
        cap = replace(cap, ghost=True, region=0)
    elif defect == "particles":
        liquid = replace(liquid, flaw="particles", region=0)
    elif defect == "scratch":
        return replace(plan, flaw="scratch")
    else:
        flaw = {"torn_label": "torn", "smudged_label": "smudged"}[defect]
        # Either label can be damaged.
        if rng.random() < 0.5:
            label = replace(label, flaw=flaw, region=0)
        else:
            text = replace(text, flaw=flaw, region=0)
    return replace(plan, parts=(liquid, cap, label, text))


def draw_base(stage: Stage, plan: Layout) -> None:
    """Draw the shadow on the shelf, then the empty bottle."""
    shadow = stage.patch(0.5, 0.880, 0.07, over=1, narrow=0.50)
    # An elliptical contact shadow, shifted away from the lamp.
    k = np.hypot((shadow.x_HW + 0.10 * stage.light.x) / 0.19, shadow.y_HW / 0.020)
    stage.blend(shadow, np.zeros(3, np.float32), (0.62 * np.exp(-k * k)).astype(np.float32))
    stage.put(glass(stage))
    stage.product_HW |= _silhouette(stage)


def paint(stage: Stage, part: Part) -> Sprite:
    if part.name.startswith("liquid_"):
        return _liquid(stage, part)
    if part.name == "cap":
        return _cap(stage, part)
    return paint_label(stage, part)


def draw_over(stage: Stage, plan: Layout) -> None:
    """Draw the scratch, if any; it runs over glass and labels."""
    if plan.flaw != "scratch":
        return
    rng = np.random.default_rng(plan.seed)
    p = stage.patch(*plan.spot, 0.10, float(rng.uniform(0, 3.14)))
    path = 0.006 * fractal(rng, (1, p.shape[1]), 1, 5, 3)
    # Thickest in the middle, running out towards both ends.
    d = np.abs(p.y_HW - path) - 0.0022 * (1 - (p.x_HW / 0.085) ** 2)
    d = np.maximum(d, np.abs(p.x_HW) - 0.08)
    stage.blend(p, np.full(3, 0.85, np.float32), 0.75 * p.cover(d))
    # The marked region is a little wider than the visible line; samples are averaged to pixels.
    wide = p.cover(d - 0.002).reshape(p.height, p.over, p.width, p.over).mean((1, 3))
    stage.mark(0, p, wide > 0.5)


def _silhouette(stage: Stage) -> Array:
    # One sample per pixel is enough for a bool mask.
    p = stage.patch(0.5, 0.5, 0.46, over=1, narrow=0.18)
    mask_HW = np.zeros((stage.size, stage.size), bool)
    d, _ = outline(p, p.y_HW)
    mask_HW[p.top : p.top + p.height, p.left : p.left + p.width] = d < 0
    return mask_HW


def _liquid(stage: Stage, part: Part) -> Sprite:
    """Cloudy juice: darker towards the sides, a bright elliptical surface with a foam line."""
    rng = np.random.default_rng(part.seed)
    # One sample per pixel is enough: the soft edge comes from `cover`.
    # One sample per pixel is enough here too: `cover` gives soft edges.
    p = stage.patch(0.5, 0.5, 0.46, over=1, narrow=0.18)
    x, y = p.x_HW, p.y_HW
    d, radius = outline(p, y)
    # The juice fills the bottle up to the thickness of the glass.
    d = d + 0.0085
    inner = np.maximum(radius - 0.0085, 1e-3)
    t = np.clip(x / inner, -1, 1)
    # Along a ray through a cylinder the juice is deepest in the middle.
    bulge = np.sqrt(np.maximum(1 - t * t, 0))
    colour = jitter(rng, linear(JUICE[part.name.removeprefix("liquid_")]), 0.06)
    # Normals of a flattened cylinder: full ones would turn black at the sides.
    n = (0.75 * t, np.zeros_like(t), np.sqrt(1 - (0.75 * t) ** 2))
    depth = 0.62 + 0.38 * bulge
    cloud = 1 + 0.05 * fractal(rng, p.shape, 6, 4, 3)
    # Light that the glass guides to the sides.
    glow = 0.25 * np.exp(-(((np.abs(t) - 0.80) / 0.10) ** 2))
    rgb = tint(cloud * depth * diffuse(n, stage.light) + glow, colour)

    def surface(level: float) -> tuple[Array, Array]:
        """Coverage below the level, and the visible ellipse of the surface."""
        # The ellipse spans the inner width at that height; seen from slightly above it dips in
        # front.
        half = np.interp(level - AXIS_Y, y[:, 0], inner[:, 0]) if p.shape[0] else 0.1
        dip = 0.011 * np.sqrt(np.maximum(1 - (x / half) ** 2, 0))
        below = p.cover(-(y - (level - AXIS_Y) + dip))
        top = p.cover(np.abs(y - (level - AXIS_Y)) - dip) * (dip > 0)
        return below, top

    below, top = surface(part.y)
    # A line of foam just below the surface.
    foam = np.exp(-(((y - (part.y - AXIS_Y) - 0.010) / 0.004) ** 2)) * 0.35
    rgb = mix(rgb, colour * 0.55 + 0.40, foam)
    bright = tint(0.9 + 0.1 * noise(rng, p.shape, 40, 80), colour * 0.6 + 0.22)
    rgb = mix(rgb, bright, top)
    alpha = p.cover(d) * below
    flaw = None
    if part.flaw == "low":
        # The region of an underfilled bottle is the juice that is missing.
        flaw = p.cover(d) * (surface(LEVEL)[0] - below)
    elif part.flaw == "particles":
        rgb, flaw = _particles(rng, p, rgb)
    # The glass in front of the juice reflects the lamp.
    rgb = mix(rgb, WHITE, strips(stage, t, p.cover(d), y))
    return Sprite(p, rgb, alpha * 0.985, flaw)


def _particles(rng: Rng, p: Patch, rgb: Array) -> tuple[Array, Array]:
    """Dark flakes that float in the juice above the label."""
    flaw = np.zeros(p.shape, np.float32)
    for _ in range(int(rng.integers(3, 7))):
        x, y = rng.uniform(-0.085, 0.085), rng.uniform(-0.155, -0.115)
        turn, a = rng.uniform(0, 3.14), rng.uniform(0.006, 0.012)
        c, s = math.cos(turn), math.sin(turn)
        u = c * (p.x_HW - x) + s * (p.y_HW - y)
        v = c * (p.y_HW - y) - s * (p.x_HW - x)
        flaw = np.maximum(flaw, p.cover(np.hypot(u, v * rng.uniform(1.4, 2.4)) - a))
    return mix(rgb, linear("#1d130c"), 0.9 * flaw), flaw


def _cap(stage: Stage, part: Part) -> Sprite:
    """A ribbed screw cap of white plastic."""
    rng = np.random.default_rng(part.seed)
    p = stage.patch(part.x, part.y, 0.085)
    x, y = p.x_HW, p.y_HW
    r = 0.066
    t = np.clip(x / r, -1, 1)
    half = 0.036
    # Seen from slightly above, both rims of the cap are arcs.
    curve = 0.006 * np.sqrt(np.maximum(1 - t * t, 0))
    d = np.maximum(np.abs(x) - r, np.maximum(-half - curve - y, y - half - curve))
    # Bevel the upper corners.
    d = np.maximum(d, (np.abs(x) - r + (-half - y) + 0.006) * 0.7)
    theta = np.arcsin(t)
    # Ribs run down the side only, not over the top and not over the lower ring.
    on_side = ramp(y, -half + 0.010, -half + 0.016) * (1 - ramp(y, half - 0.010, half - 0.006))
    rib = np.sin(theta * 30) * on_side
    # The ribs tilt the normals left and right.
    bent = np.clip(theta + 0.30 * np.cos(theta * 30) * on_side, -1.5, 1.5)
    nx = np.sin(bent)
    # The top edge faces up towards the lamp.
    ny = -0.55 * (1 - ramp(y, -half, -half + 0.010))
    nz = np.sqrt(np.maximum(1 - nx * nx, 0.02))
    norm = np.sqrt(nx * nx + ny * ny + nz * nz)
    albedo = tint(1 + 0.05 * rib, jitter(rng, linear("#e4e6e6"), 0.04))
    rgb = lit(albedo, (nx / norm, ny / norm, nz / norm), stage.light, 0.22, 25)
    # A dark line between the cap and its tamper ring.
    ring = np.exp(-(((y - curve - half + 0.009) / 0.0018) ** 2))
    return Sprite(p, rgb * triple(1 - 0.5 * ring), p.cover(d))

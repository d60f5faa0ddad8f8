"""Product `pins`: a compartment box of push pins, 3 rows of 5 cells.

Rule: exactly one pin in every cell; the top row is yellow, the middle row red, the bottom row blue.
"""

import math
from dataclasses import replace

import numpy as np

from scenes.lighting import diffuse, highlight, metal, normals
from scenes.materials import Rng, fractal, jitter, linear, noise
from scenes.moulded import Cell, moulded, stain
from scenes.planes import mix, tint, triple
from scenes.records import Defect, Layout, Part
from scenes.shapes import lathe, profile, ramp
from scenes.stage import Sprite, Stage

RULE = "exactly one pin per cell; rows from top to bottom are yellow, red, blue"
BACKDROP = "cardboard"
ROWS, COLUMNS = 3, 5
ROW_COLOURS = ("yellow", "red", "blue")
_PLASTIC = {"yellow": "#f0b90c", "red": "#c81f1a", "blue": "#1d55b4"}
# Left and top edge of the first cell, pitch of columns and rows, thickness of a wall.
_LEFT, _TOP, _WIDE, _HIGH, _WALL = 0.075, 0.150, 0.170, 0.2333, 0.014
# The second value is the fraction of the image at which sPRO saturates: about the area of one pin.
DEFECTS = {
    "missing_pin": Defect("logical", 0.0022),
    "two_pins": Defect("logical", 0.0022),
    "moved_pin": Defect("logical", 0.0022),
    "wrong_colour": Defect("logical", 0.0022),
    "swapped_pins": Defect("logical", 0.0022),
    "broken_head": Defect("structural"),
    "bent_needle": Defect("structural"),
    "dirty_cell": Defect("structural"),
    "cracked_box": Defect("structural"),
}


def cell(row: int, column: int) -> Cell:
    """x0, y0, x1, y1 of one cell's opening."""
    x, y = _LEFT + column * _WIDE, _TOP + row * _HIGH
    return (x + _WALL / 2, y + _WALL / 2, x + _WIDE - _WALL / 2, y + _HIGH - _WALL / 2)


CELLS = tuple(cell(row, column) for row in range(ROWS) for column in range(COLUMNS))


def layout(rng: Rng) -> Layout:
    """One pin per cell, at any angle."""
    parts = [
        _pin(rng, row, column, ROW_COLOURS[row]) for row in range(ROWS) for column in range(COLUMNS)
    ]
    return Layout(tuple(parts), int(rng.integers(2**31)))


def spoil(plan: Layout, defect: str, rng: Rng) -> Layout:
    """The plan with one defect."""
    parts = list(plan.parts)
    k = int(rng.integers(len(parts)))
    row, column = divmod(k, COLUMNS)
    if defect == "missing_pin":
        parts[k] = replace(parts[k], ghost=True, region=0)
    elif defect == "two_pins":
        parts.append(_second(rng, parts[k], row, column, 0))
    elif defect == "moved_pin":
        # Into the cell beside it: one cell is empty, its neighbour holds two pins of its colour.
        beside = column + 1 if column + 1 < COLUMNS else column - 1
        neighbour = parts[row * COLUMNS + beside]
        parts[k] = replace(parts[k], ghost=True, region=0)
        parts.append(_second(rng, neighbour, row, beside, 1))
    elif defect == "wrong_colour":
        other = str(rng.choice([colour for colour in ROW_COLOURS if colour != ROW_COLOURS[row]]))
        parts[k] = replace(parts[k], name=f"pin_{other}", region=0)
    elif defect == "swapped_pins":
        # Always another row: pins of one row have the same colour.
        far = (row + int(rng.integers(1, ROWS))) % ROWS
        j = far * COLUMNS + int(rng.integers(COLUMNS))
        a, b = parts[k], parts[j]
        parts[k] = replace(a, name=b.name, region=0)
        parts[j] = replace(b, name=a.name, region=1)
    elif defect in ("dirty_cell", "cracked_box"):
        x0, y0, x1, y1 = CELLS[k]
        # Away from the walls, so that the damage is seen whole.
        spot = (float(rng.uniform(x0 + 0.04, x1 - 0.04)), float(rng.uniform(y0 + 0.05, y1 - 0.05)))
        return replace(plan, flaw=defect, spot=spot)
    else:
        flaw = {"broken_head": "broken", "bent_needle": "bent"}[defect]
        parts[k] = replace(parts[k], flaw=flaw, region=0)
    return replace(plan, parts=tuple(parts))


def draw_base(stage: Stage, plan: Layout) -> None:
    """The box: pale translucent polypropylene."""
    rng = np.random.default_rng(plan.seed)
    colour = jitter(rng, linear("#c3cad0"), 0.06)
    moulded(
        stage,
        rng,
        (0.435, 0.360),
        CELLS,
        colour,
        depth=0.034,
        wall=0.010,
        corner=0.016,
        rim=0.010,
        lip=0.0,
        gloss=0.35,
    )
    if plan.flaw == "dirty_cell":
        stain(stage, rng, *plan.spot, rng.uniform(0.03, 0.042), linear("#2b241d"), 0)
    elif plan.flaw == "cracked_box":
        _crack(stage, rng, *plan.spot)


def paint(stage: Stage, part: Part) -> Sprite:
    """A push pin on its side: grip disc, waist, collar (glossy plastic) and a steel needle."""
    rng = np.random.default_rng(part.seed)
    # A damaged pin may leave its straight outline.
    wide = 0.074 if part.flaw else 0.034
    p = stage.long_patch(part.x, part.y, 0.070, wide, part.angle)
    x, y = p.x_HW, p.y_HW
    # Position along the axis and radius: grip disc, waist, collar. The needle is separate.
    head = profile(
        x,
        [
            (-0.066, 0.0255),
            (-0.0645, 0.0285),
            (-0.0585, 0.0285),
            (-0.0565, 0.0265),
            (-0.052, 0.0165),
            (-0.040, 0.0128),
            (-0.026, 0.0122),
            (-0.016, 0.0150),
            (-0.011, 0.0215),
            (-0.0085, 0.0235),
            (-0.004, 0.0235),
            (-0.0025, 0.021),
            (-0.002, 0.0),
        ],
    )
    bent_y = y
    if part.flaw == "bent":
        # Shear the needle's coordinates beyond the collar, to either side.
        bent_y = y - float(rng.choice([-1, 1])) * 0.75 * np.maximum(x - 0.015, 0)
    needle = profile(x, [(-0.004, 0.0034), (0.050, 0.0034), (0.066, 0.0004)])
    d_head, h_head = lathe(y, head)
    d_needle, h_needle = lathe(bent_y, needle)
    cut = np.zeros(p.shape, np.float32)
    if part.flaw == "broken":
        jag = 0.006 * fractal(rng, p.shape, 6, 6, 3)
        # The grip disc has broken off along a slanted, jagged line.
        cut = ramp(jag - 0.046 - x + 0.35 * y, -p.unit, p.unit)
    # A little noise softens the disc's sharp steps, as moulded edges are.
    height = np.maximum(h_head, h_needle) + 0.0002 * noise(rng, p.shape, 12, 12)
    n = normals(height, p.unit)
    colour = jitter(rng, linear(_PLASTIC[part.name.removeprefix("pin_")]), 0.07)
    # Translucency: light that enters the plastic leaves it on the side away from the lamp.
    through = 0.22 * np.maximum(-n[0] * stage.light.x - n[1] * stage.light.y, 0)
    body = tint(diffuse(n, stage.light) + through, colour)
    body += triple(0.75 * highlight(n, stage.light, 55))
    steel = metal(n, stage.light, np.array([0.95, 0.96, 1.0], np.float32))
    a_head, a_needle = p.cover(d_head) * (1 - cut), p.cover(d_needle)
    if part.flaw == "broken":
        # The fracture is paler than the surface.
        pale = np.exp(-(((cut - 0.5) / 0.4) ** 2)) * 0.5
        body = mix(body, colour * 0.6 + 0.35, pale)
    rgb = mix(steel, body, a_head)
    alpha = np.maximum(a_head, a_needle)
    flaw = None
    if part.flaw == "broken":
        flaw = p.cover(d_head) * cut
    elif part.flaw == "bent":
        # The region holds the needle as it is and where it should be.
        straight = p.cover(lathe(y, needle)[0])
        flaw = np.maximum(a_needle, straight) * (x > 0.012)
    return Sprite(p, rgb, alpha, flaw, lift=0.014, shadow=0.6)


def draw_over(stage: Stage, plan: Layout) -> None:
    """Nothing lies over the pins."""


def _pin(rng: Rng, row: int, column: int, colour: str) -> Part:
    x0, y0, x1, y1 = cell(row, column)
    angle = float(rng.uniform(0, 6.283))
    # The pin's length along each axis decides how far its middle may wander.
    reach_x = 0.066 * abs(math.cos(angle)) + 0.028 * abs(math.sin(angle))
    reach_y = 0.066 * abs(math.sin(angle)) + 0.028 * abs(math.cos(angle))
    free_x = max(0.0, (x1 - x0) / 2 - 0.010 - reach_x)
    free_y = max(0.0, (y1 - y0) / 2 - 0.010 - reach_y)
    x = (x0 + x1) / 2 + float(rng.uniform(-1, 1)) * free_x
    y = (y0 + y1) / 2 + float(rng.uniform(-1, 1)) * free_y
    return Part(f"pin_{colour}", x, y, angle, seed=int(rng.integers(2**31)))


def _second(rng: Rng, first: Part, row: int, column: int, region: int) -> Part:
    """Another pin of the row's colour in a cell, beside the one that lies there."""
    # All 24 candidates are drawn before one is chosen, so the number of draws is fixed.
    tries = [_pin(rng, row, column, ROW_COLOURS[row]) for _ in range(24)]
    roomy = max(tries, key=lambda pin: _gap(first, pin))
    return replace(roomy, region=region)


def _gap(a: Part, b: Part) -> float:
    """Smallest distance between points along two pins."""
    t = np.linspace(-0.06, 0.06, 7)
    ends = [
        np.stack([pin.x + t * np.cos(pin.angle), pin.y + t * np.sin(pin.angle)], 1)
        for pin in (a, b)
    ]
    return float(np.sqrt(((ends[0][:, None] - ends[1][None]) ** 2).sum(-1)).min())


def _crack(stage: Stage, rng: Rng, x: float, y: float) -> None:
    """A jagged dark line with a bright lip, running across walls and floor."""
    p = stage.patch(x, y, 0.13, float(rng.uniform(0, 6.28)), over=1)
    body = stage.product_HW[p.top : p.top + p.height, p.left : p.left + p.width]
    path = 0.016 * fractal(rng, (1, p.shape[1]), 1, 7, 4)
    d = np.abs(p.y_HW - path) - 0.0024 * (1 - (p.x_HW / 0.12) ** 2)
    # The crack ends at the box: outside it the distance is set to 1.
    d = np.where(body, np.maximum(d, np.abs(p.x_HW) - 0.115), 1).astype(np.float32)
    # Two strokes: a bright edge first, then the dark crack on top.
    lip = body * p.cover(np.abs(p.y_HW - path - 0.004) - 0.0015) * (np.abs(p.x_HW) < 0.10)
    stage.blend(p, np.full(3, 0.85, np.float32), 0.55 * lip)
    alpha = p.cover(d)
    stage.blend(p, np.full(3, 0.03, np.float32), 0.85 * alpha)
    stage.mark(0, p, d < 0.003)

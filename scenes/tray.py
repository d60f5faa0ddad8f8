"""Product `tray`: a fruit-and-nut tray with four compartments.

Rule: top left 2 mandarins; bottom left 3 walnuts; top right 6 almonds; bottom right 5 banana
chips. Nothing else, and no kind in another compartment than its own.
"""

import math
from dataclasses import replace

import numpy as np

from scenes.foods import PAINT
from scenes.materials import Rng, jitter, linear
from scenes.moulded import Cell, moulded, stain
from scenes.records import Defect, Layout, Part
from scenes.shapes import scatter
from scenes.stage import Sprite, Stage

RULE = (
    "top left 2 mandarins, bottom left 3 walnuts, top right 6 almonds, "
    "bottom right 5 banana chips, nothing else"
)
BACKDROP = "wood"
# The compartment of each kind, x0, y0, x1, y1 in the product frame.
CELLS: dict[str, Cell] = {
    "mandarin": (0.085, 0.155, 0.485, 0.500),
    "walnut": (0.085, 0.530, 0.485, 0.845),
    "almond": (0.515, 0.155, 0.915, 0.465),
    "banana_chip": (0.515, 0.495, 0.915, 0.845),
}
COUNTS = {"mandarin": 2, "walnut": 3, "almond": 6, "banana_chip": 5}
# Half the distance that the centres of two parts of a kind keep.
REACH = {"mandarin": 0.080, "walnut": 0.064, "almond": 0.045, "banana_chip": 0.047}
# The second value is the fraction of the image at which sPRO saturates: the visible area of one
# such part.
DEFECTS = {
    "missing_mandarin": Defect("logical", 0.016),
    "missing_walnut": Defect("logical", 0.009),
    "missing_almond": Defect("logical", 0.004),
    "missing_banana_chip": Defect("logical", 0.0055),
    "extra_almond": Defect("logical", 0.004),
    "extra_walnut": Defect("logical", 0.009),
    "misplaced_almond": Defect("logical", 0.004),
    "swapped_kinds": Defect("logical", 0.004),
    "mouldy_mandarin": Defect("structural"),
    "broken_almond": Defect("structural"),
    "burnt_chip": Defect("structural"),
    "spill": Defect("structural"),
}


def layout(rng: Rng) -> Layout:
    """Scatter every kind in its compartment."""
    parts: list[Part] = []
    for kind, count in COUNTS.items():
        for x, y in scatter(rng, count, _inside(kind, CELLS[kind]), REACH[kind]):
            parts.append(
                Part(
                    kind,
                    x,
                    y,
                    float(rng.uniform(0, 6.283)),
                    float(rng.uniform(0.94, 1.06)),
                    int(rng.integers(2**31)),
                )
            )
    return Layout(tuple(parts), int(rng.integers(2**31)))


def spoil(plan: Layout, defect: str, rng: Rng) -> Layout:
    """The plan with one defect."""
    parts = list(plan.parts)
    if defect.startswith("missing_"):
        k = _pick(parts, defect.removeprefix("missing_"), rng)
        parts[k] = replace(parts[k], ghost=True, region=0)
    elif defect.startswith("extra_"):
        kind = defect.removeprefix("extra_")
        parts.append(_another(plan, kind, CELLS[kind], rng))
    elif defect == "misplaced_almond":
        k = _pick(parts, "almond", rng)
        # Into a compartment of another kind; both the empty place and the new one are regions.
        home = str(rng.choice(["mandarin", "walnut", "banana_chip"]))
        moved = _another(plan, "almond", CELLS[home], rng)
        parts[k] = replace(parts[k], ghost=True, region=0)
        parts.append(replace(moved, region=1))
    elif defect == "swapped_kinds":
        # One almond and one banana chip change places.
        i, j = _pick(parts, "almond", rng), _pick(parts, "banana_chip", rng)
        a, b = parts[i], parts[j]
        parts[i] = replace(a, x=b.x, y=b.y, region=0)
        parts[j] = replace(b, x=a.x, y=a.y, region=1)
    elif defect == "spill":
        return replace(plan, flaw="spill", spot=_clear_spot(plan, rng))
    else:
        kind, flaw = {
            "mouldy_mandarin": ("mandarin", "mould"),
            "broken_almond": ("almond", "broken"),
            "burnt_chip": ("banana_chip", "burnt"),
        }[defect]
        # The one of its kind that is drawn last, so that nothing hides the damage.
        k = max(i for i, part in enumerate(parts) if part.name == kind)
        parts[k] = replace(parts[k], flaw=flaw, region=0)
    return replace(plan, parts=tuple(parts))


def draw_base(stage: Stage, plan: Layout) -> None:
    """The tray: white moulded plastic."""
    rng = np.random.default_rng(plan.seed)
    colour = jitter(rng, linear("#dcdcd6"), 0.05)
    moulded(
        stage,
        rng,
        (0.455, 0.385),
        tuple(CELLS.values()),
        colour,
        depth=0.042,
        wall=0.030,
        corner=0.045,
        rim=0.014,
        lip=0.0045,
    )
    if plan.flaw == "spill":
        stain(stage, rng, *plan.spot, rng.uniform(0.055, 0.075), linear("#6b2a1c"), 0)


def paint(stage: Stage, part: Part) -> Sprite:
    return PAINT[part.name](stage, part)


def draw_over(stage: Stage, plan: Layout) -> None:
    """Nothing lies over the food."""


def _inside(kind: str, cell: Cell) -> Cell:
    # The margin keeps parts off the sloped walls.
    margin = REACH[kind] + 0.022
    return (cell[0] + margin, cell[1] + margin, cell[2] - margin, cell[3] - margin)


def _pick(parts: list[Part], kind: str, rng: Rng) -> int:
    return int(rng.choice([i for i, part in enumerate(parts) if part.name == kind]))


def _clear_spot(plan: Layout, rng: Rng) -> tuple[float, float]:
    """Of a few random points on a floor, the one farthest from all food: a spill must be seen."""
    x0, y0, x1, y1 = CELLS[str(rng.choice(list(CELLS)))]
    # Twelve candidates, at least 0.06 from the walls.
    points = [
        (float(rng.uniform(x0 + 0.06, x1 - 0.06)), float(rng.uniform(y0 + 0.06, y1 - 0.06)))
        for _ in range(12)
    ]
    return max(
        points,
        key=lambda point: min(
            math.hypot(part.x - point[0], part.y - point[1]) - REACH[part.name]
            for part in plan.parts
        ),
    )


def _another(plan: Layout, kind: str, cell: Cell, rng: Rng) -> Part:
    """One more part of that kind in a free place of the compartment."""
    taken = tuple((part.x, part.y) for part in plan.parts)
    x, y = scatter(rng, 1, _inside(kind, cell), REACH[kind], taken)[0]
    return Part(kind, x, y, float(rng.uniform(0, 6.283)), seed=int(rng.integers(2**31)), region=0)

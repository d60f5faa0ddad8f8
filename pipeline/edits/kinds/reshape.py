"""Planning what is wrong about a part that stays: its orientation, its size, its colour.

A part that looks the same after a turn is not turned: nobody could see that it is wrong.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from pipeline.edits.appearance import turn_shows
from pipeline.edits.context import Stock
from pipeline.edits.donors import Donors
from pipeline.edits.placement import Found, fits
from pipeline.imaging.masks import Cut, main_axis, stretching, turning

STEP = 15
"""Turns are multiples of this many degrees, from LEAST_TURN on."""
LEAST_TURN = 30
SCALES = ((0.5, 0.75), (1.3, 1.7))
"""A part becomes clearly smaller or clearly larger; between the two a customer sees nothing."""
SLENDER = 3.0
"""Length to width from which a part is made longer or shorter, not larger: a cable, a rod."""
LEAST_PX = 40
"""Area in pixels below which a part made smaller is lost."""
HELD = 0.99
"""Share of the part in its new outline that must lie on its ground: a label stays on its bottle."""
TARGETS = 6
"""Parts that are looked at for a turn; more would cost a moment per part."""
TRIES = 12
"""Turns or sizes that are tried per part."""
HUES = tuple(range(60, 301, 30))
"""Turns of the hue, degrees, where no other part lends its colour."""


def orientation(stock: Stock, rng: np.random.Generator, donors: Donors) -> Found | None:
    """A part turned (one time in twelve mirrored) about its middle.

    A part that lies anyhow in good images, or looks the same after the turn, is left alone.
    """
    for target in _shuffled(stock, rng)[:TARGETS]:
        if stock.lies_anyhow(target, donors):
            continue
        for _ in range(TRIES):
            mirror = bool(rng.random() < 1 / 12)
            turn = 0 if mirror else STEP * int(rng.integers(LEAST_TURN // STEP, 360 // STEP - 1))
            after = stock.once(
                partial(_turned, stock, target, turn, mirror), "turned", target, turn, mirror
            )
            if after is not None:
                parameters = {"turn": turn, "mirror": mirror}
                return (target,), parameters, [stock.cuts[target].box_4, after.box_4]
    return None


def _turned(stock: Stock, target: int, turn: int, mirror: bool) -> Cut | None:
    """The part's outline after a turn; None where it does not fit, or looks as it did."""
    matrix_22 = turning(turn, mirror)
    after = stock.cuts[target].warped(matrix_22)
    if not fits(stock, target, after, stock.ground(target), HELD):
        return None
    return after if turn_shows(stock.own_look(target), matrix_22) else None


def size(stock: Stock, rng: np.random.Generator) -> Found | None:
    """A part grown or shrunk about its middle; a slender one along its length."""
    for target in _shuffled(stock, rng):
        cut = stock.cuts[target]
        ground_HW = stock.ground(target)
        axis, slenderness = main_axis(cut.mask_hw)
        along = axis if slenderness >= SLENDER else None
        for _ in range(TRIES):
            low, high = SCALES[int(rng.integers(2))]
            scale = round(float(rng.uniform(low, high)), 3)
            if scale < 1 and cut.area * scale**2 < LEAST_PX:
                continue
            after = cut.warped(stretching(scale, along))
            if fits(stock, target, after, ground_HW, HELD):
                parameters = {"scale": scale, "along": along}
                return (target,), parameters, [cut.box_4, after.box_4]
    return None


def colour(stock: Stock, rng: np.random.Generator) -> Found | None:
    """A part in the colour of another part of the product, else in a hue far from its own."""
    target = int(rng.integers(len(stock)))
    for other in rng.permutation(len(stock)).tolist():
        lab_3 = stock.colour(other)
        if lab_3 is not None and stock.far_in_colour(target, other):
            lab = [round(float(value), 2) for value in lab_3]
            return (target,), {"lab": lab, "like": other}, [stock.cuts[target].box_4]
    hue = int(rng.choice(HUES))
    return (target,), {"hue": hue}, [stock.cuts[target].box_4]


def map_of(parameters: Mapping[str, Any]) -> np.ndarray:
    """The 2 x 2 map that an edit of the orientation or the size applies to its part."""
    if "scale" in parameters:
        return stretching(parameters["scale"], parameters["along"])
    return turning(parameters["turn"], parameters["mirror"])


def _shuffled(stock: Stock, rng: np.random.Generator) -> list[int]:
    return [int(part) for part in rng.permutation(stock.movable())]

"""Planning what changes places: missing, extra, misplaced, swapped, wrong order, and the controls.

Offsets are whole pixels, so a pasted part keeps its grain.
"""

from itertools import combinations
from typing import Any

import numpy as np

from pipeline.edits.appearance import SIMILAR_AREA
from pipeline.edits.context import Stock
from pipeline.imaging.masks import Box, Cut

Found = tuple[tuple[int, ...], dict[str, Any], list[Box]]
"""Targets, the kind's own parameters, and the boxes of all outlines before and after."""

PLACES = 96
"""Random destinations that are tried before an edit is given up."""
MAX_OVERLAP = 0.15
"""Share of a part that may come to lie on other parts of its own size or smaller."""
MIN_GROUND = 0.95
"""Share of a part that must lie on ground of the kind that it came from."""
CYCLES = 32
"""Random sets of parts that are tried for an order."""
MAX_CYCLE = 5
"""Most parts that one wrong order moves."""


def missing(stock: Stock, rng: np.random.Generator) -> Found:
    target = int(rng.integers(len(stock)))
    return (target,), {}, [stock.cuts[target].box_4]


def extra(stock: Stock, rng: np.random.Generator) -> Found | None:
    return _moved(stock, rng, stays=True)


def misplaced(stock: Stock, rng: np.random.Generator) -> Found | None:
    return _moved(stock, rng, stays=False)


def swapped(stock: Stock, rng: np.random.Generator) -> Found | None:
    """Two separate parts of like area and unlike looks, each brought to the other's middle."""
    pairs = list(combinations(stock.movable(), 2))
    order = [pairs[index] for index in rng.permutation(len(pairs))]
    order.sort(key=lambda pair: not stock.far_in_colour(*pair))  # surely unlike ones first
    for first, second in order:
        offsets = _offsets(stock, (first, second))
        if offsets is not None:
            boxes = _boxes_after(stock, (first, second), offsets)
            before = [stock.cuts[part].box_4 for part in (first, second)]
            parameters = {"offset": offsets[0], "boxes": _lists(before)}
            return (first, second), parameters, before + boxes
    return None


def wrong_order(stock: Stock, rng: np.random.Generator) -> Found | None:
    """Three to five separate, like-sized, unlike parts; each goes to the place of the next.

    Unlike, because a cycle through two of a kind shows as an exchange, which is another kind.
    """
    movable = stock.movable()
    for round_ in range(CYCLES if len(movable) >= 3 else 0):
        strict = round_ < CYCLES // 2  # clearly different colours first, other looks then
        count = int(rng.integers(3, min(MAX_CYCLE, len(movable)) + 1))
        ring = tuple(int(part) for part in rng.permutation(movable)[:count])
        if strict and not all(stock.far_in_colour(*pair) for pair in combinations(ring, 2)):
            continue
        offsets = _offsets(stock, ring)
        if offsets is not None:
            before = [stock.cuts[part].box_4 for part in ring]
            parameters = {"offsets": offsets, "boxes": _lists(before)}
            return ring, parameters, before + _boxes_after(stock, ring, offsets)
    return None


def background(stock: Stock, rng: np.random.Generator) -> Found | None:
    """Ground without any part, in the outline of a real part, so that sizes tell nothing.

    Beside the product first: on it there may be parts that nobody proposed.
    """
    parts_HW = stock.parts_HW()
    beside_HW = parts_HW | stock.proposals.foreground_HW
    height, width = stock.size_HW
    for shape in rng.permutation(len(stock)).tolist():
        cut = stock.cuts[shape]
        rows, columns = cut.mask_hw.shape
        margin = max(2, min(rows, columns) // 8)
        if rows + 2 > height or columns + 2 > width:
            continue
        for number in range(PLACES):
            taken_HW = beside_HW if number < PLACES // 2 else parts_HW
            x = int(rng.integers(1, width - columns))
            y = int(rng.integers(1, height - rows))
            top, left = max(0, y - margin), max(0, x - margin)
            if not taken_HW[top : y + rows + margin, left : x + columns + margin].any():
                offset = (x - cut.x, y - cut.y)
                parameters = {"shape": shape, "offset": list(offset)}
                return (), parameters, [cut.moved(*offset).box_4]
    return None


def surroundings(stock: Stock, rng: np.random.Generator, prompts: tuple[str, ...]) -> Found | None:
    """Everything around the product, to be painted by a prompt; None where the product is all."""
    if stock.proposals.foreground_HW.all():
        return None
    height, width = stock.size_HW
    return (), {"prompt": str(rng.choice(prompts))}, [(0, 0, width, height)]


def fits(
    stock: Stock, target: int, cut: Cut, ground_HW: np.ndarray, held: float = MIN_GROUND
) -> bool:
    """True when a part may lie where the target lies: whole, on its ground, hardly on others."""
    return (
        cut.whole_in(stock.size_HW)
        and cut.share_of(ground_HW) >= held
        and stock.crowded(cut, (target,), SIMILAR_AREA * cut.area) <= MAX_OVERLAP
    )


def _moved(stock: Stock, rng: np.random.Generator, *, stays: bool) -> Found | None:
    movable = stock.movable()
    if not movable:
        return None
    target = movable[int(rng.integers(len(movable)))]
    offset = _free_offset(stock, target, rng, stays=stays)
    if offset is None:
        return None
    before = stock.cuts[target]
    return (target,), {"offset": list(offset)}, [before.box_4, before.moved(*offset).box_4]


def _free_offset(
    stock: Stock, target: int, rng: np.random.Generator, *, stays: bool
) -> tuple[int, int] | None:
    """Where the target may go, else None. With `stays` its own place is taken as well."""
    cut = stock.cuts[target]
    others_N = stock.areas_N <= SIMILAR_AREA * stock.areas_N[target]
    others_N[target] = stays
    taken_HW = stock.once(lambda: stock.union(others_N), "taken", target, stays)
    ground_HW = stock.ground(target)
    rows, columns = cut.mask_hw.shape
    height, width = stock.size_HW
    reach = max(2, min(columns, rows) // 2)  # nearer than this it has not really moved
    lefts = rng.integers(1, width - columns, PLACES).tolist()
    tops = rng.integers(1, height - rows, PLACES).tolist()
    for left, top in zip(lefts, tops, strict=True):
        dx, dy = left - cut.x, top - cut.y
        if dx * dx + dy * dy < reach * reach:
            continue
        place = Cut(cut.mask_hw, left, top)
        if place.share_of(ground_HW) < MIN_GROUND:
            continue
        if place.share_of(taken_HW) <= MAX_OVERLAP:
            return dx, dy
    return None


def _offsets(stock: Stock, ring: tuple[int, ...]) -> list[list[int]] | None:
    """How each part of the ring gets to the middle of the next; None where that does not do."""
    areas = stock.areas_N[list(ring)]
    cuts = [stock.cuts[part] for part in ring]
    if areas.max() > SIMILAR_AREA * areas.min() or _shared(cuts):
        return None
    middles = [(int(cut.centre[0]), int(cut.centre[1])) for cut in cuts]
    offsets = [
        [there[0] - here[0], there[1] - here[1]]
        for here, there in zip(middles, middles[1:] + middles[:1], strict=True)
    ]
    after = [cut.moved(*offset) for cut, offset in zip(cuts, offsets, strict=True)]
    reach = SIMILAR_AREA * float(areas.max())
    for cut in after:
        if not cut.whole_in(stock.size_HW) or stock.crowded(cut, ring, reach) > MAX_OVERLAP:
            return None
    pairs = combinations(ring, 2)
    if stock.image_HW3 is not None and any(stock.alike(one, other) for one, other in pairs):
        return None
    return None if _shared(after) else offsets


def _shared(cuts: list[Cut]) -> bool:
    """True when two outlines share a pixel."""
    return any(one.meets(other) for one, other in combinations(cuts, 2))


def _boxes_after(stock: Stock, ring: tuple[int, ...], offsets: list[list[int]]) -> list[Box]:
    return [
        stock.cuts[part].moved(*offset).box_4 for part, offset in zip(ring, offsets, strict=True)
    ]


def _lists(boxes: list[Box]) -> list[list[int]]:
    return [list(box) for box in boxes]

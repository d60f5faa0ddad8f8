"""Planning a part of the wrong type: something else lies where the right part belongs.

It is a part of another good image (a donor) or of the same image, in its own size, or whatever a
filler paints for a prompt.
"""

from functools import partial

import numpy as np

from pipeline.edits.appearance import SIMILAR_AREA
from pipeline.edits.context import Stock
from pipeline.edits.donors import DonorRef, Donors
from pipeline.edits.placement import Found, fits
from pipeline.imaging.masks import Cut

LENDERS = 24
"""Parts that are tried in the place of one target."""
PROMPTED = 0.5
"""Share of the edits that a filler makes, where there is one."""


def wrong_type(
    stock: Stock,
    rng: np.random.Generator,
    donors: Donors,
    prompts: tuple[str, ...],
    prompted: float,
) -> Found | None:
    """Another part in the target's place, or a prompt with the given probability."""
    if rng.random() < prompted:
        target = int(rng.integers(len(stock)))
        prompt = str(rng.choice(prompts)) if prompts else ""
        return (target,), {"prompt": prompt}, [stock.cuts[target].box_4]
    return _lent(stock, rng, donors, strict=True) or _lent(stock, rng, donors, strict=False)


def _lent(stock: Stock, rng: np.random.Generator, donors: Donors, *, strict: bool) -> Found | None:
    """A borrowed part in a target's place; `strict` asks for a clearly different colour."""
    if strict and stock.image_HW3 is None:
        return None
    count = len(stock) + len(donors.parts)
    for target in rng.permutation(stock.movable()).tolist():
        for index in rng.permutation(count)[:LENDERS].tolist():
            lender = index if index < len(stock) else donors.parts[index - len(stock)]
            found = stock.once(
                partial(_borrowed, stock, target, lender, donors, strict),
                "borrowed", target, lender, strict,
            )  # fmt: skip
            if found is not None:
                targets, parameters, boxes = found
                return targets, dict(parameters), boxes
    return None


def _borrowed(
    stock: Stock, target: int, lender: int | DonorRef, donors: Donors, strict: bool
) -> Found | None:
    """A part in the target's place; None where it is no other type, or does not fit.

    The lender is another part of the image, or a donor's.
    """
    place = stock.cuts[target]
    if isinstance(lender, int):
        lent, size_HW = stock.cuts[lender], stock.size_HW
        if lender == target or place.meets(lent):
            return None
    else:
        lent, size_HW = stock.lent_cut(lender, donors), donors.size_HW(lender)
    if not _of_like_size(place, lent.area) or not lent.whole_in(size_HW):
        return None
    dx = int(place.centre[0]) - int(lent.centre[0])
    dy = int(place.centre[1]) - int(lent.centre[1])
    after = lent.moved(dx, dy)
    if not fits(stock, target, after, stock.ground(target)):
        return None
    if isinstance(lender, int):
        if (strict and not stock.far_in_colour(target, lender)) or stock.alike(target, lender):
            return None
        name: dict[str, object] = {"part": lender, "box": list(lent.box_4), "area": lent.area}
    else:
        if not stock.stands_out(target, lender, donors, in_colour=strict):
            return None
        name = {"donor": lender.to_json()}
    return (target,), name | {"offset": [dx, dy]}, [place.box_4, after.box_4]


def _of_like_size(place: Cut, area: int) -> bool:
    return max(place.area, area) <= SIMILAR_AREA * min(place.area, area)

"""Look again where a part is missing or odd: prompts from what a rule book expects there.

A finder that knows nothing of the product now and then cuts a part in two, or overlooks it. Where
the book expects a part (an empty slot, a part of no known kind or unlike good ones) the proposal
model is prompted with a box of that part's size. A mask is taken only when it looks like a good
part, so a hole stays a hole, and a wrong part stays wrong.

Shapes: P boxes; M masks; N parts; H, W image.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from pipeline.imaging.masks import bounding_box
from pipeline.part_kinds.asking import apart, free_of, square
from pipeline.rulebook.book import Place, RuleBook
from pipeline.rulebook.check import frame_in, recognised, recognised_in
from pipeline.rulebook.draft import Draft, draft
from pipeline.rulebook.findings import RecognisedPart
from pipeline.rulebook.parts import Describe, Parts, ProductFrame
from pipeline.rulebook.recognition import ANY_COLOUR, FULL

# Distance to good parts, as a multiple of their usual one, from which a part is odd.
ODD = 1.5
# A mask of the second look is taken when it is not odd, or nearer to good parts than what it
# replaces by this factor.
BETTER = 0.25
# Share of a part that a new mask must cover to replace it.
REPLACED = 0.5


class Finder(Protocol):
    """Finds parts and can look again, as `parts.PartFinder` does."""

    @property
    def describe(self) -> Describe: ...

    def __call__(self, image_HW3: np.ndarray) -> Parts: ...

    def within(self, image_HW3: np.ndarray, boxes_P4: np.ndarray) -> np.ndarray: ...


def parts_of(book: RuleBook, find: Finder, image_HW3: np.ndarray) -> Parts:
    """The parts of an image (uint8) as the rules of a book see them."""
    return look_again(book, find, image_HW3, find(image_HW3))


def draft_twice(
    found: Sequence[Parts], image: Callable[[int], np.ndarray], find: Finder, category: str
) -> tuple[Draft, list[Parts]]:
    """A draft whose parts were looked at again by a first draft, and these parts.

    `image` returns the image of a number, in which `find` has found the parts.
    """
    first = draft(found, category)
    book = RuleBook(first.book, first.examples, digest="")
    again = [look_again(book, find, image(k), parts) for k, parts in enumerate(found)]
    return draft(again, category), again


def look_again(book: RuleBook, find: Finder, image_HW3: np.ndarray, parts: Parts) -> Parts:
    """The parts, with odd ones replaced and missing ones added where that makes them good ones.

    `find` is the finder that has found `parts` in the image.
    """
    seen = recognised_in(book, parts)
    odd = [number for number, part in enumerate(seen) if _is_odd(part)]
    boxes = [*_around(book, parts, seen, odd), *_empty_slots(book, parts, seen)]
    if not boxes:
        return parts
    masks_MHW = find.within(image_HW3, np.array(boxes, np.float32))
    kept = [number for number in range(len(parts)) if number not in odd]
    kept_HW = np.any(parts.masks_NHW[kept], axis=0)
    masks_MHW = masks_MHW[free_of(masks_MHW, kept_HW)]
    fresh = find.describe(image_HW3, masks_MHW, parts.frame)
    named = recognised(book, fresh, frame_in(book, parts.frame, image_HW3.shape[:2]))
    # How odd the odd parts are that each mask covers.
    before = [
        max((seen[n].likeness for n in odd if (mask & parts.masks_NHW[n]).any()), default=0.0)
        for mask in masks_MHW
    ]
    good = sorted(
        (part.likeness, number)
        for number, (part, instead) in enumerate(zip(named, before, strict=True))
        if part.view != ANY_COLOUR and part.likeness <= _limit(part, instead)
    )
    # The best one first; of masks of the same part the others are dropped.
    taken = apart(masks_MHW, [number for _, number in good])
    if not taken:
        return parts
    new_HW = masks_MHW[taken].any(0)
    stay = [
        number for number, mask_HW in enumerate(parts.masks_NHW)
        if number not in odd or (mask_HW & new_HW).sum() < REPLACED * mask_HW.sum()
    ]  # fmt: skip
    # No two parts share a pixel.
    masks_NHW = np.concatenate([parts.masks_NHW[stay] & ~new_HW, masks_MHW[taken]])
    descriptors = (*(parts.descriptors[k] for k in stay), *(fresh[k] for k in taken))
    return Parts(masks_NHW, descriptors, parts.frame)


def _limit(part: RecognisedPart, instead: float) -> float:
    """How odd a mask may be to be taken for parts of which the oddest is `instead`.

    One beyond the reach of recognition may still replace a fragment: it stays of no known kind, but
    is likelier of one.
    """
    better = BETTER * instead
    return max(ODD, better) if part.name else better


def _is_odd(part: RecognisedPart) -> bool:
    return not part.name or part.view != FULL or part.likeness > ODD


def _around(
    book: RuleBook, parts: Parts, seen: Sequence[RecognisedPart], odd: Sequence[int]
) -> Iterator[tuple[float, ...]]:
    """Boxes around odd parts: the part and its odd neighbours, and the size of every kind there."""
    for number in odd:
        x, y = parts.descriptors[number].centre
        for size in _sizes(book):
            yield square(x, y, size * parts.frame.size)
        # Two halves of one part: the box of both.
        x0, y0, x1, y1 = bounding_box(parts.masks_NHW[number])
        for other in odd:
            a0, b0, a1, b1 = bounding_box(parts.masks_NHW[other])
            apart = max(a0 - x1, x0 - a1, b0 - y1, y0 - b1)
            if other > number and apart <= max(2, 0.1 * max(x1 - x0, y1 - y0)):
                yield (min(x0, a0), min(y0, b0), max(x1, a1), max(y1, b1))


def _empty_slots(
    book: RuleBook, parts: Parts, seen: Sequence[RecognisedPart]
) -> Iterator[tuple[float, ...]]:
    """Boxes at slots without a part of their kind nearby."""
    frame: ProductFrame = frame_in(book, parts.frame, parts.masks_NHW.shape[1:])
    for name, rules in book.book.parts.items():
        place = rules.place
        if not isinstance(place, Place) or place.slots is None or isinstance(rules.size, str):
            continue
        size = sum(rules.size) / 2 * parts.frame.size
        at = [part.at for part in seen if part.name == name and not _is_odd(part)]
        for slot in place.slots:
            near = any(np.hypot(x - slot[0], y - slot[1]) <= 2 * place.radius for x, y in at)
            if not near:
                x, y = frame.outward(np.array([slot]))[0].tolist()
                yield square(x, y, size)


def _sizes(book: RuleBook) -> list[float]:
    """The middle size of every kind that has one, in units of the product."""
    return [
        sum(rules.size) / 2 for rules in book.book.parts.values() if not isinstance(rules.size, str)
    ]

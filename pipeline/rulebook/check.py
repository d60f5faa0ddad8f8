"""Check which rules an image breaks: plain geometry and counting on recognised parts.

Rules are evaluated on a list of `RecognisedPart`. The same code therefore checks what was found in
an image and what an edit says should be found there.

Shapes: N parts; S slots.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.rulebook.book import ORDER, UNKNOWN, Place, RuleBook
from pipeline.rulebook.descriptors import PartDescriptor
from pipeline.rulebook.parts import Parts, ProductFrame
from pipeline.rulebook.recognition import ANY_COLOUR, ANY_SIZE, recognise

# The name of parts that have examples but no entry in the book.
UNUSED = ""


@dataclass(frozen=True, slots=True, eq=False)
class RecognisedPart:
    """One part: its name in the book, position in the product frame, and descriptor.

    `name` is None for parts like no example. `group` and `view` say how it was recognised, see
    `recognition.Recognition`.
    """

    name: str | None
    group: int
    view: int
    at: tuple[float, float]
    descriptor: PartDescriptor


def recognised_in(book: RuleBook, parts: Parts) -> list[RecognisedPart]:
    """The parts of an image, recognised by the examples of a book."""
    named = {kind: name for name, part in book.book.parts.items() for kind in part.kinds}
    frame = parts.frame
    # Positions count from the image's centre, for products that fill the image.
    if book.book.frame == "image":
        height, width = parts.masks_NHW.shape[1:]
        frame = ProductFrame(width / 2, height / 2, 0.0, float(np.sqrt(height * width)))
    found = []
    for kind, descriptor in zip(
        recognise(book.examples, parts.descriptors), parts.descriptors, strict=True
    ):
        x, y = frame.inward(np.array([descriptor.centre]))[0]
        name = None if kind.group < 0 else named.get(kind.group, UNUSED)
        found.append(RecognisedPart(name, kind.group, kind.view, (float(x), float(y)), descriptor))
    return found


def broken_rules(book: RuleBook, seen: Sequence[RecognisedPart]) -> dict[str, str]:
    """Every broken rule and a text that says what is wrong, in the order of the book."""
    broken, content = {}, book.book
    counts = Counter(part.name for part in seen)
    # Rules of single parts.
    for name, rules in content.parts.items():
        mine = [part for part in seen if part.name == name]
        low, high = rules.admitted
        if not low <= counts[name] <= high:
            broken[f"{name}.count"] = f"{counts[name]} instead of {_span(low, high)}"
        if isinstance(rules.place, Place):
            # A part in another kind's slot is reported by `order` alone.
            out = [part for part in _out_of_place(mine, rules.place) if not _in_order(book, part)]
            if out:
                broken[f"{name}.place"] = f"{len(out)} out of place"
        for part in mine:
            for rule, why in _appearance_of(book, name, part).items():
                broken[f"{name}.{rule}"] = why
    # Rules about several parts.
    for total in content.totals:
        number, (low, high) = sum(counts[name] for name in total.parts), total.admitted
        if not low <= number <= high:
            broken[total.name] = f"{number} instead of {_span(low, high)}"
    for pair in content.together:
        numbers = [counts[name] for name in pair.parts]
        # Equal numbers, whatever they are.
        if len(set(numbers)) > 1:
            broken[pair.name] = " and ".join(
                f"{number} {name}" for name, number in zip(pair.parts, numbers, strict=True)
            )
    # Rules about all parts.
    if content.order:
        strangers = [part for part in seen if part.name and _in_order(book, part)]
        if strangers:
            broken[ORDER] = ", ".join(f"{part.name} in another's slot" for part in strangers)
    if content.unknown and counts[None]:
        broken[UNKNOWN] = f"{counts[None]} of no known kind"
    return {name: broken[name] for name in content.names() if name in broken}


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _out_of_place(parts: Sequence[RecognisedPart], place: Place) -> list[RecognisedPart]:
    """The parts outside the box, or without a slot of their own."""
    if place.box is not None:
        x0, y0, x1, y1 = place.box
        return [p for p in parts if not (x0 <= p.at[0] <= x1 and y0 <= p.at[1] <= y1)]
    assert place.slots is not None
    if not parts:
        return []
    points_N2, slots_S2 = np.array([part.at for part in parts]), np.array(place.slots)
    apart_NS = np.linalg.norm(points_N2[:, None] - slots_S2[None], axis=2)
    out = set(range(len(parts)))
    taken: set[int] = set()
    # Greedy assignment: the nearest pair of part and slot first, each at most once.
    for flat in np.argsort(apart_NS, axis=None, kind="stable"):
        part, slot = (int(k) for k in np.unravel_index(flat, apart_NS.shape))
        if apart_NS[part, slot] > place.radius:
            break
        if part in out and slot not in taken:
            out.discard(part)
            taken.add(slot)
    return [parts[k] for k in sorted(out)]


def _in_order(book: RuleBook, part: RecognisedPart) -> bool:
    """True when `order` is checked and the part lies in another kind's slot and none of its own."""
    if not book.book.order or part.name is None:
        return False
    strange = False
    for name, rules in book.book.parts.items():
        place = rules.place
        if not isinstance(place, Place) or place.slots is None:
            continue
        apart_S = np.linalg.norm(np.array(place.slots) - np.array(part.at), axis=1)
        if apart_S.min() <= place.radius:
            if name == part.name:
                return False
            strange = True
    return strange


def _appearance_of(book: RuleBook, name: str, part: RecognisedPart) -> dict[str, str]:
    """Broken rules about one part's own size, colour and orientation.

    A part that was recognised only without its size or its colour breaks that rule in any case.
    """
    rules, descriptor, broken = book.book.parts[name], part.descriptor, {}
    if not isinstance(rules.size, str):
        low, high = rules.size
        if not low <= descriptor.size <= high or part.view == ANY_SIZE:
            broken["size"] = f"size {descriptor.size:.3f}, not {low:.3f} to {high:.3f}"
    if not isinstance(rules.colour, str):
        off = float(np.linalg.norm(np.array(descriptor.lab) - rules.colour.lab))
        if off > rules.colour.within or part.view == ANY_COLOUR:
            broken["colour"] = f"colour {off:.1f} away, not {rules.colour.within:.1f}"
    if not isinstance(rules.turn, str):
        turn = rules.turn
        if turn.around is not None and descriptor.angle is not None:
            # Axes are equal modulo 180 degrees.
            off = abs((descriptor.angle - turn.around + 90) % 180 - 90)
            if off > turn.within:
                broken["turn"] = f"turned by {off:.0f} degrees, not at most {turn.within:.0f}"
        if turn.upright is not None:
            similarity = float(descriptor.face_S @ book.examples.faces_KS[part.group])
            if similarity < turn.upright:
                broken["turn"] = f"similarity {similarity:.2f}, not at least {turn.upright:.2f}"
    return broken

"""Which rules does a picture break? Plain geometry and counting over recognised parts.

A rule is asked of a list of `Seen`, so the same code judges what was found in a picture and what an
edit says should be found there.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.rulebook.book import ORDER, UNKNOWN, Place, RuleBook
from pipeline.rulebook.descriptors import PartDescriptor
from pipeline.rulebook.parts import Parts, ProductFrame
from pipeline.rulebook.recognition import ANY_COLOUR, ANY_SIZE, recognise

MUTE = ""
"""The name of parts that are known, but of which the book says nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One recognised part: its name in the book (None = like nothing known), its place and look."""

    name: str | None
    group: int
    view: int
    at: tuple[float, float]
    look: PartDescriptor


def seen_in(book: RuleBook, parts: Parts) -> list[Seen]:
    """What a picture shows, in the words of the book."""
    named = {kind: name for name, part in book.book.parts.items() for kind in part.kinds}
    frame = parts.frame
    if book.book.frame == "image":
        height, width = parts.masks_NHW.shape[1:]
        frame = ProductFrame(width / 2, height / 2, 0.0, float(np.sqrt(height * width)))
    found = []
    for kind, look in zip(recognise(book.examples, parts.looks), parts.looks, strict=True):
        x, y = frame.inward(np.array([look.centre]))[0]
        name = None if kind.group < 0 else named.get(kind.group, MUTE)
        found.append(Seen(name, kind.group, kind.view, (float(x), float(y)), look))
    return found


def broken_rules(book: RuleBook, seen: Sequence[Seen]) -> dict[str, str]:
    """Every broken rule and what is wrong, in the order of the book."""
    asked, content = {}, book.book
    counts = Counter(part.name for part in seen)
    for name, rules in content.parts.items():
        mine = [part for part in seen if part.name == name]
        low, high = rules.admitted
        if not low <= counts[name] <= high:
            asked[f"{name}.count"] = f"{counts[name]} instead of {_span(low, high)}"
        if isinstance(rules.place, Place):
            out = [part for part in _out_of_place(mine, rules.place) if not _in_order(book, part)]
            if out:
                asked[f"{name}.place"] = f"{len(out)} out of place"
        for part in mine:
            for rule, why in _look_of(book, name, part).items():
                asked[f"{name}.{rule}"] = why
    for total in content.totals:
        number, (low, high) = sum(counts[name] for name in total.parts), total.admitted
        if not low <= number <= high:
            asked[total.name] = f"{number} instead of {_span(low, high)}"
    for pair in content.together:
        numbers = [counts[name] for name in pair.parts]
        if len(set(numbers)) > 1:
            asked[pair.name] = " and ".join(
                f"{number} {name}" for name, number in zip(pair.parts, numbers, strict=True)
            )
    if content.order:
        strangers = [part for part in seen if part.name and _in_order(book, part)]
        if strangers:
            asked[ORDER] = ", ".join(f"{part.name} in another's slot" for part in strangers)
    if content.unknown and counts[None]:
        asked[UNKNOWN] = f"{counts[None]} of no known kind"
    return {name: asked[name] for name in content.names() if name in asked}


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _out_of_place(parts: Sequence[Seen], place: Place) -> list[Seen]:
    """Those outside the box, or without a slot of their own; nearest pairs take slots first."""
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
    for flat in np.argsort(apart_NS, axis=None, kind="stable"):
        part, slot = (int(k) for k in np.unravel_index(flat, apart_NS.shape))
        if apart_NS[part, slot] > place.radius:
            break
        if part in out and slot not in taken:
            out.discard(part)
            taken.add(slot)
    return [parts[k] for k in sorted(out)]


def _in_order(book: RuleBook, part: Seen) -> bool:
    """True when `order` is asked and the part is in another kind's slot, and in none of its own."""
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


def _look_of(book: RuleBook, name: str, part: Seen) -> dict[str, str]:
    """Broken rules about one part's own size, colour and turn."""
    rules, look, asked = book.book.parts[name], part.look, {}
    if not isinstance(rules.size, str):
        low, high = rules.size
        if not low <= look.size <= high or part.view == ANY_SIZE:
            asked["size"] = f"size {look.size:.3f}, not {low:.3f} to {high:.3f}"
    if not isinstance(rules.colour, str):
        off = float(np.linalg.norm(np.array(look.lab) - rules.colour.lab))
        if off > rules.colour.within or part.view == ANY_COLOUR:
            asked["colour"] = f"colour {off:.1f} away, not {rules.colour.within:.1f}"
    if not isinstance(rules.turn, str):
        turn = rules.turn
        if turn.around is not None and look.angle is not None:
            off = abs((look.angle - turn.around + 90) % 180 - 90)
            if off > turn.within:
                asked["turn"] = f"turned by {off:.0f} degrees, not {turn.within:.0f}"
        if turn.upright is not None:
            likeness = float(look.face_S @ book.examples.faces_KS[part.group])
            if likeness < turn.upright:
                asked["turn"] = f"likeness {likeness:.2f}, not {turn.upright:.2f}"
    return asked

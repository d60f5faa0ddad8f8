"""Measure every rule on the parts of an image: what was expected, what was found, how far off.

    findings = findings_of(book, recognised_in(book, parts))
    [finding.rule for finding in findings if finding.broken]

Plain geometry and counting. `check` asks which rules are broken; the detector `parts` also asks by
how much, how surely, and where.

Whether a rule is broken follows from the likeliest kind of every part, how sure that is from what
else they may be. A broken rule is off by less, the less sure that is. A kept rule is off only where
it is likelier broken: a doubt by itself raises no alarm (counted as expectations, doubts about good
parts cost a tenth of the anomalies found in a tray).

Shapes: N parts; S slots.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.rulebook.book import ORDER, UNKNOWN, Place, Point, RuleBook
from pipeline.rulebook.descriptors import PartDescriptor
from pipeline.rulebook.recognition import ANY_COLOUR, ANY_SIZE

# A slot is not empty when a part of its kind lies within this multiple of its radius: beside it.
BESIDE = 3.0
# Some good parts together are no surer than that: a few dozen examples cannot tell more.
CERTAIN = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class RecognisedPart:
    """One part: its name in the book, position in the product frame, and descriptor.

    `name` is None for parts like no example. `group` and `view` say how it was recognised, see
    `recognition.Recognition`; `likeness` is the distance to the nearest example relative to that of
    good parts, above 1 for parts that look odd. `chances` are the probabilities of names; without
    any, its own is certain.
    """

    name: str | None
    group: int
    view: int
    at: tuple[float, float]
    descriptor: PartDescriptor
    likeness: float = 0.0
    chances: Mapping[str | None, float] = field(default_factory=dict)

    def chance(self, names: Container[str | None]) -> float:
        """The probability that its name is one of these."""
        if not self.chances:
            return float(self.name in names)
        return min(1.0, sum(share for name, share in self.chances.items() if name in names))


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule on one image, kept or broken.

    `off` is the deviation in units of what the rule admits: 0 is the middle of it, at most 1 a kept
    rule, at least 1 a broken one. `parts` are the indices of the parts that it is about, `places`
    the positions (product frame) where a part is missing. `sure` is the probability of the verdict
    by what the parts may be; `boxes` are further places that it is about, in pixels.
    """

    rule: str
    broken: bool
    off: float
    expected: str
    found: str
    parts: tuple[int, ...] = ()
    places: tuple[Point, ...] = ()
    sure: float = 1.0
    boxes: tuple[tuple[int, int, int, int], ...] = ()

    def __str__(self) -> str:
        return f"expected {self.expected}, found {self.found}"


def findings_of(book: RuleBook, seen: Sequence[RecognisedPart]) -> list[Finding]:
    """Every rule of the book, in its order."""
    found = {finding.rule: finding for finding in _measured(book, seen)}
    return [found[name] for name in book.book.names()]


def _measured(book: RuleBook, seen: Sequence[RecognisedPart]) -> Iterator[Finding]:
    """All rules, in any order, and some that the book has switched off."""
    content = book.book
    counts = Counter(part.name for part in seen)
    for name, rules in content.parts.items():
        mine = tuple(number for number, part in enumerate(seen) if part.name == name)
        seats = _Seats.of(book, seen, mine, rules.place)
        # Where slots are known, a missing part has a place, and one too many has none.
        short = counts[name] < rules.admitted[0]
        concerned = seats.out if seats.out and not short else mine
        empty = seats.empty(seen, rules.place) if short else ()
        yield _counted(f"{name}.count", seen, {name}, rules.admitted, concerned, empty)
        if isinstance(rules.place, Place):
            yield seats.finding(f"{name}.place", seen, name)
        yield from _appearance(book, name, seen, mine)
    # Rules about several parts.
    for total in content.totals:
        mine = tuple(number for number, part in enumerate(seen) if part.name in total.parts)
        yield _counted(total.name, seen, set(total.parts), total.admitted, mine)
    for pair in content.together:
        numbers = [counts[name] for name in pair.parts]
        # Equal numbers, whatever they are.
        difference = max(numbers) - min(numbers)
        said = " and ".join(f"{n} {name}" for n, name in zip(numbers, pair.parts, strict=True))
        mine = tuple(number for number, part in enumerate(seen) if part.name in pair.parts)
        # All counts as they were found.
        sure = float(np.prod([
            counts_of(seen, {name})[count]
            for name, count in zip(pair.parts, numbers, strict=True)
        ]))  # fmt: skip
        yield _stepped(pair.name, difference, sure, "equal numbers", said, mine)
    # Rules about all parts.
    mine = tuple(
        number for number, part in enumerate(seen) if part.name and _in_other_slot(book, part)
    )
    said = ", ".join(f"{seen[number].name} in another's slot" for number in mine)
    sure = 1 - float(np.prod([1 - seen[k].chance({seen[k].name}) for k in mine])) if mine else 1.0
    yield _stepped(ORDER, len(mine), sure, "every part in a slot of its own", said or "that", mine)
    mine = tuple(number for number, part in enumerate(seen) if part.name is None)
    many, sure = _difference(seen, {None}, (0, 0))
    yield _stepped(UNKNOWN, many, sure, "known kinds only",
                   f"{len(mine)} of no known kind", mine)  # fmt: skip


def counts_of(seen: Sequence[RecognisedPart], names: Container[str | None]) -> np.ndarray:
    """The probabilities that 0, 1, ... of the parts have one of these names, (N + 1,).

    Parts are taken for independent (a Poisson binomial distribution).
    """
    shares = np.ones(1)
    for part in seen:
        chance = part.chance(names)
        shares = np.append(shares * (1 - chance), 0) + np.append(0, shares * chance)
    return shares


def _stepped(
    rule: str,
    difference: float,
    sure: float,
    expected: str,
    found: str,
    parts: tuple[int, ...],
    places: tuple[Point, ...] = (),
) -> Finding:
    """A rule about a number: off by 0 when it is right, by 1 and the difference when it is not.

    With the probability 1 - `sure` the verdict is wrong.
    """
    broken = difference > 0
    likely = min(1.0, sure / CERTAIN)
    off = max(1.0, likely * (1 + difference)) if broken else max(0.0, 1 - 2 * sure)
    return Finding(rule, broken, off, expected, found, parts, places, sure)


def _counted(
    rule: str,
    seen: Sequence[RecognisedPart],
    names: Container[str | None],
    admitted: tuple[int, int],
    parts: tuple[int, ...],
    places: tuple[Point, ...] = (),
) -> Finding:
    low, high = admitted
    difference, sure = _difference(seen, names, admitted)
    expected = str(low) if low == high else f"{low} to {high}"
    number = sum(part.name in names for part in seen)
    return _stepped(rule, difference, sure, expected, str(number), parts, places)


def _difference(
    seen: Sequence[RecognisedPart], names: Container[str | None], admitted: tuple[int, int]
) -> tuple[float, float]:
    """By how much a number is beyond the admitted ones, and how sure it is that it is (or not).

    0 when it is not; else the mean of the numbers that are: a doubtful part counts the same just
    within the reach of recognition and just beyond it.
    """
    low, high = admitted
    shares = counts_of(seen, names)
    right = float(shares[low : high + 1].sum())
    if low <= sum(part.name in names for part in seen) <= high:
        return 0.0, right
    numbers = np.arange(len(shares))
    beyond = np.maximum(np.maximum(low - numbers, numbers - high), 0)
    # Probabilities may be so small that they round to none.
    return float(shares @ beyond) / max(1 - right, 1e-9), 1 - right


@dataclass(frozen=True, slots=True)
class _Seats:
    """How the parts of a kind fill their place: how far each is off, which are out, what is free.

    `offs` are distances in units of the tolerance for all of `parts`.
    """

    parts: tuple[int, ...]
    offs: tuple[float, ...] = ()
    out: tuple[int, ...] = ()
    free: tuple[Point, ...] = ()

    @classmethod
    def of(
        cls,
        book: RuleBook,
        seen: Sequence[RecognisedPart],
        mine: tuple[int, ...],
        place: Place | str,
    ) -> "_Seats":
        if isinstance(place, str):
            return cls(mine)
        if place.box is not None:
            x0, y0, x1, y1 = place.box
            at = [seen[number].at for number in mine]
            offs = [max(_beyond(x, x0, x1), _beyond(y, y0, y1)) for x, y in at]
            # A part in another kind's slot is reported by `order` alone.
            outside = tuple(
                number for number, (x, y) in zip(mine, at, strict=True)
                if not (x0 <= x <= x1 and y0 <= y <= y1)
                and not _in_other_slot(book, seen[number])
            )  # fmt: skip
            return cls(mine, tuple(offs), outside)
        assert place.slots is not None
        points_N2 = np.array([seen[number].at for number in mine]).reshape(-1, 2)
        slots_S2 = np.array(place.slots)
        apart_NS = np.linalg.norm(points_N2[:, None] - slots_S2[None], axis=2)
        # One without a slot is off by more than those in a slot, wherever it lies.
        off_N = 1 + apart_NS.min(1) / place.radius if len(mine) else np.zeros(0)
        free, seated = set(range(len(slots_S2))), set()
        # Greedy assignment: the nearest pair of part and slot first, each at most once.
        for flat in np.argsort(apart_NS, axis=None, kind="stable"):
            part, slot = (int(k) for k in np.unravel_index(flat, apart_NS.shape))
            if apart_NS[part, slot] > place.radius:
                break
            if part not in seated and slot in free:
                seated.add(part)
                free.discard(slot)
                off_N[part] = apart_NS[part, slot] / place.radius
        # Those in another kind's slot are not out of place, as above.
        out = [k for k in range(len(mine)) if k not in seated]
        strange = {k for k in out if _in_other_slot(book, seen[mine[k]])}
        off_N[list(strange)] = 1.0
        return cls(
            mine, tuple(off_N.tolist()), tuple(mine[k] for k in out if k not in strange),
            tuple(place.slots[slot] for slot in sorted(free)),
        )  # fmt: skip

    def empty(self, seen: Sequence[RecognisedPart], place: Place | str) -> tuple[Point, ...]:
        """The free slots without any part of the kind nearby: there it is missing."""
        if isinstance(place, str):
            return ()
        at = [seen[number].at for number in self.parts]
        return tuple(
            (x, y)
            for x, y in self.free
            if all(np.hypot(a - x, b - y) > BESIDE * place.radius for a, b in at)
        )

    def finding(self, rule: str, seen: Sequence[RecognisedPart], name: str) -> Finding:
        """The rule about the place of a kind."""
        # What may be of another kind counts less.
        chances = [seen[number].chance({name}) for number in self.parts]
        off = max((a * b for a, b in zip(self.offs, chances, strict=True)), default=0.0)
        expected = "all in their places"
        if not self.out:
            return Finding(rule, False, min(off, 1.0), expected, "that", self.parts)
        sure = 1 - float(np.prod([1 - seen[number].chance({name}) for number in self.out]))
        return Finding(rule, True, max(off, 1.0), expected, f"{len(self.out)} out of place",
                       self.out, sure=sure)  # fmt: skip


def _beyond(value: float, low: float, high: float) -> float:
    """The distance from the middle of a range in halves of it."""
    half = (high - low) / 2
    return abs(value - (low + high) / 2) / max(half, 1e-6)


def _in_other_slot(book: RuleBook, part: RecognisedPart) -> bool:
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


def _appearance(
    book: RuleBook, name: str, seen: Sequence[RecognisedPart], mine: tuple[int, ...]
) -> Iterator[Finding]:
    """Size, colour and orientation of the parts of a kind; each rule by its worst part.

    A part that was recognised only without its size or its colour breaks that rule in any case.
    """
    rules = book.book.parts[name]
    chances = [seen[number].chance({name}) for number in mine]
    if not isinstance(rules.size, str):
        low, high = rules.size
        yield _worst(f"{name}.size", f"{low:.3f} to {high:.3f}", mine, chances, [
            (not low <= part.descriptor.size <= high or part.view == ANY_SIZE,
             _beyond(part.descriptor.size, low, high), f"{part.descriptor.size:.3f}")
            for part in (seen[number] for number in mine)
        ])  # fmt: skip
    if not isinstance(rules.colour, str):
        middle, within = np.array(rules.colour.lab), rules.colour.within
        offs = [float(np.linalg.norm(np.array(seen[n].descriptor.lab) - middle)) for n in mine]
        usual = f"at most {within:.2f} from the usual colour"
        yield _worst(f"{name}.colour", usual, mine, chances, [
            (off > within or seen[number].view == ANY_COLOUR, off / within, f"{off:.2f}")
            for number, off in zip(mine, offs, strict=True)
        ])  # fmt: skip
    if not isinstance(rules.turn, str):
        turned = [_turned(book, name, seen[number]) for number in mine]
        yield _worst(f"{name}.turn", "the usual orientation", mine, chances, turned)


def _turned(book: RuleBook, name: str, part: RecognisedPart) -> tuple[bool, float, str]:
    """Whether a part is turned wrongly, by how much in units of the tolerance, and in words."""
    turn, descriptor = book.book.parts[name].turn, part.descriptor
    assert not isinstance(turn, str)
    found = (False, 0.0, "that")
    if turn.around is not None and descriptor.angle is not None:
        # Axes are equal modulo 180 degrees.
        off = abs((descriptor.angle - turn.around + 90) % 180 - 90)
        found = (off > turn.within, off / turn.within, f"turned by {off:.0f} degrees")
    if turn.upright is not None:
        similarity = float(descriptor.face_S @ book.examples.faces_KS[part.group])
        off = (1 - similarity) / max(1 - turn.upright, 1e-6)
        upright = (similarity < turn.upright, off, f"similarity {similarity:.2f} to an upright one")
        found = max(found, upright)
    return found


def _worst(
    rule: str,
    expected: str,
    mine: tuple[int, ...],
    chances: Sequence[float],
    parts: Sequence[tuple[bool, float, str]],
) -> Finding:
    """A rule about single parts: broken by any of them, described by the worst.

    `chances` are the probabilities that they are of the kind at all.
    """
    if not parts:
        return Finding(rule, False, 0.0, expected, "none")
    (broken, off, said), sure = max(zip(parts, chances, strict=True))
    wrong = tuple(number for number, part in zip(mine, parts, strict=True) if part[0])
    off = max(off, 1.0) if broken else min(off, 1.0)
    return Finding(rule, broken, off, expected, said, wrong or mine, sure=sure)

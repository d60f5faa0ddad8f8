"""From the parts of an image to numbers: how far it is off by every rule, and by kind of rule.

Rules are those of a rule book. A drafted one is extended by three per part: that it looks like good
ones as a whole (`PART.looks`) and in detail (`PART.surface`), and that it lies where they lie
(`PART.where`). Where a book checks that all parts are known, what no kind explains must look like
good images, too (`unknown.looks`).

Detectors compare numbers of different fits, whose drafted books may differ; so rules of one kind
are summed up by the most unusual one.

Shapes: R rules; P kinds of rules.
"""

from collections.abc import Sequence
from dataclasses import replace

from detectors.models.parts.surfaces import Surface
from detectors.models.parts.windows import peak_box
from pipeline.rulebook.book import ORDER, UNKNOWN, RuleBook
from pipeline.rulebook.findings import Finding, RecognisedPart

# Kinds of rules: those of single parts, of several, and of parts like no example.
LOOKS, SURFACE, WHERE = "looks", "surface", "where"
RELATION, UNEXPLAINED = "relation", f"{UNKNOWN}.{LOOKS}"
KINDS = (
    "count", "place", "size", "colour", "turn", LOOKS, SURFACE, WHERE, RELATION, UNKNOWN,
    UNEXPLAINED,
)  # fmt: skip


def rule_names(book: RuleBook, drafted: bool) -> list[str]:
    """Every rule in a fixed order: those of the book, then those that extend it."""
    names = list(book.book.names())
    if book.book.unknown:
        names.append(UNEXPLAINED)
    if drafted:
        names += [f"{name}.{kind}" for kind in (LOOKS, SURFACE, WHERE) for name in book.book.parts]
    return names


def kind_of(book: RuleBook, rule: str) -> str:
    """The kind of a rule, one of KINDS."""
    if rule in (UNKNOWN, UNEXPLAINED):
        return rule
    totals, together = book.book.totals, book.book.together
    related = {one.name for one in totals} | {one.name for one in together}
    return RELATION if rule in related or rule == ORDER else rule.rpartition(".")[2]


def extensions(
    book: RuleBook,
    seen: Sequence[RecognisedPart],
    surfaces: Sequence[Surface],
    where: Sequence[tuple[float, int]],
    shape: tuple[int, int],
) -> list[Finding]:
    """The rules that extend a draft, on an image of this shape (height, width).

    `surfaces` are `Surfaces.of`, `where` is `Places.worst`. Never broken by themselves.
    """
    found = []
    for name in book.book.parts:
        mine = [(part.likeness, number) for number, part in enumerate(seen) if part.name == name]
        off, number = max(mine, default=(0.0, -1))
        found.append(_extension(seen, name, LOOKS, off, number, "looks like good ones",
                                f"{off:.1f} times as far from good ones as usual"))  # fmt: skip
    for kind, name in enumerate(book.book.parts):
        found.append(_surface(seen, name, [one for one in surfaces if one.kind == kind], shape))
    for name, (off, number) in zip(book.book.parts, where, strict=True):
        said = f"{off / 2:.1f} of its size away from there"
        found.append(_extension(seen, name, WHERE, off, number, "a place where good images show it",
                                said))  # fmt: skip
    return found


def _surface(
    seen: Sequence[RecognisedPart], name: str, mine: Sequence[Surface], shape: tuple[int, int]
) -> Finding:
    """The rule about the surfaces of a kind: the oddest one, and its oddest place."""
    expected = "a surface like that of good ones"
    if not mine:
        return _extension(seen, name, SURFACE, 0.0, -1, expected, "none")
    worst = max(mine, key=lambda one: one.off)
    box = peak_box(worst.map_HW(shape))
    x, y = (box[0] + box[2]) / 2 / shape[1], (box[1] + box[3]) / 2 / shape[0]
    said = f"a spot at ({x:.2f}, {y:.2f}) {worst.times:.1f} times as far from it as usual"
    finding = _extension(seen, name, SURFACE, max(0.0, worst.off), worst.number, expected, said)
    return replace(finding, boxes=(box,))


def _extension(
    seen: Sequence[RecognisedPart],
    name: str,
    kind: str,
    off: float,
    number: int,
    expected: str,
    found: str,
) -> Finding:
    """A rule about the worst part of a kind, if there is any."""
    parts = (number,) if number >= 0 else ()
    sure = seen[number].chance({name}) if parts else 1.0
    # A place of another kind is no news where the part may be of that kind.
    off = off * sure if kind == WHERE else off
    return Finding(f"{name}.{kind}", False, off, expected, found, parts, sure=sure)

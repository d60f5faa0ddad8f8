"""From the parts of an image to numbers: how far it is off by every rule, and by kind of rule.

Rules are those of a rule book. A drafted one is extended by two per part: that it looks like good
ones (`PART.looks`), and that it lies where they lie (`PART.where`). Where a book checks that all
parts are known, what no kind explains must look like good images, too (`unknown.looks`).

Detectors compare numbers of different fits, whose drafted books may differ; so rules of one kind
are summed up by the most unusual one.

Shapes: R rules; P kinds of rules.
"""

from collections.abc import Sequence

from pipeline.rulebook.book import ORDER, UNKNOWN, RuleBook
from pipeline.rulebook.findings import Finding, RecognisedPart

# Kinds of rules: those of single parts, of several, and of parts like no example.
LOOKS, WHERE = "looks", "where"
RELATION, UNEXPLAINED = "relation", f"{UNKNOWN}.{LOOKS}"
KINDS = ("count", "place", "size", "colour", "turn", LOOKS, WHERE, RELATION, UNKNOWN, UNEXPLAINED)


def rule_names(book: RuleBook, drafted: bool) -> list[str]:
    """Every rule in a fixed order: those of the book, then those that extend it."""
    names = list(book.book.names())
    if book.book.unknown:
        names.append(UNEXPLAINED)
    if drafted:
        names += [f"{name}.{kind}" for kind in (LOOKS, WHERE) for name in book.book.parts]
    return names


def kind_of(book: RuleBook, rule: str) -> str:
    """The kind of a rule, one of KINDS."""
    if rule in (UNKNOWN, UNEXPLAINED):
        return rule
    totals, together = book.book.totals, book.book.together
    related = {one.name for one in totals} | {one.name for one in together}
    return RELATION if rule in related or rule == ORDER else rule.rpartition(".")[2]


def extensions(
    book: RuleBook, seen: Sequence[RecognisedPart], where: Sequence[tuple[float, int]]
) -> list[Finding]:
    """The rules that extend a draft; `where` is `Places.worst`. Never broken by themselves."""
    found = []
    for name in book.book.parts:
        mine = [(part.likeness, number) for number, part in enumerate(seen) if part.name == name]
        off, number = max(mine, default=(0.0, -1))
        found.append(_extension(seen, name, LOOKS, off, number, "looks like good ones",
                                f"{off:.1f} times as far from good ones as usual"))  # fmt: skip
    for name, (off, number) in zip(book.book.parts, where, strict=True):
        said = f"{off / 2:.1f} of its size away from there"
        found.append(_extension(seen, name, WHERE, off, number, "a place where good images show it",
                                said))  # fmt: skip
    return found


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

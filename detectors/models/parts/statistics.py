"""From the parts of an image to numbers: how far it is off by every rule, and by kind of rule.

Rules are those of a rule book. A drafted one is extended by two per part: that it looks like good
ones (`PART.looks`), and that it lies where they lie (`PART.where`). Detectors compare numbers of
different fits, whose drafted books may differ; so rules of one kind are summed up by the most
unusual one.

Shapes: R rules; P kinds of rules.
"""

from collections.abc import Sequence

from pipeline.rulebook.book import ORDER, UNKNOWN, RuleBook
from pipeline.rulebook.findings import Finding, RecognisedPart

# Kinds of rules: those of single parts, of several, and of parts like no example.
LOOKS, WHERE = "looks", "where"
RELATION = "relation"
KINDS = ("count", "place", "size", "colour", "turn", LOOKS, WHERE, RELATION, UNKNOWN)


def rule_names(book: RuleBook, drafted: bool) -> list[str]:
    """Every rule in a fixed order: those of the book, then those that extend a draft."""
    names = list(book.book.names())
    if drafted:
        names += [f"{name}.{kind}" for kind in (LOOKS, WHERE) for name in book.book.parts]
    return names


def kind_of(book: RuleBook, rule: str) -> str:
    """The kind of a rule, one of KINDS."""
    if rule == UNKNOWN:
        return UNKNOWN
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
        found.append(_extension(f"{name}.{LOOKS}", off, number, "looks like good ones",
                                f"{off:.1f} times as far from good ones as usual"))  # fmt: skip
    for name, (off, number) in zip(book.book.parts, where, strict=True):
        found.append(_extension(f"{name}.{WHERE}", off, number, "a place where good images show it",
                                f"{off / 2:.1f} of its size away from there"))  # fmt: skip
    return found


def _extension(rule: str, off: float, number: int, expected: str, found: str) -> Finding:
    return Finding(rule, False, off, expected, found, (number,) if number >= 0 else ())

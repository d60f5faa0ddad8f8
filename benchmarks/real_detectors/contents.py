"""What lies in a scene: the parts that the rule wants, and what is changed for a defect.

Free-lying parts are counted by kind. A tray also has compartments, so that two parts of different
kinds may be exchanged while all counts stay right. In `alike` all parts are of one kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from benchmarks.real_parts.scenes import COUNTS
from benchmarks.real_parts.tray import TRAY_CELLS

Arrangement = Literal["free", "tray", "alike"]
ARRANGEMENTS: tuple[Arrangement, ...] = ("free", "tray", "alike")
# The only kind of `alike`, and how many there are.
ALIKE, EIGHT = "hazelnut", 8
# Defects that break the rule, by arrangement: loose parts that change places are no defect.
LOGICAL: dict[str, tuple[str, ...]] = {
    "free": ("missing", "extra", "other_type"),
    "tray": ("missing", "extra", "other_type", "exchanged"),
    "alike": ("missing",),
}
STRUCTURAL = "broken"
# Kinds of the broken parts in turn: most photographs of broken parts are of bottles.
BROKEN_KINDS = ("bottle", "hazelnut", "bottle", "transistor")


@dataclass(frozen=True, slots=True)
class Item:
    """One part to be laid: its kind, its compartment (-1: anywhere), whether it is the defect."""

    kind: str
    cell: int = -1
    wrong: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """The parts of one scene and the name of its defect, empty for a good one.

    `lost` is the kind that is missing (for `missing`), `lost_cell` its compartment.
    """

    items: tuple[Item, ...]
    defect: str = ""
    lost: str = ""
    lost_cell: int = -1


def good(arrangement: str) -> Contents:
    """What the rule wants."""
    if arrangement == "tray":
        wanted = [Item(kind, cell) for cell, kinds in TRAY_CELLS.items() for kind in kinds]
    elif arrangement == "alike":
        wanted = [Item(ALIKE)] * EIGHT
    else:
        wanted = [Item(kind) for kind, count in COUNTS.items() for _ in range(count)]
    return Contents(tuple(wanted))


def defective(arrangement: str, defect: str, number: int, rng: np.random.Generator) -> Contents:
    """A scene with one defect of LOGICAL, or with one broken part.

    Kinds take turns with `number`, so that each is changed equally often; compartments are drawn.
    """
    items, kinds = list(good(arrangement).items), list(COUNTS)
    if defect == STRUCTURAL:
        kind = ALIKE if arrangement == "alike" else BROKEN_KINDS[number % len(BROKEN_KINDS)]
        place = _draw(items, kind, rng)
        items[place] = replace(items[place], wrong=True)
        return Contents(tuple(items), defect)
    if defect not in LOGICAL[arrangement]:
        raise ValueError(f"{arrangement} has the defects {LOGICAL[arrangement]}, got {defect!r}")
    kind, other = kinds[number % 3], kinds[(number + 1 + number // 3 % 2) % 3]
    if arrangement == "alike":
        kind = ALIKE
    if defect == "extra":
        cells = [cell for cell in TRAY_CELLS if _fits(kind, cell)]
        cell = int(rng.choice(cells)) if arrangement == "tray" else -1
        return Contents((*items, Item(kind, cell, wrong=True)), defect)
    place = _draw(items, kind, rng)
    if defect == "missing":
        gone = items.pop(place)
        return Contents(tuple(items), defect, gone.kind, gone.cell)
    if defect == "other_type":
        items[place] = Item(other, items[place].cell, wrong=True)
        return Contents(tuple(items), defect)
    # Parts of different kinds never share a compartment, so the exchange is always seen.
    partner = _draw(items, other, rng)
    first, second = items[place], items[partner]
    items[place] = Item(first.kind, second.cell, wrong=True)
    items[partner] = Item(second.kind, first.cell, wrong=True)
    return Contents(tuple(items), defect)


def _draw(items: Sequence[Item], kind: str, rng: np.random.Generator) -> int:
    return int(rng.choice([place for place, item in enumerate(items) if item.kind == kind]))


def _fits(kind: str, cell: int) -> bool:
    """Whether one more part has room: not two transistors in a narrow compartment."""
    return not (kind == "transistor" and TRAY_CELLS[cell] == ("transistor",))

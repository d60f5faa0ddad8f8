"""What a gallery shows: filters, order and page, as they stand in its address.

An address may be old, typed or made up: what is unknown or no number is left out, never an error.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import urlencode

import numpy as np

from flows.serve.table import Names, Table

# Samples on a page, the first is what a new visitor gets.
SIZES = (48, 96, 192)
# What a card shows: the edited image with the outline of the change, or one of these alone.
VIEWS = ("marked", "edited", "source")
# Filters by name: fields of the query and columns of the table.
FACETS = ("verdict", "review", "kind", "rule", "reason", "split")
_MOST_VALUES, _MOST_TEXT = 50, 200


@dataclass(frozen=True, slots=True)
class Range:
    """Samples whose score lies between two numbers, both included; infinite where open."""

    score: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.score}:{_number(self.low)}:{_number(self.high)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One selection of samples. A facet without values keeps all; `sort` `-name` is descending."""

    verdict: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    rule: tuple[str, ...] = ()
    reason: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    review: tuple[str, ...] = ()
    image: str = ""
    ranges: tuple[Range, ...] = ()
    # The score whose distribution is shown.
    score: str = ""
    sort: str = ""
    view: str = VIEWS[0]
    size: int = SIZES[0]
    page: int = 1

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]], table: Table) -> Self:
        """From the pairs of an address."""
        values: dict[str, list[str]] = {}
        for name, value in pairs:
            values.setdefault(name, []).append(value)
        facets = {name: _known(values.get(name, ()), getattr(table, name)) for name in FACETS}
        last = {name: some[-1] for name, some in values.items()}
        sort, score = last.get("sort", ""), last.get("score", "")
        ranges = {text.partition(":")[0]: text for text in values.get("range", ())[:_MOST_VALUES]}
        # The form's own two fields replace the range of the score that they were shown for.
        if typed := last.get("of", ""):
            ranges[typed] = f"{typed}:{last.get('from', '')}:{last.get('to', '')}"
        found = [_range(text, table) for text in ranges.values()]
        return cls(
            **facets,
            image=last.get("image", "")[:_MOST_TEXT],
            ranges=tuple(some for some in found if some),
            score=score if score in table.scores else "",
            sort=sort if sort.removeprefix("-") in table.scores else "",
            view=_one_of(last.get("view", ""), VIEWS),
            size=int(_one_of(last.get("size", ""), tuple(map(str, SIZES)))),
            page=max(1, _whole(last.get("page", ""))),
        )

    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of its address; what is as usual is left out."""
        usual = Query()
        found = [(name, value) for name in FACETS for value in getattr(self, name)]
        found += [("range", str(some)) for some in self.ranges]
        for name in ("image", "score", "sort", "view", "size", "page"):
            if (value := getattr(self, name)) != getattr(usual, name):
                found.append((name, str(value)))
        return found

    def address(self, **changes: Any) -> str:
        """The query part of an address with some fields changed, on the first page unless given."""
        changed = replace(self, **{"page": 1, **changes})
        return f"?{urlencode(changed.pairs())}"

    def without(self, name: str, value: Any) -> str:
        """The query part without one value of a filter."""
        kept = tuple(some for some in getattr(self, name) if some != value)
        return self.address(**{name: kept})

    def range_of(self, score: str) -> tuple[float, float]:
        """The range of a score, infinite where it has none."""
        for some in self.ranges:
            if some.score == score:
                return some.low, some.high
        return -math.inf, math.inf

    @property
    def filtered(self) -> bool:
        return bool(self.image or self.ranges or any(getattr(self, name) for name in FACETS))

    def filters(self, table: Table) -> dict[str, np.ndarray]:
        """(N,) bool of every filter that is on, by facet, `image`, or the score of a range."""
        on = {name: wanted for name in FACETS if (wanted := getattr(self, name))}
        found = {name: getattr(table, name).among(wanted) for name, wanted in on.items()}
        if self.image:
            found["image"] = table.image.containing(self.image)
        for some in self.ranges:
            # A sample without the score has NaN, which is in no range.
            score_N = table.scores[some.score]
            found[some.score] = (score_N >= some.low) & (score_N <= some.high)
        return found

    def rows(self, table: Table, passing_N: np.ndarray | None = None) -> np.ndarray:
        """The selected rows in the requested order; samples without the score come last."""
        rows = np.flatnonzero(
            passing(self.filters(table), table) if passing_N is None else passing_N
        )
        if not self.sort:
            return rows
        score_M = table.scores[self.sort.removeprefix("-")][rows]
        # NaN sorts to the end in both directions, and equal scores stay in the usual order.
        return rows[np.argsort(-score_M if self.sort[0] == "-" else score_M, kind="stable")]


def passing(filters: dict[str, np.ndarray], table: Table, but: str = "") -> np.ndarray:
    """(N,) bool, the samples that pass all filters, or all but one."""
    good_N = np.ones(len(table), np.bool_)
    for name, filter_N in filters.items():
        if name != but:
            good_N &= filter_N
    return good_N


def _known(values: Iterable[str], column: Names) -> tuple[str, ...]:
    wanted = set(list(values)[:_MOST_VALUES])
    return tuple(name for name in column.names if name and name in wanted)


def _range(text: str, table: Table) -> Range | None:
    """A range from `name:low:high`, where either end may be missing; None when it says nothing."""
    name, _, ends = text.partition(":")
    low, _, high = ends.partition(":")
    found = Range(name, _float(low, -math.inf), _float(high, math.inf))
    is_open = math.isinf(found.low) and math.isinf(found.high)
    return None if is_open or name not in table.scores else found


def _float(text: str, usual: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return usual
    return value if math.isfinite(value) else usual


def _number(value: float) -> str:
    return f"{value:.12g}" if math.isfinite(value) else ""


def _one_of(text: str, choices: tuple[str, ...]) -> str:
    return text if text in choices else choices[0]


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 1

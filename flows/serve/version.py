"""The gallery of a version: filters, order, pages; and what is known about the version."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from flows.serve.desk import Desks
from flows.serve.opened import OpenVersions
from flows.serve.pages import Pages
from flows.serve.query import SIZES, VIEWS, Query, passing
from flows.serve.table import Table
from pipeline.kinds import KINDS
from pipeline.reports.diff.compare import flat

# Headings of the facets, in the order in which the page offers them.
_FACET_TITLES = {
    "verdict": "Samples",
    "review": "Review",
    "kind": "What they show",
    "rule": "Rule that is broken",
    "reason": "Why it was rejected",
    "split": "Split",
}
_VIEW_TITLES = {
    "marked": "Change outlined",
    "edited": "Edited",
    "source": "Good image",
}
_BINS = 48


@dataclass(frozen=True, slots=True)
class Choice:
    """One value of a facet: how many samples it would show, and whether it is chosen."""

    name: str
    count: int
    chosen: bool


@dataclass(frozen=True, slots=True)
class Histogram:
    """The distribution of a score: heights of bars from 0 to 1, and which lie in the range."""

    score: str
    low: float
    high: float
    heights: tuple[float, ...]
    inside: tuple[bool, ...]


def router(pages: Pages, opened: OpenVersions, desks: Desks) -> APIRouter:
    """`/v/CATEGORY/VERSION` and `/v/CATEGORY/VERSION/about`."""
    routes = APIRouter()

    @routes.get("/v/{category}/{name}")
    def gallery(category: str, name: str, request: Request) -> Response:
        found = opened.get(category, name)
        table = desks.table(found)
        query = Query.of(request.query_params.multi_items(), table)
        return pages.page("version.html.j2", opened=found, **_gallery(table, query))

    @routes.get("/v/{category}/{name}/about")
    def about(category: str, name: str) -> Response:
        found = opened.get(category, name)
        index = found.version.index
        made = {key: index.get(key) for key in ("settings", "limits", "weights", "software")}
        return pages.page(
            "about.html.j2",
            opened=found,
            index=index,
            kinds=sorted(index["counts"]["by_kind"].items(), key=lambda item: _place(item[0])),
            made={key: list(flat(value).items()) for key, value in made.items() if value},
        )

    return routes


def _gallery(table: Table, query: Query) -> dict[str, Any]:
    """The values of the gallery's page."""
    filters = query.filters(table)
    rows = query.rows(table, passing(filters, table))
    last = max(1, -(-len(rows) // query.size))
    page = min(query.page, last)
    shown = rows[(page - 1) * query.size : page * query.size].tolist()
    return {
        "table": table,
        "query": query,
        "matching": len(rows),
        "rows": shown,
        "page": page,
        "last": last,
        "first_shown": (page - 1) * query.size + 1,
        # Each counted among the samples that pass all other filters.
        "facets": [(name, title, _choices(table, query, name, passing(filters, table, name)))
                   for name, title in _FACET_TITLES.items()],
        "histogram": _histogram(table, query, passing(filters, table, query.score)),
        "views": [(name, _VIEW_TITLES[name]) for name in VIEWS],
        "sizes": SIZES,
    }  # fmt: skip


def _choices(table: Table, query: Query, facet: str, among_N: np.ndarray) -> list[Choice]:
    """The values of a facet, counted among these samples."""
    column, chosen = getattr(table, facet), getattr(query, facet)
    counts = column.counts(among_N)
    names = [name for name in column.names if name in counts or name in chosen]
    found = [Choice(name, counts.get(name, 0), name in chosen) for name in names]
    # These have an order of their own, of everything else the frequent ones come first.
    if facet in ("verdict", "review"):
        return found
    return sorted(found, key=lambda choice: (-choice.count, choice.name))


def _place(kind: str) -> tuple[int, str]:
    """Kinds in the order of the docs, controls last, those of other releases after them."""
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)


def _histogram(table: Table, query: Query, among_N: np.ndarray) -> Histogram | None:
    """The distribution of the score that is looked at, among these samples."""
    if not query.score:
        return None
    values = table.scores[query.score][among_N]
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    heights, edges = np.histogram(values, bins=_BINS)
    # The root, so that a few samples far out are seen beside the many.
    tall = np.sqrt(heights / max(1, heights.max()))
    low, high = query.range_of(query.score)
    inside = (edges[1:] >= low) & (edges[:-1] <= high)
    return Histogram(
        query.score, float(edges[0]), float(edges[-1]), tuple(tall.tolist()), tuple(inside.tolist())
    )

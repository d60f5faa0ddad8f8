"""The first page: the products of the store and their versions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fastapi import APIRouter, Response

from flows.serve.opened import Opened, OpenVersions
from flows.serve.pages import Pages
from flows.serve.paths import Category, Store
from pipeline.dataset.version import Version
from pipeline.errors import AnomalysmithError

# Rows and kinds of the samples that the first page shows of a product, and how many.
Examples = list[tuple[int, str]]
_EXAMPLES = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One version in the list of its product."""

    version: Version
    bytes: int


def router(pages: Pages, store: Store, opened: OpenVersions) -> APIRouter:
    """`/`"""
    routes = APIRouter()
    # By version and digest: there may be more products than versions that are kept open.
    kept: dict[tuple[str, str], Examples] = {}

    def examples(category: str, version: Version) -> Examples:
        key = (category, version.digest)
        if key not in kept:
            kept[key] = _examples(opened.get, category, version.name)
        return kept[key]

    @routes.get("/")
    def products() -> Response:
        found = [_product(store, category, examples) for category in store.categories()]
        return pages.page("store.html.j2", products=found)

    return routes


def _product(
    store: Store, category: Category, examples: Callable[[str, Version], Examples]
) -> dict[str, object]:
    """What the page shows of one product, its newest version first."""
    versions = list(reversed(store.versions(category)))
    known = {version.name for version in versions}
    damaged = [f.name for f in store.version_folders(category) if f.name not in known]
    return {
        "name": category.name,
        "rows": [Row(version, _size(version.dir)) for version in versions],
        "damaged": damaged,
        "examples": examples(category.name, versions[0]) if versions else [],
    }


def _examples(get: Callable[[str, str], Opened], category: str, name: str) -> Examples:
    """Rows and kinds of some anomalies, of as many kinds as there are."""
    try:
        table = get(category, name).table
    # The page of the version says what is wrong with it.
    except AnomalysmithError:
        return []
    found: Examples = []
    anomalies_N = table.verdict.among(["accepted"])
    counts = sorted(table.kind.counts(anomalies_N).items(), key=lambda item: -item[1])
    # Another image for each kind.
    for turn, (kind, count) in enumerate(counts[:_EXAMPLES]):
        rows = np.flatnonzero(anomalies_N & table.kind.among([kind]))
        found.append((int(rows[turn * count // _EXAMPLES % count]), kind))
    return found


def _size(folder: Path) -> int:
    """Bytes of a version on disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

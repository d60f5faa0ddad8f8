"""What changed between two versions of a product, sample by sample."""

from typing import Any

from fastapi import APIRouter, HTTPException, Response

from flows.serve.comparisons import Comparisons
from flows.serve.opened import Opened, OpenVersions
from flows.serve.pages import Pages
from pipeline.errors import AnomalysmithError

# Ways of change in the order of the page, with their headings.
TITLES = {
    "added": "New samples",
    "removed": "Samples that are gone",
    "pixels": "The image or its mask changed",
    "split": "Moved to another split",
    "gate": "The gate decided differently",
    "metadata": "Only the record changed",
}
# Examples of each way of change on the page.
_EXAMPLES = 24


def router(pages: Pages, opened: OpenVersions, comparisons: Comparisons) -> APIRouter:
    """`/v/CATEGORY/VERSION/diff?other=VERSION`: from the other version to this one."""
    routes = APIRouter()

    @routes.get("/v/{category}/{name}/diff")
    def diff(category: str, name: str, other: str = "") -> Response:
        after = opened.get(category, name)
        listing = opened.store
        names = [v.name for v in listing.versions(listing.category(category)) if v.name != name]
        chosen = other or _usual(after, names)
        values: dict[str, Any] = {"opened": after, "names": names, "other": chosen, "problem": ""}
        if not chosen:
            return pages.page("diff.html.j2", found=None, waiting=False, **values)
        if chosen not in names:
            raise HTTPException(404, "There is no such version of this product.")
        before = opened.get(category, chosen)
        try:
            found = comparisons.get(before.version.dir, after.version.dir)
        # Versions of two image sizes, a damaged shard: the page says so, and offers other versions.
        except AnomalysmithError as error:
            values["problem"] = str(error).removeprefix("anomalysmith: ")
            return pages.page("diff.html.j2", found=None, waiting=False, **values)
        if found is None:
            return pages.page("diff.html.j2", found=None, waiting=True, **values)
        sections = [
            (way, title, found["counts"][way], *_examples(way, found[way], before, after))
            for way, title in TITLES.items()
            if found["counts"][way]
        ]
        return pages.page(
            "diff.html.j2", found=found, waiting=False, sections=sections, titles=TITLES, **values
        )

    return routes


def _usual(after: Opened, names: list[str]) -> str:
    """The version that this one was made from, else the one before it, else any."""
    parent = after.version.index["parent"]
    if parent in names:
        return str(parent)
    older = [name for name in names if name < after.version.name]
    return older[-1] if older else next(iter(names), "")


def _examples(
    way: str, changes: list[dict[str, Any]], before: Opened, after: Opened
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Some of the changes to show and some to list in words, each with its rows in both versions.

    A row is None where a version has no such sample or kept no image of it.
    """
    shown: list[dict[str, Any]] = []
    listed: list[dict[str, Any]] = []
    for change in changes:
        if way == "gate":
            # A decision of the gate: the same attempt in both versions.
            ids = (f"{change['image']}@{change['number']}.{change['attempt']}",) * 2
        else:
            ids = tuple((change[side] or {}).get("id", "") for side in ("before", "after"))
        rows = [side.table.find(one) for side, one in zip((before, after), ids, strict=True)]
        entry = {"change": change, "rows": rows, "id": ids[1] or ids[0]}
        # Images of a sample of which only the record changed are the same twice.
        pictured = way != "metadata" and rows != [None, None]
        (shown if pictured and len(shown) < _EXAMPLES else listed).append(entry)
    return shown, listed

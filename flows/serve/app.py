"""The web application over a store: one place that gives every page what it needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from flows.serve import diff, images, reports, review, rules, sample, store, version
from flows.serve.comparisons import Comparisons
from flows.serve.desk import Desks
from flows.serve.errors import add_error_pages
from flows.serve.opened import OpenVersions
from flows.serve.pages import Pages
from flows.serve.paths import Store
from flows.serve.safety import Access, Safety

_STATIC = Path(__file__).with_name("static")


def create_app(
    store_dir: Path,
    *,
    runs: Sequence[Path] = (),
    access: Access | None = None,
    rule_books: Path | None = None,
    comparisons: Comparisons | None = None,
) -> FastAPI:
    """The application over a store and folders of detector runs; it opens nothing yet.

    Without `access` it answers on this machine only, and may write. Who gives `comparisons` closes
    them when the server ends.
    """
    access, comparisons = access or Access(), comparisons or Comparisons()
    listing = Store(store_dir)
    opened = OpenVersions(listing)
    desks = Desks(opened)
    pages = Pages(
        {"store": str(store_dir), "read_only": access.read_only, "has_reports": bool(runs)}
    )
    # No pages of FastAPI's own: they load scripts from elsewhere.
    app = FastAPI(title="anomalysmith", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", _Static(directory=_STATIC))
    app.include_router(store.router(pages, listing, opened))
    app.include_router(images.router(opened))
    app.include_router(version.router(pages, opened, desks))
    app.include_router(sample.router(pages, opened, desks))
    app.include_router(diff.router(pages, opened, comparisons))
    app.include_router(reports.router(pages, runs))
    app.include_router(review.router(pages, desks, access.read_only))
    app.include_router(rules.router(pages, listing, opened, rule_books, access.read_only))
    add_error_pages(app, pages)
    app.add_middleware(Safety, access=access)
    return app


class _Static(StaticFiles):
    """Style and scripts; a browser asks whether they changed, since a new release changes them."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["cache-control"] = "no-cache"
        return response

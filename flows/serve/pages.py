"""Rendering pages, and the addresses that they link to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi.responses import HTMLResponse

from flows.serve import words
from pipeline.utils.html import jinja_environment

_TEMPLATES = Path(__file__).with_name("templates")


def address(category: str, version: str, *parts: object, **query: object) -> str:
    """The address of a version's gallery, or of something below it."""
    path = "/".join(quote(str(part), safe="") for part in (category, version, *parts))
    return f"/v/{path}" + (f"?{urlencode(query)}" if query else "")


class Pages:
    """The templates, with what every page shows: `site` is the same for all of them."""

    def __init__(self, site: Mapping[str, Any]) -> None:
        self._jinja = jinja_environment(_TEMPLATES)
        self._jinja.globals |= {"site": dict(site), "address": address}
        self._jinja.filters |= words.FILTERS

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """The page of a template such as `store.html.j2`."""
        return HTMLResponse(self._jinja.get_template(template).render(**values), status)

"""Reports of detectors and pages of `compare` that lie in the folders given by `--runs`.

They are files that anything may have written, with scripts of their own. So each is shown in a
frame whose content has no origin: it can neither read a page of this server nor send to it, nor
load anything.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Response

from flows.serve.pages import Pages
from pipeline.utils.names import text_of

# The pages, with the file of figures beside each.
_PAGES = {"compare.html": "compare.json", "report.html": "report.json"}
# Folders below a folder of runs, and reports in all of them.
_DEEPEST, _MOST = 6, 500
# Figures of a report are a few hundred kilobytes, and are not read beyond this.
_MOST_FIGURES = 32 << 20
_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, slots=True)
class Report:
    """One page: `key` stands for it in addresses, `path` is where it lies."""

    key: str
    path: Path
    # Below its folder of runs, as text.
    place: str
    changed: float

    @property
    def compares(self) -> bool:
        """True for a page of `compare`, False for the report of one detector."""
        return self.path.name == "compare.html"


def router(pages: Pages, runs: Sequence[Path]) -> APIRouter:
    """`/reports`, `/reports/KEY` in its frame, and `/reports/KEY/page` itself."""
    routes = APIRouter()

    @routes.get("/reports")
    def reports() -> Response:
        found = [(report, _figures(report)) for report in _listed(runs)]
        return pages.page(
            "reports.html.j2", reports=found, folders=[text_of(folder) for folder in runs]
        )

    @routes.get("/reports/{key}")
    def framed(key: str) -> Response:
        return pages.page("report.html.j2", report=_found(runs, key))

    @routes.get("/reports/{key}/page")
    def page(key: str) -> Response:
        content = _found(runs, key).path.read_bytes()
        headers = {"content-security-policy": _POLICY}
        return Response(content, media_type="text/html; charset=utf-8", headers=headers)

    return routes


def _found(runs: Sequence[Path], key: str) -> Report:
    for report in _listed(runs):
        if report.key == key:
            return report
    raise HTTPException(404, "There is no such report any more.")


def _listed(runs: Sequence[Path]) -> list[Report]:
    """All reports, those of `compare` first, then the newest."""
    found = [report for folder in runs for report in _inside(folder)][:_MOST]
    return sorted(found, key=lambda report: (not report.compares, -report.changed))


def _inside(runs: Path) -> Iterator[Report]:
    """The reports below one folder. Links are not followed, so none leads out of it."""
    for folder, below, files in os.walk(runs):
        here = Path(folder)
        depth = len(here.relative_to(runs).parts)
        below[:] = sorted(b for b in below if b[0] != ".") if depth < _DEEPEST else []
        for name in _PAGES:
            path = here / name
            if name in files and not path.is_symlink():
                key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
                place = text_of(here.relative_to(runs.parent))
                yield Report(key, path, place, path.stat().st_mtime)


def _figures(report: Report) -> dict[str, Any]:
    """What the list shows of a report; empty texts where its file of figures is not as expected."""
    path = report.path.with_name(_PAGES[report.path.name])
    try:
        if path.is_symlink() or path.stat().st_size > _MOST_FIGURES:
            return _shown({})
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = {}
    return _shown(content if isinstance(content, dict) else {})


def _shown(content: dict[str, Any]) -> dict[str, Any]:
    """Category, version, detector and AUROC of a file of figures, of whichever of the two sorts."""

    def text(*keys: str) -> str:
        value: Any = content
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, str) else ""

    auroc = content.get("image_auroc")
    return {
        "category": text("category") or text("version", "category"),
        "version": text("version", "name"),
        "detector": text("detector") or text("recommendation", "detector"),
        "auroc": float(auroc) if isinstance(auroc, int | float) else None,
    }

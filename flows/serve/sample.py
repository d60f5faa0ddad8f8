"""One sample: its layers, the gate's scores against their limits, its lineage."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from flows.serve.desk import Desks
from flows.serve.images import place
from flows.serve.opened import Opened, OpenVersions
from flows.serve.pages import Pages, address
from flows.serve.query import Query
from flows.serve.table import Table
from pipeline.dataset.attempts import read_tries
from pipeline.dataset.files import RECORDS
from pipeline.errors import RecordError
from pipeline.gate.checks import Finding, findings, stored_limits
from pipeline.records import Edit
from pipeline.reports.diff.compare import flat

# Layers in the order of their keys 1 to 7.
LAYERS = (
    ("source", "Good image"),
    ("foreground", "Product"),
    ("proposals", "Objects"),
    ("edited", "Edited"),
    ("marked", "Outlined"),
    ("mask", "Mask"),
    ("difference", "Difference"),
)
_CHOSEN = "marked"
# Checks that are shown at once, those closest to their limits; failed ones in any case.
_CHECKS = 5
# Other samples of the same image that are shown.
_SIBLINGS = 12
# A record of another release may have a kind or fields that this one does not know.
_UNKNOWN = (RecordError, KeyError, TypeError)


@dataclass(frozen=True, slots=True)
class Gauge:
    """One check of the gate as a bar: the limit lies in its middle, `at` (0 to 1) is the value."""

    finding: Finding
    limit: float
    at: float
    # True when values below the limit pass.
    below: bool

    @property
    def margin(self) -> float:
        """How far from the limit, as a share of it; negative where the check failed."""
        away = (self.limit - self.finding.score) / abs(self.limit)
        return away if self.below else -away


def router(pages: Pages, opened: OpenVersions, desks: Desks) -> APIRouter:
    """`/v/CATEGORY/VERSION/sample/ROW`, and `/v/CATEGORY/VERSION/sample?id=ID` that leads to it."""
    routes = APIRouter()

    @routes.get("/v/{category}/{name}/sample")
    def by_id(category: str, name: str, id: str = "") -> Response:
        row = opened.get(category, name).table.find(id)
        if row is None:
            raise HTTPException(404, "There is no sample with this id in this version.")
        return RedirectResponse(address(category, name, "sample", row))

    @routes.get("/v/{category}/{name}/sample/{row}")
    def sample(category: str, name: str, row: int, request: Request) -> Response:
        found = opened.get(category, name)
        table = desks.table(found)
        query = Query.of(request.query_params.multi_items(), table)
        chosen = request.query_params.get("layer", "")
        return pages.page(
            "sample.html.j2",
            opened=found,
            row=row,
            query=query,
            layers=LAYERS,
            layer=chosen if chosen in dict(LAYERS) else _CHOSEN,
            **_sample(found, table, row),
            **_neighbours(table, query, row),
        )

    return routes


def _sample(opened: Opened, table: Table, row: int) -> dict[str, Any]:
    """What is recorded about the sample."""
    shard, stored = place(opened, row)
    with opened.lock:
        record = shard.record(stored)
        image = shard.image_record(shard.source(stored))
    tries = read_tries(opened.version.dir / RECORDS, table.image[row], int(table.number_N[row]))
    same_N = table.image.codes_N == table.image.codes_N[row]
    siblings = [int(other) for other in np.flatnonzero(same_N) if other != row]
    checks, others = _gauges(opened, record)
    return {
        "table": table,
        "record": record,
        "image": image,
        "checks": checks,
        "close": max(_CHECKS, sum(not gauge.finding.passed for gauge in checks)),
        "painted_by": _inpainters(record["edit"]["parameters"]),
        "others": others,
        "before": [t for t in tries if t["attempt"] < record["attempt"]],
        "siblings": siblings[:_SIBLINGS],
        "more_siblings": max(0, len(siblings) - _SIBLINGS),
        "edit": [item for item in flat(record["edit"]["parameters"]).items() if item[0]],
    }


def _inpainters(parameters: dict[str, Any]) -> list[str]:
    """What filled the holes of an edit, by name."""
    fills = parameters.get("fills")
    named = [fill.get("inpainter") for fill in fills if isinstance(fill, dict)] if fills else []
    return sorted({name for name in named if isinstance(name, str)})


def _gauges(opened: Opened, record: dict[str, Any]) -> tuple[list[Gauge], list[tuple[str, float]]]:
    """The checks with a limit, the closest to it first, and the scores without one."""
    scores = record["scores"]
    stored = stored_limits(opened.version.index)
    try:
        edit = Edit.from_json(record["edit"])
    except _UNKNOWN:
        stored = None
    found = findings(edit, scores, *stored) if stored else []
    gauges = [_gauge(one, one.limit) for one in found if one.limit and one.check.reason != "empty"]
    gauges.sort(key=lambda gauge: gauge.margin)
    shown = {gauge.finding.check.score for gauge in gauges}
    return gauges, [(name, value) for name, value in sorted(scores.items()) if name not in shown]


def _gauge(finding: Finding, limit: float) -> Gauge:
    share = finding.score / (2 * limit) if limit > 0 else 0.5
    return Gauge(finding, limit, min(1.0, max(0.0, share)), finding.check.rejected_when == "above")


def _neighbours(table: Table, query: Query, row: int) -> dict[str, Any]:
    """The samples before and after this one in the gallery that led here."""
    rows = query.rows(table)
    places = np.flatnonzero(rows == row)
    if not len(places):
        return {"at": None, "selected": len(rows), "previous": None, "next": None}
    at = int(places[0])
    return {
        "at": at + 1,
        "selected": len(rows),
        "previous": int(rows[at - 1]) if at else None,
        "next": int(rows[at + 1]) if at + 1 < len(rows) else None,
        # The page of the gallery that this sample is on.
        "back": at // query.size + 1,
    }

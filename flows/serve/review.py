"""The review page of a version: samples in the teaching order, and decisions as JSON.

GET  …/review              the page; static/review.js does the rest
GET  …/review/queue        the next samples for a reviewer
POST …/review/decisions    decisions, on the disk before the answer
GET  …/progress            how far it is, by kind and by reviewer; agreement
"""

import shlex
from collections import Counter
from typing import Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from flows.serve.desk import SHOWS, Desk, Desks, Place
from flows.serve.images import place as place_of
from flows.serve.pages import Pages
from flows.serve.words import kind_text
from pipeline.errors import UserError
from pipeline.review.agreement import agreements
from pipeline.review.decision import REASONS, VERDICTS, Decision
from pipeline.review.state import JOINTS

# Samples per answer: some pages of the grid, so that images load ahead.
MOST_SAMPLES = 200
# Decisions per request, and how many steps back a reviewer may go after a reload.
MOST_DECISIONS, MOST_STEPS = 1000, 50
# Layers to switch between: the key, the name in the address, and the label.
LAYERS = (
    ("e", "edited", "Edited"), ("o", "marked", "Outline"), ("s", "source", "Source"),
    ("d", "difference", "Difference"), ("m", "mask", "Mask"), ("p", "proposals", "Proposals"),
    ("f", "foreground", "Foreground"),
)  # fmt: skip


class Sent(BaseModel):
    """What a page sends: decisions of one reviewer, oldest first; each checks itself."""

    model_config = ConfigDict(extra="forbid")

    reviewer: str = Field(min_length=1, max_length=100)
    decisions: list[dict[str, str | None]] = Field(min_length=1, max_length=MOST_DECISIONS)


def router(pages: Pages, desks: Desks, read_only: bool) -> APIRouter:
    """The pages below a version."""
    routes = APIRouter()

    @routes.get("/v/{category}/{name}/review")
    def review(category: str, name: str) -> Response:
        desk = desks.get(category, name)
        return pages.page(
            "review.html.j2",
            opened=desk.opened,
            kinds=_kinds(desk),
            sentences={kind: kind_text(kind) for kind in _kinds(desk)},
            reasons=REASONS,
            layers=LAYERS,
            shows=SHOWS,
            samples=len(desk.places_N),
            size=desk.opened.version.image_size,
            read_only=read_only,
        )

    @routes.get("/v/{category}/{name}/review/queue")
    def queue(
        category: str,
        name: str,
        reviewer: str = Query(min_length=1, max_length=100),
        show: str = "new",
        kind: str = "",
        after: int = -1,
        count: int = Query(48, ge=1, le=MOST_SAMPLES),
    ) -> dict[str, Any]:
        if show not in SHOWS:
            raise UserError(f"expected show to be one of {', '.join(SHOWS)}, got {show[:40]!r}")
        desk = desks.get(category, name)
        mine = desk.mine(reviewer)
        places = list(desk.queue(reviewer, show, kind, after))
        steps = list(mine.values())[-MOST_STEPS:]
        return {
            "samples": [_sample(desk, place, mine) for place in places[:count]],
            "left": len(places),
            # For undo: the last decisions, and the samples that they are about.
            "steps": [
                {"at": step.at, **_sample(desk, desk.place(step.sample), mine)}
                for step in steps
                if desk.has(step.sample)
            ],
            "totals": desk.totals(reviewer),
        }

    @routes.post("/v/{category}/{name}/review/decisions")
    def decide(category: str, name: str, sent: Sent) -> dict[str, Any]:
        desk = desks.get(category, name)
        decisions = [
            Decision.from_json({**content, "reviewer": sent.reviewer, "version": name})
            for content in sent.decisions
        ]
        desk.decide(decisions)
        mine = desk.mine(sent.reviewer)
        samples = dict.fromkeys(decision.sample for decision in decisions)
        return {
            "stands": {sample: _said(mine.get(sample)) for sample in samples},
            "totals": desk.totals(sent.reviewer),
        }

    @routes.get("/v/{category}/{name}/progress")
    def progress(category: str, name: str) -> Response:
        desk = desks.get(category, name)
        return pages.page("progress.html.j2", **_progress(desk))

    return routes


def _sample(desk: Desk, place: Place, mine: dict[str, Decision]) -> dict[str, Any]:
    """What the page needs of one sample."""
    table = desk.opened.table
    shard, row = place_of(desk.opened, place.row)
    with desk.opened.lock:
        box = shard.bbox(row)
    return {
        "position": place.position,
        "id": place.sample,
        "row": place.row,
        "kind": table.kind[place.row],
        "control": table.verdict[place.row] == "control",
        "rule": table.rule[place.row],
        "image": table.image[place.row],
        "box": box,
        **_said(mine.get(place.sample)),
    }


def _said(decision: Decision | None) -> dict[str, str]:
    """What a reviewer said about a sample; empty texts where nothing."""
    if decision is None:
        return {"verdict": "", "reason": "", "note": "", "at": ""}
    return {
        "verdict": decision.verdict or "",
        "reason": decision.reason,
        "note": decision.note,
        "at": decision.at,
    }


def _kinds(desk: Desk) -> dict[str, int]:
    """How many samples of each kind are to be reviewed."""
    table = desk.opened.table
    return dict(sorted(Counter(table.kind[place.row] for place in desk.places_N).items()))


def _progress(desk: Desk) -> dict[str, Any]:
    """The values of the page of progress."""
    state, unreadable = desk.everything()
    table = desk.opened.table
    joint = {s: v for s, v in state.joint.items() if desk.has(s)}
    by_kind: dict[str, Counter[str]] = {kind: Counter() for kind in _kinds(desk)}
    for sample, verdict in joint.items():
        by_kind[table.kind[desk.place(sample).row]][verdict] += 1
    reviewers = []
    for name in state.reviewers:
        made = [d for d in state.verdicts_of(name).values() if desk.has(d.sample)]
        said = Counter(decision.verdict for decision in made)
        if made:
            last = max(decision.at for decision in made)
            reviewers.append((name, len(made), [said[verdict] for verdict in VERDICTS], last))
    rejected = [
        decision
        for sample, verdict in joint.items()
        if verdict in ("reject", "disputed")
        for decision in state.decisions_on(sample).values()
        if decision.verdict == "reject"
    ]
    disputed = [s for s, verdict in joint.items() if verdict == "disputed"]
    found = Counter(joint.values())
    return {
        "opened": desk.opened,
        "samples": len(desk.places_N),
        "reviewed": len(joint),
        "joint": {verdict: found[verdict] for verdict in JOINTS},
        "kinds": [(kind, count, by_kind[kind]) for kind, count in _kinds(desk).items()],
        "joints": JOINTS,
        "verdicts": VERDICTS,
        "reviewers": reviewers,
        "agreements": [a for a in agreements(state) if a.samples],
        "reasons": Counter(
            decision.reason for decision in rejected if decision.reason
        ).most_common(),
        "sentences": REASONS,
        "disputed": [(desk.place(s), state.decisions_on(s)) for s in disputed[:12]],
        "disputed_count": len(disputed),
        "unreadable": unreadable,
        "own": desk.has_log(),
        # As a word of the commands that the page shows.
        "folder": shlex.quote(str(desk.opened.version.dir)),
    }

"""Small versions with scores of the gate, and decisions about them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from small_results import header, image_result, small_version

from pipeline.dataset.version import Version
from pipeline.gate.settings import GateSettings
from pipeline.records import Verdict
from pipeline.review.decision import Decision
from pipeline.review.log import review_log

# Settings that a version needs for its limits to be known.
GATE = {"gate": GateSettings().model_dump(mode="json")}


def at(number: int) -> str:
    """A time; larger numbers are later."""
    return f"2026-01-31T12:{number // 60 % 60:02d}:{number % 60:02d}+00:00"


def decide(
    version: Version, verdicts: Mapping[str, str | None], reviewer: str = "Anna", path: Any = None
) -> Path:
    """Append one decision per sample to the version's file, or to another one; returns it."""
    log = review_log(version.dir)
    log = log if path is None else replace(log, path=Path(path))
    start = len(log.read())
    log.append(
        [
            Decision(sample, verdict, "", "", reviewer, at(start + n))  # type: ignore[arg-type]
            for n, (sample, verdict) in enumerate(verdicts.items())
        ]
    )
    return log.path


def scored_version(
    store: Path,
    scores: Sequence[Sequence[tuple[str, Mapping[str, float]]]],
    limits: Mapping[str, Any] | None = None,
    **options: Any,
) -> Version:
    """A version whose images have one accepted attempt per (kind, scores of the gate)."""
    results = []
    for number, turns in enumerate(scores):
        result = image_result(number, turns=[(kind, "") for kind, _ in turns])
        attempts = [
            replace(attempt, verdict=Verdict(True, "", found))
            for attempt, (_, found) in zip(result.attempts, turns, strict=True)
        ]
        results.append(replace(result, attempts=tuple(attempts)))
    head = header(settings=GATE, limits=dict(limits or {}))
    return small_version(store, results=results, head=head, **options)


def ids(version: Version) -> list[str]:
    """The ids of the accepted samples, in the order of the version."""
    return [record["id"] for *_, record in version.samples()]

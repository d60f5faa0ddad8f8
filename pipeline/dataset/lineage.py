"""Lineage: what is written down about images, samples and attempts, as canonical JSON records.

A record says everything that is needed to make a sample again and how the gate saw it, and never
how long it took, so equal runs have equal records.
"""

from typing import Any

from pipeline.records import Attempt, ImageResult, Verdict

JUDGED = "rules_broken"
"""The score that a sample has when, and only when, a rule book judged it."""


def sample_id(result: ImageResult, attempt: Attempt) -> str:
    """The name of a sample inside its version: source@number.attempt."""
    return f"{result.name}@{attempt.number}.{attempt.attempt}"


def image_record(result: ImageResult) -> dict[str, Any]:
    """What is stored about one normal image besides its arrays."""
    foreground, attempts = result.foreground, result.attempts
    return {
        "name": result.name,
        "digest": result.digest,
        "split": result.split,
        "foreground": {"peak": float(foreground.peak), "fallback": foreground.fallback},
        "relaxed": list(result.proposals.relaxed),
        "proposals": len(result.proposals),
        "attempts": len(attempts),
        "accepted": sum(attempt.verdict.accepted for attempt in attempts),
    }


def sample_record(result: ImageResult, attempt: Attempt) -> dict[str, Any]:
    """The lineage of one sample: everything needed to make it again, and the gate's view of it."""
    sample = attempt.sample
    assert sample is not None
    return {
        "id": sample_id(result, attempt),
        "source": {"name": result.name, "digest": result.digest, "split": result.split},
        "number": attempt.number,
        "attempt": attempt.attempt,
        "kind": sample.edit.kind,
        "label": sample.label,
        "seed": attempt.seed,
        "edit": sample.edit.to_json(),
        "accepted": attempt.verdict.accepted,
        "reason": attempt.verdict.reason,
        "scores": {name: float(value) for name, value in attempt.verdict.scores.items()},
        **rules_record(attempt.verdict),
    }


def attempt_record(result: ImageResult, attempt: Attempt) -> dict[str, Any]:
    """What happened in one try, without how long it took or where it is stored."""
    return {
        "image": result.name,
        "split": result.split,
        "number": attempt.number,
        "attempt": attempt.attempt,
        "kind": attempt.kind,
        "seed": attempt.seed,
        "accepted": attempt.verdict.accepted,
        "reason": attempt.verdict.reason,
        "scores": {name: float(value) for name, value in attempt.verdict.scores.items()},
        **rules_record(attempt.verdict),
    }


def rules_record(verdict: Verdict) -> dict[str, Any]:
    """The rule that an edit was to break and those found broken; nothing without a rule book."""
    if JUDGED not in verdict.scores:
        return {}
    return {"rule": verdict.rule, "broken": list(verdict.broken)}

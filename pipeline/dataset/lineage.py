"""Lineage: what is stored about images, samples and attempts, as canonical JSON records.

A record holds everything that is needed to generate a sample again and the gate's verdict on it. It
never holds a duration, so equal runs have equal records. No other module turns an attempt into
JSON: shards, the table of attempts and the stage cache all build on `attempt_facts`.
"""

from typing import Any

from pipeline.dataset.sample_id import sample_id
from pipeline.records import Attempt, ImageResult, Verdict

# The score that a sample has when, and only when, a rule book judged it.
RULES_SCORE = "rules_broken"
# The reason of a sample that passed the gate and that a person rejected.
REVIEWED = "rejected_in_review"


def image_record(result: ImageResult) -> dict[str, Any]:
    """What is stored about one normal image besides its arrays."""
    foreground, attempts = result.foreground, result.attempts
    # Python's own types only: NumPy numbers have no JSON form.
    return {
        "name": result.name,
        "digest": result.digest,
        "split": result.split,
        "foreground": {
            "peak": float(foreground.peak),
            "fallback": foreground.fallback,
            "backend": foreground.backend,
        },
        "relaxed": list(result.proposals.relaxed),
        "proposals": len(result.proposals),
        # The hierarchy cannot be derived from the masks: outlines decide, too.
        "parents": result.proposals.parent_N.tolist(),
        # No key where nothing was missing, as in older versions.
        **({"asked_again": result.proposals.again} if result.proposals.again else {}),
        "attempts": len(attempts),
        "accepted": sum(attempt.verdict.accepted for attempt in attempts),
    }


def attempt_facts(attempt: Attempt) -> dict[str, Any]:
    """What every record of an attempt has: its place in the plan, its seed, and the verdict."""
    return {
        "number": attempt.number,
        "attempt": attempt.attempt,
        "kind": attempt.kind,
        "seed": attempt.seed,
        "reason": attempt.verdict.reason,
        # Scores may be NumPy scalars, which JSON cannot hold.
        "scores": {name: float(value) for name, value in attempt.verdict.scores.items()},
    }


def sample_record(result: ImageResult, attempt: Attempt) -> dict[str, Any]:
    """The lineage of one sample: everything needed to generate it again, and the gate's verdict."""
    sample = attempt.sample
    assert sample is not None
    # The record holds no mask or pixel: these are columns of their own.
    return attempt_facts(attempt) | {
        "id": sample_id(result.name, attempt.number, attempt.attempt),
        "source": {"name": result.name, "digest": result.digest, "split": result.split},
        "kind": sample.edit.kind,
        "label": sample.label,
        "edit": sample.edit.to_json(),
        "accepted": attempt.verdict.accepted,
        **rules_record(attempt.verdict),
        # In words for people; the table of attempts has the names.
        **({"findings": list(attempt.verdict.findings)} if attempt.verdict.findings else {}),
    }


def attempt_record(result: ImageResult, attempt: Attempt) -> dict[str, Any]:
    """The outcome of one attempt, without its duration and storage location."""
    return attempt_facts(attempt) | {
        "image": result.name,
        "split": result.split,
        "accepted": attempt.verdict.accepted,
        **rules_record(attempt.verdict),
    }


def cached_attempt(attempt: Attempt) -> dict[str, Any]:
    """What the stage cache holds of an attempt besides its arrays; the edit where there is one.

    `rule`, `broken` and `findings` are always there: the cache restores the verdict, with or
    without a rule book. So is `seconds`, which the table of attempts reports for cached attempts
    too.
    """
    edit = {} if attempt.sample is None else {"edit": attempt.sample.edit.to_json()}
    return attempt_facts(attempt) | {
        "seconds": attempt.seconds,
        "rule": attempt.verdict.rule,
        "broken": list(attempt.verdict.broken),
        "findings": list(attempt.verdict.findings),
        **edit,
    }


def rules_record(verdict: Verdict) -> dict[str, Any]:
    """The rule that an edit was meant to break, and those found broken; empty without a book."""
    # No keys at all: versions without a rule book keep the records, and the digests, that they had
    # before rule books existed.
    if RULES_SCORE not in verdict.scores:
        return {}
    return {"rule": verdict.rule, "broken": list(verdict.broken)}

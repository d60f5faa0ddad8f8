"""One decision of a person about one sample: a record that checks itself, one JSON line in a file.

A sample is named by its id (`train/good/000.png@2.0`), which is unique inside a version and not
across versions, so a decision also names the version that was looked at.
"""

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, Self, get_args

from pipeline.errors import UserError
from pipeline.utils.hashing import canonical_json
from pipeline.utils.names import visible

Verdict = Literal["keep", "reject", "unsure"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
# Reasons that a page offers for a rejection; any other short text may be given as well.
REASONS = {
    "visible_edit": "the edit is visible: a seam, blur, smear or foreign noise",
    "impossible": "no real product could look like this",
    "not_wrong": "a product that looks like this would be good",
    "other_anomaly": "it shows another anomaly than its label says",
    "broken_object": "the object was cut: a piece is missing, or something else came with it",
}
# Characters of each text. An id holds a path, which Linux limits to 4096 bytes.
LONGEST = {
    "sample": 5000, "verdict": 10, "reason": 100, "note": 2000, "reviewer": 100, "at": 40,
    "version": 200, "withdraws": 40,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decision:
    """What `reviewer` decided about `sample`, `at` a time (ISO 8601 with a time zone).

    A verdict of None takes back the reviewer's decision on the sample that was made at the time
    `withdraws`; `state.ReviewState.undo` makes such decisions. `reason` is one line, `note` may
    have several. `version` is the name of the version that was looked at; a log fills it in.
    UserError for a field that cannot be right.
    """

    sample: str
    verdict: Verdict | None
    reason: str
    note: str
    reviewer: str
    at: str
    version: str = ""
    withdraws: str = ""

    def __post_init__(self) -> None:
        for name, longest in LONGEST.items():
            value = getattr(self, name)
            if name != "verdict" or value is not None:
                _expect_text(name, value, longest)
        if self.verdict not in (*VERDICTS, None):
            raise _wrong("verdict", f"one of {', '.join(VERDICTS)}", self.verdict)
        if (self.verdict is None) != bool(self.withdraws):
            raise UserError(
                "a decision without a verdict, and no other, names the time of the one that it "
                f"withdraws; got verdict {self.verdict!r} and withdraws {self.withdraws!r}"
            )
        for name in ("sample", "reviewer"):
            if not getattr(self, name).strip():
                raise _wrong(name, "a name", getattr(self, name))
        _expect_time(self.at)
        if self.withdraws:
            _expect_time(self.withdraws)

    def to_line(self) -> bytes:
        """One line of JSON with its line break; empty fields are left out."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        return canonical_json({key: value for key, value in content.items() if value}) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """The inverse of `to_line`; UserError for anything else."""
        try:
            content = json.loads(line)
        # A damaged line may be no UTF-8, or nest brackets deeper than the parser can recurse.
        except (ValueError, RecursionError) as error:
            raise UserError(f"expected a JSON object, got {line[:40]!r}: {error}") from None
        return cls.from_json(content)

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """From the fields by name; UserError for a field that is missing, unknown or wrong."""
        known = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or "sample" not in content or set(content) - known:
            raise UserError(
                f"expected an object with sample, verdict and some of {', '.join(sorted(known))}, "
                f"got {str(content)[:80]}"
            )
        empty: dict[str, Any] = {"verdict": None, "reason": "", "note": "", "reviewer": ""}
        return cls(**empty | {"at": ""} | content)


def now() -> str:
    """The time of a decision that is made now: UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _expect_text(name: str, value: object, longest: int) -> None:
    if not isinstance(value, str):
        raise _wrong(name, "text", value)
    if len(value) > longest:
        raise UserError(f"{name}: expected at most {longest} characters, got {len(value)}")
    # Only a note may have several lines. Lone surrogates have no encoding, so no page could show
    # them.
    lines = value.split("\n") if name == "note" else [value]
    if any(ord(letter) < 32 or "\ud800" <= letter <= "\udfff" for line in lines for letter in line):
        raise _wrong(name, "text without control characters", value)


def _expect_time(text: str) -> None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise _wrong("time", "ISO 8601 with a time zone, such as 2026-01-31T12:00:00+00:00", text)


def _wrong(name: str, expected: str, got: object) -> UserError:
    return UserError(f"{name}: expected {expected}, got {visible(str(got)[:60])!r}")

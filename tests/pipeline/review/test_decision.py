"""A decision checks itself, and a line of the file gives back the decision that was written."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.review.decision import LONGEST, REASONS, VERDICTS, Decision, now

AT = "2026-01-31T12:00:00.000001+00:00"
ONE = Decision("train/good/000.png@2.0", "reject", "visible_edit", "a seam", "Anna", AT)

line = st.text(st.characters(exclude_categories=("Cs",), min_codepoint=32), max_size=100)
names = line.filter(lambda text: text.strip())
decisions = st.builds(
    Decision,
    sample=names,
    verdict=st.sampled_from(VERDICTS),
    reason=line,
    note=st.lists(line, max_size=3).map("\n".join),
    reviewer=names,
    at=st.datetimes(timezones=st.timezones()).map(lambda time: time.isoformat()),
    version=line,
)


@given(decisions)
def test_a_line_gives_back_its_decision(decision):
    text = decision.to_line()
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    assert Decision.from_line(text) == decision
    # ASCII JSON with the names of the fields, so that any other tool can read it.
    content = json.loads(text.decode("ascii"))
    assert {name: getattr(decision, name) for name in content} == content
    assert not any(getattr(decision, name) for name in set(LONGEST) - set(content))


def test_the_longest_fields_fit_into_a_line_that_is_read():
    from pipeline.review.log import LONGEST_LINE

    widest = "\U0001f600"
    texts = {n: widest * LONGEST[n] for n in ("sample", "reason", "note", "reviewer", "version")}
    assert len(replace(ONE, **texts).to_line()) < LONGEST_LINE


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("sample", " ", "sample: expected a name"),
        ("sample", "a\nb", "control characters"),
        ("sample", 7, "expected text"),
        ("verdict", "maybe", "one of keep, reject, unsure, got 'maybe'"),
        ("verdict", None, "names the time of the one that it withdraws"),
        ("withdraws", AT, "names the time of the one that it withdraws"),
        ("reason", "x" * 101, "at most 100 characters, got 101"),
        ("note", "\x1b[31m", "control characters"),
        ("note", "\ud800", "control characters"),
        ("reviewer", "", "reviewer: expected a name"),
        ("at", "", "ISO 8601"),
        ("at", "yesterday", "ISO 8601"),
        ("at", "2026-01-31T12:00:00", "with a time zone"),
    ],
)
def test_a_field_that_cannot_be_right_is_refused(field, value, said):
    with pytest.raises(UserError, match=said) as error:
        replace(ONE, **{field: value})
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"verdict": "keep"}',
        b'{"sample": "a", "verdict": "keep", "reviewer": "b", "at": 3}',
        ONE.to_line().replace(b"sample", b"simple"), ONE.to_line()[:-2],
    ],
)  # fmt: skip
def test_a_line_that_is_no_decision_is_refused(text):
    with pytest.raises(UserError):
        Decision.from_line(text)


def test_what_a_page_offers_is_accepted():
    for reason in REASONS:
        assert replace(ONE, reason=reason, at=now()).verdict == "reject"

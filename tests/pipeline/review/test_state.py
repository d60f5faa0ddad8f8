"""Standing decisions, joint verdicts and undo, against a plain model of what happened."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.review.decision import VERDICTS, Decision
from pipeline.review.state import JOINTS, ReviewState, combined

REVIEWERS, SAMPLES = ("Anna", "Berta"), ("a@0.0", "a@1.0", "b@0.0")


def at(number: int) -> str:
    return f"2026-01-31T12:00:00.{number:06d}+00:00"


def made(sample: str, verdict: str, reviewer: str, time: int) -> Decision:
    return Decision(sample, verdict, "", "", reviewer, at(time))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdicts", "joint"),
    [
        ([], None),
        (["keep", "keep"], "keep"),
        (["reject"], "reject"),
        (["reject", "unsure"], "reject"),
        (["unsure", "keep"], "unsure"),
        (["keep", "reject"], "disputed"),
        (["keep", "reject", "unsure"], "disputed"),
    ],
)
def test_reviewers_combine_as_documented(verdicts, joint):
    assert combined(verdicts) == joint
    assert combined(reversed(verdicts)) == joint
    state = ReviewState(made("a@0.0", v, f"r{n}", n) for n, v in enumerate(verdicts))
    assert state.joint == ({"a@0.0": joint} if joint else {})
    assert state.counts() == {name: int(name == joint) for name in JOINTS}


# A step is a decision on several samples at once, or (None) an undo.
some = st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=3, unique=True)
batches = st.tuples(
    st.sampled_from(REVIEWERS), st.none() | st.tuples(st.sampled_from(VERDICTS), some)
)


@given(st.lists(batches, max_size=25))
def test_undo_leads_back_step_by_step(steps):
    state, log = ReviewState(), []
    # Reference: per reviewer the stack of the tables of verdicts that there were.
    tables: dict[str, list[dict[str, str]]] = {name: [{}] for name in REVIEWERS}
    for time, (reviewer, step) in enumerate(steps):
        if step is None:
            decisions = state.undo(reviewer, at(time))
            assert bool(decisions) == (len(tables[reviewer]) > 1)
            tables[reviewer] = tables[reviewer][: max(1, len(tables[reviewer]) - 1)]
        else:
            verdict, samples = step
            decisions = tuple(made(sample, verdict, reviewer, time) for sample in samples)
            tables[reviewer].append(tables[reviewer][-1] | dict.fromkeys(samples, verdict))
        state.add(decisions)
        log.extend(decisions)
        for name in REVIEWERS:
            found = {s: d.verdict for s, d in state.verdicts_of(name).items()}
            assert found == tables[name][-1]
    now = {name: some[-1] for name, some in tables.items()}
    assert state.reviewers == tuple(name for name in REVIEWERS if now[name])
    for sample in SAMPLES:
        theirs = {name: some[sample] for name, some in now.items() if sample in some}
        assert {n: d.verdict for n, d in state.decisions_on(sample).items()} == theirs
        assert state.joint.get(sample) == combined(theirs.values())
        for name in REVIEWERS:
            mine = state.verdict_of(sample, name)
            assert (mine.verdict if mine else None) == theirs.get(name)
    # Read again, as a whole or twice, it is the same: files may be joined.
    for again in (ReviewState(log), ReviewState([*log, *log])):
        assert again.joint == state.joint
        assert all(again.verdicts_of(n) == state.verdicts_of(n) for n in REVIEWERS)


def test_two_browsers_that_undo_the_same_take_back_one_decision():
    state = ReviewState([made("a@0.0", "keep", "Anna", 0), made("a@0.0", "reject", "Anna", 1)])
    twice = (state.undo("Anna", at(2)), state.undo("Anna", at(3)))
    for decisions in twice:
        state.add(decisions)
    assert state.joint == {"a@0.0": "keep"}


def test_an_undo_names_version_and_time_of_what_it_takes_back():
    one = replace(made("a@0.0", "keep", "Anna", 0), version="0001-0123456789ab", note="sharp")
    (undone,) = ReviewState([one]).undo("Anna", at(7))
    assert undone == Decision("a@0.0", None, "", "", "Anna", at(7), one.version, withdraws=one.at)
    assert Decision.from_line(undone.to_line()) == undone

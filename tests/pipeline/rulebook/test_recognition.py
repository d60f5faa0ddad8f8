"""How surely a part is of a kind, and what that means for counts."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import toy_rules as toy
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rulebook.book import Examples, RuleBook
from pipeline.rulebook.check import recognised_in
from pipeline.rulebook.findings import RecognisedPart, counts_of, findings_of
from pipeline.rulebook.recognition import PLAIN, REACH, chances, recognise, scales_of


def part(name: str | None, **chances: float) -> RecognisedPart:
    """A part of a kind; `none` is the probability of no kind."""
    found = {None if key == "none" else key: share for key, share in chances.items()}
    return RecognisedPart(name, 0, 0, (0.0, 0.0), None, chances=found)  # type: ignore[arg-type]


def examples(apart: float, count: int = 40) -> Examples:
    """Two kinds whose middles are so many standard deviations of their spread apart."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 1, (2 * count, PLAIN))
    vectors[count:, 0] += apart
    return Examples(
        vectors, np.repeat([0, 1], count), np.full((2, 3), 2.0), np.zeros((2, 64)),
        np.zeros(0), np.zeros((0, 0)), np.ones(PLAIN),
    )  # fmt: skip


def test_a_part_at_the_reach_of_its_kind_may_as_well_be_of_none():
    near, reach, far = chances(np.array([[0.2], [REACH], [3 * REACH]]), 0.7)[:, 0]
    assert near > 0.97
    assert reach == pytest.approx(0.5)
    assert far < 1e-6


def test_between_two_kinds_both_have_half_of_what_is_not_none():
    (both,) = chances(np.array([[1.0, 1.0]]), 0.7)
    assert both[0] == both[1] < 0.5
    assert chances(np.array([[1.0, 1.5]]), 0.7)[0].argmax() == 0


@given(st.lists(st.floats(0, 50) | st.just(np.inf), min_size=1, max_size=5), st.floats(0.1, 2))
def test_chances_are_probabilities(nearest, scale):
    found = chances(np.array([nearest]), scale)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found.sum() <= 1 + 1e-9


def test_kinds_that_are_hard_to_tell_apart_make_less_sure():
    """The scale is fitted to the examples, each recognised by the others."""
    clear, mixed = (scales_of(examples(apart))[0] for apart in (12.0, 1.0))
    assert mixed > clear
    # Forty examples without an error: about one error in forty is still possible.
    assert 0.9 < chances(np.array([[0.7, 9.0]]), clear)[0, 0] < 0.999


def test_good_parts_are_recognised_surely_and_others_less(book: RuleBook):
    found = toy.ToyFinder()(toy.board(300))
    for one in recognise(book.examples, found.descriptors):
        assert one.chances_K[one.group] > 0.85
    # A long green strip below all parts is like none of them.
    strange = toy.board(300)
    strange[112:116, 10:118] = toy.GREEN
    shares = [one.chance({None}) for one in recognised_in(book, toy.ToyFinder()(strange))]
    assert sorted(shares)[-1] > 0.9
    assert sorted(shares)[-2] < 0.15


# --- counts ---------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), max_size=6))
def test_the_distribution_of_a_count_is_that_of_all_outcomes(shares):
    found = counts_of([part("a", a=share, none=1 - share) for share in shares], {"a"})
    naive = np.zeros(len(shares) + 1)
    for outcome in product((0, 1), repeat=len(shares)):
        chance = [s if hit else 1 - s for s, hit in zip(shares, outcome, strict=True)]
        naive[sum(outcome)] += np.prod(chance)
    np.testing.assert_allclose(found, naive, atol=1e-12)


def test_without_probabilities_a_count_is_certain():
    np.testing.assert_array_equal(counts_of([part("a"), part("b"), part("a")], {"a"}), [0, 0, 1, 0])


def test_a_doubtful_part_makes_its_count_less_sure_not_another_verdict(book: RuleBook):
    seen = recognised_in(book, toy.ToyFinder()(toy.board(301)))
    sure = [replace(one, chances={one.name: 1.0}) for one in seen]
    name = sure[0].name
    doubtful = [replace(sure[0], chances={name: 0.6, None: 0.4}), *sure[1:]]
    certain, less = (
        {finding.rule: finding for finding in findings_of(book, parts)}
        for parts in (sure, doubtful)
    )
    rule = f"{name}.count"
    assert (certain[rule].off, certain[rule].sure) == (0, 1)
    # A doubt alone is no deviation.
    assert (less[rule].broken, less[rule].off) == (False, 0)
    assert less[rule].sure == pytest.approx(0.6)
    # One too many is off by less where one of them may be none.
    many, perhaps = (
        {finding.rule: finding for finding in findings_of(book, [*parts, parts[0]])}[rule]
        for parts in (sure, doubtful)
    )
    assert many.broken
    assert perhaps.broken
    assert 1 <= perhaps.off < many.off
    assert perhaps.sure < many.sure == 1


@pytest.mark.parametrize("rule", ["count", "unknown"])
def test_a_doubtful_part_counts_the_same_just_within_reach_and_just_beyond(book: RuleBook, rule):
    seen = recognised_in(book, toy.ToyFinder()(toy.board(301)))
    name = seen[0].name
    assert name
    # One part of the kind has become something unknown, another one may be as well.
    first, second, *rest = (one for one in seen if one.name == name)
    strange = replace(second, name=None, chances={None: 1.0})
    half = {name: 0.5, None: 0.5}
    within, beyond = (
        {
            finding.rule: finding
            for finding in findings_of(
                book, [replace(first, name=word, chances=half), strange, *rest]
            )
        }[f"{name}.count" if rule == "count" else rule]
        for word in (name, None)
    )
    assert within.broken
    assert beyond.broken
    assert within.off == pytest.approx(beyond.off)
    assert within.sure == pytest.approx(beyond.sure)
    # The verdict in words is that of the likeliest kinds.
    assert within.found != beyond.found

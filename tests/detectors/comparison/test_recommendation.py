"""The rule by which a detector is recommended, case by case."""

import pytest

from detectors.comparison.recommendation import EQUAL, RULE, Candidate, recommend


def candidate(name: str, auroc: float, share: float, cost: float = 0.1, training: float = 60):
    return Candidate(name, auroc, (auroc - 0.05, min(auroc + 0.05, 1.0)), share, cost, training)


def test_the_highest_auroc_wins_although_another_finds_more():
    found = recommend([candidate("a", 0.90, 0.9), candidate("b", 0.95, 0.2)])
    assert (found.name, found.decided_by, found.equal) == ("b", "auroc", ())


def test_of_equal_ones_the_one_that_finds_most_wins():
    found = recommend([candidate("a", 0.950, 0.4), candidate("b", 0.945, 0.6)])
    assert (found.name, found.decided_by, found.equal) == ("b", "share", ("a",))


def test_of_equal_ones_that_find_as_much_the_fastest_wins():
    found = recommend([candidate("a", 1.0, 1.0, 0.3), candidate("b", 0.999, 1.0, 0.02)])
    assert (found.name, found.decided_by) == ("b", "cost")
    same = recommend([candidate("a", 1.0, 1.0, training=9), candidate("b", 1.0, 1.0, training=5)])
    assert same.name == "b"


def test_equality_reaches_from_the_best_and_is_no_chain():
    found = recommend(
        [
            candidate("a", 0.95, 0.1),
            candidate("b", 0.95 - 0.8 * EQUAL, 0.2),
            candidate("c", 0.95 - 1.6 * EQUAL, 0.9),
        ]
    )
    assert found.name == "b"
    assert found.equal == ("a",)


def test_the_order_is_uncertain_where_an_interval_reaches_the_winner():
    found = recommend(
        [candidate("far", 0.6, 0.1), candidate("a", 0.9, 0.5), candidate("near", 0.86, 0.5)]
    )
    assert (found.name, found.uncertain) == ("a", ("near",))


def test_one_alone_wins_and_none_is_an_error():
    assert recommend([candidate("a", 0.5, 0.0)]).decided_by == "only"
    with pytest.raises(ValueError, match="no detector"):
        recommend([])


def test_the_rule_says_what_the_code_does():
    assert str(EQUAL) in RULE

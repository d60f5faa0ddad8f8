"""Agreement of two reviewers, against the formula worked out by hand."""

import pytest

from pipeline.review.agreement import Agreement, agreements
from pipeline.review.decision import Decision
from pipeline.review.state import ReviewState

LETTERS = {"k": "keep", "r": "reject", "u": "unsure"}


def reviewed(**by: str) -> ReviewState:
    """One letter per sample and reviewer; a dot stands for a sample that was not reviewed."""
    return ReviewState(
        Decision(f"a@{n}.0", LETTERS[letter], "", "", name, f"2026-01-31T12:00:0{n}+00:00")
        for name, letters in by.items()
        for n, letter in enumerate(letters)
        if letter != "."
    )


def test_kappa_is_cohens():
    (found,) = agreements(reviewed(anna="kkkkrruu.", berta="kkkrrrku.k"[:9]))
    # 6 of 8 the same; by chance (4·4 + 2·3 + 2·1) / 64.
    chance = (4 * 4 + 2 * 3 + 2 * 1) / 64
    assert (found.one, found.other, found.samples, found.share) == ("anna", "berta", 8, 6 / 8)
    assert found.kappa == pytest.approx((6 / 8 - chance) / (1 - chance))


def test_every_pair_with_samples_in_common_is_compared():
    found = agreements(reviewed(anna="kr..", berta="kr.k", carl="..k."))
    assert found == (Agreement("anna", "berta", 2, 1.0, 1.0),)
    assert agreements(reviewed(anna="k", berta="k")) == (Agreement("anna", "berta", 1, 1.0, None),)
    assert agreements(reviewed(anna="kkr")) == ()

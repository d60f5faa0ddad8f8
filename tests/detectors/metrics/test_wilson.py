"""Wilson's interval against SciPy's, and against the equation that defines it."""

import math

import pytest
from scipy.stats import binomtest

from detectors.metrics.wilson import Z, wilson


@pytest.mark.parametrize(("found", "of"), [(0, 1), (1, 1), (0, 7), (3, 7), (7, 7), (19, 200)])
def test_wilson_is_scipys(found, of):
    expected = binomtest(found, of).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(found, of) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_ends_of_wilsons_interval_are_z_deviations_from_the_share():
    found, of = 3, 11
    for end in wilson(found, of):
        deviation = math.sqrt(end * (1 - end) / of)
        assert abs(found / of - end) == pytest.approx(Z * deviation)


def test_nothing_found_and_nothing_missed_have_exact_ends():
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)

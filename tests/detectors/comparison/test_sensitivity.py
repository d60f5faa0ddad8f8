"""The sensitivity matrix against numbers by hand, and what its thresholds promise."""

import numpy as np
import pytest
from small_comparisons import SAMPLES, held_out

from detectors.comparison.held_out import HeldOutScores
from detectors.comparison.sensitivity import (
    Share,
    rows_of,
    rule_words,
    sensitivity,
    smallest_rate,
)


def test_rows_are_kinds_then_rules_then_controls():
    rows = rows_of(held_out())
    assert [(row.group, row.words, row.samples) for row in rows] == [
        ("kind", "an object is missing", (0, 1)),
        ("kind", "an object is there twice", (2, 3, 4)),
        ("rule", "too few: bolt", (0, 1)),
        ("rule", "too many: bolt", (2, 3)),
        ("rule", "label broken", (2,)),
        ("control", "an object is removed and put back", (5,)),
        ("control", "bare background is inpainted again", (6,)),
    ]
    assert len({row.key for row in rows}) == len(rows)


def test_cells_count_what_reaches_the_threshold():
    held = held_out()
    rows = rows_of(held)
    found = sensitivity(held, rows, 0.05)
    # The 19 normals score 0.00 to 0.18; the threshold is the next float32 above all of them.
    assert found.threshold == pytest.approx(0.18)
    assert found.threshold > 0.18
    by_words = {row.words: found.cells[row.key] for row in rows}
    assert by_words["an object is missing"] == Share(1, 2)
    assert by_words["an object is there twice"] == Share(2, 3)
    assert by_words["too many: bolt"] == Share(2, 2)
    assert by_words["an object is removed and put back"] == Share(0, 1)
    assert by_words["bare background is inpainted again"] == Share(1, 1)
    assert found.share == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_auroc_is_the_mean_over_kinds():
    held = held_out()
    found = sensitivity(held, rows_of(held), 0.05)
    # 0.1 is above ten of 19 normals and equal to one; 0.05 above five and equal to one.
    missing = (1 + 10.5 / 19) / 2
    extra = (1 + 1 + 5.5 / 19) / 3
    assert found.auroc_by_kind == pytest.approx({"missing": missing, "extra": extra})
    assert found.auroc == pytest.approx((missing + extra) / 2)
    low, high = found.auroc_interval
    assert low < found.auroc < high


def test_a_score_that_equals_the_threshold_is_found():
    held = held_out(samples=[("missing", (), 0.0)])
    limit = sensitivity(held, rows_of(held), 0.05).threshold
    at, below = (
        held_out(samples=[("missing", (), score)])
        for score in (limit, float(np.nextafter(np.float32(limit), np.float32(0))))
    )
    assert sensitivity(at, rows_of(at), 0.05).share == 1
    assert sensitivity(below, rows_of(below), 0.05).share == 0


def test_no_threshold_promises_less_than_its_normals_can():
    assert smallest_rate(2) == pytest.approx(1 / 3)
    for normals in (2, 5, 19):
        held = held_out(normals=np.arange(normals))
        found = sensitivity(held, rows_of(held), 0.01)
        assert found.alarms == Share(0, normals)
        assert found.promised == pytest.approx(smallest_rate(normals))
        low, high = found.promised_interval
        assert low < found.promised < high


@pytest.mark.parametrize(("normals", "allowed"), [(5, 0.05), (9, 0.3), (40, 0.1)])
def test_fresh_normals_keep_the_promise_on_average(normals, allowed):
    rng = np.random.default_rng(normals)
    promised, alarms = [], []
    for _ in range(300):
        held = held_out(normals=rng.standard_t(3, normals), samples=SAMPLES[:1])
        found = sensitivity(held, rows_of(held), allowed)
        promised.append(found.promised)
        alarms.append(np.mean(rng.standard_t(3, 300) >= found.threshold))
    # The promise is kept with equality: neither broken nor wider than needed.
    assert np.mean(alarms) == pytest.approx(promised[0], abs=0.02)
    assert promised[0] <= max(allowed, smallest_rate(normals))
    # And single thresholds lie in their interval as often as it says.
    low, high = found.promised_interval
    assert np.mean([low <= rate <= high for rate in alarms]) >= 0.9


@pytest.mark.parametrize(
    ("rule", "kind", "words"),
    [
        ("long_screw.count", "extra", "too many: long screw"),
        ("long_screw.count", "missing", "too few: long screw"),
        ("long_screw.count", "wrong_type", "wrong number of long screw"),
        ("nut.place", "misplaced", "nut in a wrong place"),
        ("nut.turn", "wrong_orientation", "nut turned the wrong way"),
        ("label_matches_liquid", "wrong_type", "label matches liquid broken"),
        ("order", "swapped", "parts in a wrong order"),
        ("unknown", "wrong_type", "a part that no rule knows"),
    ],
)
def test_rules_in_words(rule, kind, words):
    assert rule_words(rule, kind) == words


def test_columns_of_different_lengths_are_no_table():
    good = held_out()
    with pytest.raises(ValueError, match="different lengths"):
        HeldOutScores(
            good.normal_ids, good.normal_scores_N, good.sample_ids[1:], good.sample_scores_M,
            good.labels_M, good.kinds, good.rules,
        )  # fmt: skip

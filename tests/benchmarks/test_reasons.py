"""Which drafted part is which true kind, from the counts that both report."""

from benchmarks.real_detectors.reasons import named_kinds

USUAL = {"nut": 3, "bolt": 2}


def test_a_drafted_part_is_the_kind_whose_wrong_counts_it_reports():
    pairs = [
        ({"part_1": 2}, {"nut": 2, "bolt": 2}),
        ({"part_2": 3}, {"nut": 3, "bolt": 3}),
        # One for another: both counts are wrong.
        ({"part_1": 2, "part_2": 3}, {"nut": 2, "bolt": 3}),
        # A wrong report does not outvote the right ones.
        ({"part_2": 1}, {"nut": 3, "bolt": 2}),
    ]
    assert named_kinds(pairs, USUAL) == {"part_1": "nut", "part_2": "bolt"}


def test_a_part_without_a_right_report_has_no_kind():
    assert named_kinds([({"part_1": 5}, {"nut": 3, "bolt": 1})], USUAL) == {}

"""The order of a review: near the limits first, then every kind; margins against the gate's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_reviews import ids, scored_version

from pipeline.gate.checks import findings, stored_limits
from pipeline.gate.limits import Limits
from pipeline.gate.settings import GateSettings
from pipeline.kinds import KINDS
from pipeline.records import Edit
from pipeline.review.order import NEAR_ALIKE, NEAR_MOST, margins, teaching_order
from pipeline.review.scores import check_scores

SCORES = (
    "change_area", "foreground_share", "border", "changed_fraction", "delta_e", "object_delta_e",
    "seam_ratio", "outline_ratio", "noise_ratio", "clipped", "duplicate_iou", "patch_distance",
    "patch_before", "painted", "image_distance",
)  # fmt: skip
LIMITS = Limits(max_outline_ratio=1.5, max_patch_distance=0.5)
single = [kind for kind in KINDS if kind != "combined"]
measured = st.tuples(
    st.sampled_from(single), st.dictionaries(st.sampled_from(SCORES), st.floats(0, 3))
)


def columns_of(rows, settings, limits):
    names = {name for row in rows for name in row["scores"]}
    scores = {
        name: np.array([row["scores"].get(name, np.nan) for row in rows], float) for name in names
    }
    return check_scores([row["kind"] for row in rows], scores, settings, limits)


@given(st.lists(measured, min_size=1, max_size=6), st.booleans())
def test_room_is_what_the_gate_leaves_each_sample(rows, strict):
    settings = GateSettings(max_outline_ratio=1.2 if strict else None)
    table = [{"kind": kind, "scores": scores} for kind, scores in rows]
    columns = {c.check: c for c in columns_of(table, settings, LIMITS)}
    for n, (kind, scores) in enumerate(rows):
        for finding in findings(Edit(kind, (), {}, 0), scores, settings, LIMITS):
            if finding.check.reason == "empty":
                continue
            if not finding.passed or finding.limit is None:
                # An accepted sample beyond a limit was exempt from it.
                assert finding.check not in columns or not columns[finding.check].room_N[n] >= 0
                continue
            room = abs(finding.limit - finding.score)
            assert columns[finding.check].room_N[n] == pytest.approx(room)


def test_a_combined_sample_counts_by_both_edits():
    scores = {"seam_ratio": 1.0, "seam_ratio_2": 1.9, "delta_e": 9.0, "delta_e_2": 30.0}
    table = [{"kind": "combined", "scores": scores}]
    columns = columns_of(table, GateSettings(), Limits())
    seams = [c.room_N[0] for c in columns if c.check.reason == "seam"]
    assert seams == pytest.approx([1.0, 0.1])


def test_distances_compare_over_scores_of_different_units():
    table = [
        {"kind": "extra", "scores": {"delta_e": 4.1, "seam_ratio": 1.0, "border": 0.0}},
        {"kind": "extra", "scores": {"delta_e": 44.0, "seam_ratio": 1.98, "border": 0.0}},
        {"kind": "extra", "scores": {"delta_e": 84.0, "seam_ratio": 1.0, "border": 0.0}},
    ]
    columns = columns_of(table, GateSettings(), Limits())
    nearest_N, checks_N = margins(columns, 3)
    assert [columns[n].check.reason for n in checks_N] == ["faint", "seam", "seam"]
    spread = np.std([1.0, 1.98, 1.0])
    assert nearest_N == pytest.approx([0.1 / np.std([4.1, 44, 84]), 0.02 / spread, 1.0 / spread])


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """120 samples: of three kinds, some near one of two limits."""
    rng = np.random.default_rng(0)
    kinds = ("missing", "extra", "control_noop")
    turns = [
        [
            (kind, {
                "delta_e": 2.0 if kind.startswith("control") else float(rng.uniform(4, 60)),
                "seam_ratio": float(rng.uniform(0.5, 2.0)),
            })
            for kind in (kinds if number % 2 else kinds[:1])
        ]
        for number in range(60)
    ]  # fmt: skip
    return scored_version(tmp_path_factory.mktemp("order"), turns, shard_images=64)


def test_near_a_limit_first_and_then_the_kinds_take_turns(version):
    order = teaching_order(version)
    assert sorted(order) == sorted(ids(version))
    assert teaching_order(version) == order
    rows = {r["id"]: r for *_, r in version.samples()}
    table = [rows[sample] for sample in order]
    columns = columns_of(table, *stored_limits(version.index))
    nearest_N, checks_N = margins(columns, len(order))
    far = int(np.argmax(nearest_N >= 0.5))
    assert 10 < far <= NEAR_MOST
    groups = {}
    for n in range(far):
        groups.setdefault((table[n]["kind"], int(checks_N[n])), []).append(nearest_N[n])
    # Several kinds and limits, each with its nearest first, and none too often.
    assert len(groups) >= 4
    assert all(some == sorted(some) and len(some) <= NEAR_ALIKE for some in groups.values())
    kinds = [row["kind"] for row in table[far:]]
    fewest = min(kinds.count(kind) for kind in set(kinds))
    for turn in range(fewest):
        assert len(set(kinds[3 * turn : 3 * turn + 3])) == 3


def test_without_known_limits_the_kinds_take_turns(tmp_path):
    version = scored_version(tmp_path, [[("missing", {}), ("extra", {})]] * 2)
    version.index["settings"]["gate"] = {"of another release": 1}
    kinds = [
        {r["id"]: r for *_, r in version.samples()}[s]["kind"] for s in teaching_order(version)
    ]
    assert kinds == ["extra", "missing", "extra", "missing"]

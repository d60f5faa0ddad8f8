"""Limits from a review, against a search over every possible limit and against the gate itself."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from small_reviews import decide, ids, scored_version

from pipeline.errors import UserError
from pipeline.gate.checks import CHECKS, findings
from pipeline.gate.limits import Limits
from pipeline.gate.settings import GateSettings
from pipeline.records import Edit
from pipeline.review.about import reviews_of
from pipeline.review.suggest import FEWEST, _cuts, _limit_between, suggest

BY_LIMIT = {check.limit: check for check in CHECKS}


def turns(count: int, seed: int = 0) -> list[list[tuple[str, dict[str, float]]]]:
    """Images with one sample each; the scores know nothing of one another."""
    rng = np.random.default_rng(seed)
    return [
        [(("extra", "wrong_size", "missing")[n % 3], {
            "seam_ratio": round(float(rng.uniform(0.2, 1.9)), 5),
            "delta_e": round(float(rng.uniform(5, 60)), 5),
            "noise_ratio": round(float(rng.uniform(0.5, 2.0)), 5),
            "changed_fraction": round(float(rng.uniform(0.35, 1.0)), 5),
        })]
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return scored_version(tmp_path_factory.mktemp("suggest"), turns(90), shard_images=64)


def scores_of(version):
    return {record["id"]: record["scores"] for *_, record in version.samples()}


def test_the_limit_that_a_person_had_in_mind_is_found(version, tmp_path):
    scores = scores_of(version)
    # Seams from 1.5 on; one slip each way.
    verdicts = {s: "reject" if found["seam_ratio"] > 1.5 else "keep" for s, found in scores.items()}
    slips = [next(s for s in verdicts if verdicts[s] == side) for side in ("keep", "reject")]
    verdicts |= {slips[0]: "reject", slips[1]: "keep"}
    # Doubts say nothing about a limit.
    verdicts |= dict.fromkeys(list(verdicts)[-5:], "unsure")
    file = decide(version, verdicts, path=tmp_path / "r.jsonl")
    found = suggest(version, reviews_of(version, file))
    best = found.rows[0]
    assert (best.check.limit, best.now, best.origin) == ("max_seam_ratio", 2.0, "default")
    assert (found.rejected, found.kept) == tuple(
        list(verdicts.values()).count(verdict) for verdict in ("reject", "keep")
    )
    # The numbers are those of the gate with the limit in the manifest.
    gate = yaml.safe_load(found.lines)["categories"]["tray"]["gate"]
    assert gate == {"max_seam_ratio": best.value}
    assert best.value == pytest.approx(1.5, abs=0.06)
    caught = {s for s in verdicts if not passes(version, s, gate)}
    hits = sum(verdicts[s] == "reject" for s in caught)
    wrongly = sum(verdicts[s] == "keep" for s in caught)
    assert (best.caught, best.wrongly) == (hits, wrongly)
    assert found.precision == best.precision == hits / (hits + wrongly)
    assert found.recall == best.recall == hits / found.rejected
    assert best.chance < 1e-6
    assert [row.pasted for row in found.rows] == [True] + [False] * (len(found.rows) - 1)


def passes(version, sample, gate):
    for *_, record in version.samples():
        if record["id"] == sample:
            edit = Edit.from_json(record["edit"])
            limits = GateSettings(**gate)
            return all(f.passed for f in findings(edit, record["scores"], limits, Limits()))
    raise AssertionError(sample)


def test_two_defects_take_two_limits(version, tmp_path):
    scores = scores_of(version)
    file = decide(
        version,
        {
            s: "reject" if found["seam_ratio"] > 1.6 or found["delta_e"] < 14 else "keep"
            for s, found in scores.items()
        },
        path=tmp_path / "r.jsonl",
    )
    found = suggest(version, reviews_of(version, file))
    gate = yaml.safe_load(found.lines)["categories"]["tray"]["gate"]
    assert set(gate) == {"max_seam_ratio", "min_delta_e"}
    assert (found.precision, found.recall) == (1.0, 1.0)
    GateSettings.model_validate(gate)


@pytest.mark.parametrize("trials", [6, pytest.param(120, marks=pytest.mark.slow)])
def test_verdicts_at_random_seldom_lead_to_a_limit(version, tmp_path, trials):
    wrong = 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        rate = (0.1, 0.2, 0.3, 0.5)[seed % 4]
        chosen = rng.permutation(ids(version)).tolist()
        count = round(rate * len(chosen))
        verdicts = {s: "reject" if n < count else "keep" for n, s in enumerate(chosen)}
        file = decide(version, verdicts, path=tmp_path / f"{seed}.jsonl")
        found = suggest(version, reviews_of(version, file))
        assert found.rows
        assert (found.precision is None) == (found.recall is None) == (not found.lines)
        wrong += bool(found.lines)
    assert wrong <= 1 + 0.05 * trials


def test_an_object_scaled_at_its_place_is_held_to_half_of_the_limit(tmp_path):
    # `unchanged` halves its limit for wrong_size; the suggested limit is the one of the manifest.
    kinds = [("wrong_size", 0.20 + n / 100) for n in range(12)]
    kinds += [("missing", 0.45 + n / 100) for n in range(12)]
    made = [[(kind, {"changed_fraction": round(share, 2)})] for kind, share in kinds]
    version = scored_version(tmp_path / "store", made)
    file = decide(
        version,
        {
            sample: "reject" if (2 * share if kind == "wrong_size" else share) < 0.5 else "keep"
            for sample, (kind, share) in zip(ids(version), kinds, strict=True)
        },
    )
    found = suggest(version, reviews_of(version, file))
    (gate,) = [yaml.safe_load(found.lines)["categories"]["tray"]["gate"]]
    wrong = {
        sample
        for sample, (kind, share) in zip(ids(version), kinds, strict=True)
        if passes(version, sample, gate) == ((2 * share if kind == "wrong_size" else share) < 0.5)
    }
    assert wrong == set()
    assert (found.precision, found.recall) == (1.0, 1.0)


def test_too_few_decisions_are_a_user_error(version, tmp_path):
    few = dict.fromkeys(ids(version)[: FEWEST - 1], "reject") | dict.fromkeys(
        ids(version)[FEWEST:20], "keep"
    )
    file = decide(version, few, path=tmp_path / "r.jsonl")
    with pytest.raises(UserError, match=f"at least {FEWEST} rejected and {FEWEST} kept"):
        suggest(version, reviews_of(version, file))


numbers = st.lists(
    st.tuples(st.integers(0, 12).map(lambda n: n / 8) | st.just(np.nan), st.booleans()),
    min_size=2, max_size=25,
)  # fmt: skip


@settings(max_examples=200)
@given(numbers)
def test_no_limit_is_better_than_the_first_cut(measured):
    badness_N = np.array([value for value, _ in measured])
    rejected_N = np.array([bad for _, bad in measured])

    def f1(limit):
        caught_N = badness_N > limit
        hits = int((caught_N & rejected_N).sum())
        return 2 * hits / max(1, int(caught_N.sum()) + int(rejected_N.sum()))

    cuts = list(_cuts(badness_N, rejected_N))
    tried = [f1((low + high) / 2) for low, high in cuts]
    assert tried == sorted(tried, reverse=True)
    known = np.unique(badness_N[np.isfinite(badness_N)])
    best = max((f1(value) for value in known), default=0)
    assert (tried[0] if cuts else 0) == best


@given(
    st.sampled_from(sorted(set(BY_LIMIT) & set(GateSettings.model_fields))),
    st.floats(-5, 5), st.floats(0.00001, 2),
)  # fmt: skip
def test_a_limit_lies_between_and_the_settings_accept_it(name, low, gap):
    check = BY_LIMIT[name]
    value = _limit_between(check, low, low + gap)
    if value is None:
        return
    above = check.rejected_when == "above"
    ends = (low, low + gap) if above else (-low - gap, -low)
    assert ends[0] <= value <= ends[1]
    GateSettings.model_validate({name: value})

"""Generating again with reviews: rejected edits are replaced, everything else is what it was."""

import cv2
import pytest
from small_reviews import at, decide, ids

from pipeline.config.manifest import manifest_for_source, override, read_manifest, resolve
from pipeline.dataset.lineage import REVIEWED
from pipeline.dataset.verify import verify
from pipeline.edits.apply import as_planned, edit_key
from pipeline.errors import ManifestError, UserError
from pipeline.generation import plan as planning
from pipeline.generation.pack import pack
from pipeline.generation.plan import load_plan
from pipeline.generation.sampler import generate_batch
from pipeline.records import Edit
from pipeline.review.decision import Decision
from pipeline.review.log import ReviewLog
from scenes.render import render


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Two rendered bags; three anomalies and a control for each, holes filled without a network."""
    root = tmp_path_factory.mktemp("source") / "bags"
    root.mkdir()
    for seed in range(2):
        image_HW3 = render("bag", seed, size=256).image_HW3
        cv2.imwrite(str(root / f"{seed}.png"), image_HW3[..., ::-1])
    manifest = manifest_for_source(
        "folder", root, store=str(tmp_path_factory.mktemp("store")), image_size=128,
        models={"inpaint": {"backend": "telea"}}, gate={"patches": False},
        edits={"per_image": 3, "controls_per_image": 1},
    )  # fmt: skip
    return resolve(manifest, "bags")


def made(settings, reviews=None):
    plan = planning.plan(override(settings, reviews=reviews))
    outcomes = generate_batch(plan, plan.images)
    return plan, pack(plan, []), outcomes


@pytest.fixture(scope="module")
def first(settings):
    return made(settings)


def rows(version):
    return {
        shard.record(j)["id"]: digest
        for shard in version.shards
        for j, digest in enumerate(shard.sample_digests())
    }


def test_what_was_rejected_is_replaced_and_what_was_kept_is_the_same(settings, first, tmp_path):
    plan, before, _ = first
    mine = [s for s in ids(before) if s.startswith(ids(before)[0].partition("@")[0])]
    rejected, kept = mine[:2], mine[2:]
    file = decide(
        before,
        dict.fromkeys(rejected, "reject") | dict.fromkeys(kept, "keep"),
        path=tmp_path / "r.jsonl",
    )
    again, after, outcomes = made(settings, file)
    # The other image is not touched: its entry in the cache is found.
    assert [outcome.cached for outcome in outcomes] == [False, True]
    assert [one == other for one, other in zip(plan.images, again.images, strict=True)] == [
        False, True,
    ]  # fmt: skip
    assert plan.digest != again.digest
    assert load_plan(again.save()) == again
    old, new = rows(before), rows(after)
    assert verify(after.dir).ok
    assert {s: new.get(s) for s in old if s not in rejected} == {
        s: d for s, d in old.items() if s not in rejected
    }
    assert not set(rejected) & set(new)
    # Every place is filled again, by an edit of another geometry.
    assert sorted(s.partition(".")[0] for s in new) == sorted(s.partition(".")[0] for s in old)
    by_id = {f"{r['image']}@{r['number']}.{r['attempt']}": r for r in after.attempts()}
    for sample in rejected:
        assert by_id[sample]["reason"] == REVIEWED
        then = {f"{r['image']}@{r['number']}.{r['attempt']}": r for r in before.attempts()}[sample]
        assert by_id[sample]["scores"] == then["scores"]
    assert all(
        row["reason"] for row in after.attempts()
        if row["seed"] in {by_id[sample]["seed"] for sample in rejected}
    )  # fmt: skip
    # In order, as in any version.
    order = [(r["image"], r["number"], r["attempt"]) for r in after.attempts()]
    assert order == sorted(order)
    facts = after.index["reviews"]
    assert (facts["versions"], len(facts["sha256"])) == ([before.name], 64)
    assert sum(map(len, facts["refused"].values())) == 2
    assert "2 edits that reviewers of" in (after.dir / "README.md").read_text()
    assert REVIEWED in (after.dir / "README.md").read_text()


def test_further_rounds_keep_what_earlier_ones_rejected(settings, first, tmp_path):
    _, before, _ = first
    found = ids(before)
    one = decide(before, {found[0]: "reject"}, path=tmp_path / "one.jsonl")
    _, second, _ = made(settings, one)
    replaced = next(s for s in ids(second) if s not in found)
    two = decide(second, {replaced: "reject"}, path=tmp_path / "two.jsonl")
    # The second file alone: what the second version refused is in its index.
    _, third, _ = made(settings, two)
    assert not {found[0], replaced} & set(ids(third))
    assert sum(map(len, third.index["reviews"]["refused"].values())) == 2
    assert len(ids(third)) == len(found)
    # A decision that rejects nothing more leads to the same version.
    decide(second, {ids(second)[1]: "keep"}, path=two)
    plan, same, _ = made(settings, two)
    assert same.dir == third.dir
    assert plan.digest == third.index["plan_digest"]


def test_an_edit_is_known_before_and_after_it_is_applied(first):
    _, before, _ = first
    keys = set()
    for *_, record in before.samples():
        applied = Edit.from_json(record["edit"])
        assert edit_key(applied) == edit_key(as_planned(applied))
        keys.add(edit_key(applied))
    assert len(keys) == len(ids(before))


def test_without_reviews_nothing_is_recorded(first):
    plan, before, _ = first
    assert plan.reviews == {}
    assert "reviews" not in before.index
    assert REVIEWED not in {row["reason"] for row in before.attempts()}


def test_the_manifest_names_the_file(settings, first, tmp_path):
    _, before, _ = first
    decide(before, {ids(before)[0]: "reject"}, path=tmp_path / "r.jsonl")
    text = f"store: {settings.store}\ncategories: {{bags: {{source: folder, path: {settings.root}"
    path = tmp_path / "m.yaml"
    path.write_text(text + ", reviews: r.jsonl}}\n")
    assert resolve(read_manifest(path), "bags").reviews == tmp_path / "r.jsonl"
    path.write_text(text + ", reviews: no.jsonl}}\n")
    with pytest.raises(
        ManifestError, match=r"bags.reviews: there is no file of decisions no\.jsonl"
    ):
        read_manifest(path)


def test_decisions_about_a_version_that_is_gone_are_a_user_error(settings, tmp_path):
    log = ReviewLog(tmp_path / "r.jsonl")
    gone = "0009-0123456789ab"
    log.append([Decision("a.png@0.0", "reject", "", "", "Anna", at(0), gone)])
    with pytest.raises(UserError, match=f"decisions about version {gone}, which is not in"):
        planning.plan(override(settings, reviews=log.path))

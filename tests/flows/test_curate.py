"""`curate`: what people rejected is gone, all else is what it was, and other tools read it."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_results import header, image_result, small_version
from small_reviews import at, decide, ids, scored_version

from pipeline.dataset.hdf5_columns import PROFILES
from pipeline.dataset.lineage import REVIEWED
from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.verify import verify
from pipeline.dataset.version import Version, open_version, versions
from pipeline.records import Verdict
from pipeline.reports.diff.compare import diff
from pipeline.review.decision import Decision
from pipeline.review.log import review_log
from pipeline.utils.files import slug


def rows(shards: list[ShardReader]) -> dict[str, str]:
    """The digest of every sample: record, pixels and masks."""
    return {
        shard.record(j)["id"]: digest
        for shard in shards
        for j, digest in enumerate(shard.sample_digests())
    }


def published(store: Path, **options) -> Version:
    """Six images of 64 px with gate rejects and a real test split; one sample broke a rule."""
    results = [image_result(number, (64, 64)) for number in range(6)]
    last = results[5].attempts[0]
    said = ("cap.count: expected 1, found 0",)
    ruled = Verdict(True, "", {"rules_broken": 1.0}, "cap.count", ("cap.count",), said)
    object.__setattr__(last, "verdict", ruled)
    head = header(original_size=(640, 480), weights={"inpaint/telea": "ab"})
    return small_version(
        store, results=results, head=head, size=(64, 64), shard_images=4, **options
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_kept_samples_are_what_they_were(anomalysmith, tmp_path, profile):
    before = published(tmp_path / "store", profile=profile, gallery=profile == "default")
    samples = ids(before)
    left_out, doubtful = samples[1:4], samples[4:6]
    decide(before, dict.fromkeys(left_out, "reject") | {samples[0]: "keep", samples[7]: "keep"})
    decide(before, {doubtful[0]: "unsure"} | {samples[7]: "reject"}, "Berta")
    run = anomalysmith("curate", before.dir, "--json")
    assert run.code == 0
    after = open_version(Path(run.json["version_dir"]))
    assert verify(after.dir).ok
    assert run.json["left_out"] == left_out
    # Records, pixels and masks of every kept sample; images, rejects and real test as well.
    kept = rows(before.shards)
    for sample in left_out:
        del kept[sample]
    assert rows(after.shards) == kept
    assert ids(after) == [sample for sample in samples if sample not in left_out]
    assert list(after.test_shards[0].image_digests()) == list(before.test_shards[0].image_digests())
    for (one, first), (other, second) in zip(before.images(), after.images(), strict=True):
        np.testing.assert_array_equal(one, other)
        fewer = sum(sample.startswith(f"{first['name']}@") for sample in left_out)
        assert second == first | {"accepted": first["accepted"] - fewer}
    # What was left out is kept as a reject, with its pixels.
    old, new = rows([before.rejects]), rows([after.rejects])
    assert {sample: new[sample] for sample in old} == old
    assert sorted(new.keys() - old.keys()) == sorted(left_out)
    records = [after.rejects.record(j) for j in range(after.rejects.samples)]
    assert {r["id"] for r in records if r["reason"] == REVIEWED} == set(left_out)
    # The index names where it comes from.
    index = after.index
    assert (index["parent"], index["profile"]) == (before.name, profile)
    facts = index["reviews"]
    assert facts["curated"] == before.name
    assert facts["sha256"] == run.json["reviews"]["sha256"]
    assert [facts[name] for name in ("keep", "reject", "unsure", "disputed")] == [1, 3, 1, 1]
    assert (facts["reviewed"], facts["reviewers"]) == (6, 2)
    assert sum(map(len, facts["refused"].values())) == 3
    same = ("settings", "weights", "licence", "failures", "software", "original_size", "category")
    assert [index[name] for name in same] == [before.index[name] for name in same]
    assert (after.dir / "gallery").exists() == (before.dir / "gallery").exists()
    assert f"leaving out {len(left_out)} samples" in (after.dir / "README.md").read_text()
    found = diff(before, after)
    assert found.counts()["removed"] == len(left_out) == len(found.gate)
    assert found.counts()["pixels"] == found.counts()["metadata"] == 0


def test_the_same_decisions_lead_to_the_same_version(anomalysmith, tmp_path):
    before = published(tmp_path / "store")
    samples = ids(before)
    decide(before, {samples[0]: "reject"})
    first = anomalysmith("curate", before.dir, "--json").json
    # Another decision that leaves out nothing more.
    decide(before, {samples[1]: "keep"})
    again = anomalysmith("curate", before.dir, "--json").json
    assert first["version_dir"] == again["version_dir"]
    assert first["reviews"] != again["reviews"]
    assert len(versions(before.dir.parent.parent, "tray")) == 2
    # A reject that was taken back leaves the version as it is.
    log = review_log(before.dir)
    made = log.read()[0]
    log.append([Decision(samples[0], None, "", "", "Anna", at(99), withdraws=made.at)])
    run = anomalysmith("curate", before.dir)
    assert run.code == 0
    assert "no sample is rejected, so the version stays as it is" in run.err


def test_decisions_hold_in_the_version_that_was_curated_from_theirs(anomalysmith, tmp_path):
    before = published(tmp_path / "store")
    samples = ids(before)
    file = decide(before, {samples[0]: "reject", samples[1]: "unsure"})
    first = open_version(Path(anomalysmith("curate", before.dir, "--json").json["version_dir"]))
    # The rejected one is not in it, the doubtful one is the same there.
    run = anomalysmith("curate", first.dir, "--reviews", file, "--json")
    assert (run.json["elsewhere"], run.json["reviews"]["unsure"]) == (1, 1)
    assert "1 decisions are about samples that this version does not hold" in run.err
    # A second round on the curated version keeps what the first one refused.
    decide(first, {samples[2]: "reject"})
    second = open_version(Path(anomalysmith("curate", first.dir, "--json").json["version_dir"]))
    refused = [sum(map(len, v.index["reviews"]["refused"].values())) for v in (first, second)]
    assert refused == [1, 2]
    assert second.index["parent"] == first.name
    # A sample of that name that looks different is another sample.
    results = [image_result(number + 1, (64, 64), name=f"train/good/{number:03d}.png")
               for number in range(6)]  # fmt: skip
    other = small_version(before.dir.parent.parent, results=results, size=(64, 64))
    assert samples[0] in ids(other)
    error = anomalysmith("curate", other.dir, "--reviews", file)
    assert error.code == 2
    assert "none about a sample of" in error.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "holds no decision"),
        ('{"sample": "no@0.0", "verdict": "keep"}', "holds no decision"),
        ("VERSION/../..", "expected the name of a version"),
        ("0007-0123456789ab", "decisions about version 0007-0123456789ab, which is not in"),
    ],
)
def test_decisions_about_something_else_are_a_user_error(anomalysmith, tmp_path, line, said):
    before = published(tmp_path / "store")
    file = tmp_path / "made.jsonl"
    if line and not line.startswith("{"):
        one = Decision(ids(before)[0], "reject", "", "", "Anna", at(0), line)
        line = one.to_line().decode()
    file.write_text(line)
    run = anomalysmith("curate", before.dir, "--reviews", file)
    assert run.code == 2
    assert said in run.err
    assert run.err.splitlines()[-1].startswith("anomalysmith: ")
    assert len(list(before.dir.parent.glob("0*"))) == 1


def test_without_decisions_and_outside_a_store_it_says_what_to_do(anomalysmith, tmp_path):
    before = published(tmp_path / "store")
    run = anomalysmith("curate", before.dir)
    assert (run.code, "review the version first" in run.err) == (2, True)
    copy = tmp_path / "copies" / before.name
    copy.parent.mkdir()
    before.dir.rename(copy)
    decide(open_version(copy), {ids(open_version(copy))[0]: "reject"})
    run = anomalysmith("curate", copy)
    assert run.code == 2
    assert "is not in a store" in run.err


def test_a_curated_version_is_exported_and_trained_on(anomalysmith, tmp_path):
    before = published(tmp_path / "store")
    samples = ids(before)
    decide(before, {samples[0]: "reject", samples[1]: "unsure"})
    folder = anomalysmith("curate", before.dir, "--json").json["version_dir"]
    out = tmp_path / "export"
    run = anomalysmith("export", folder, "--to", "mvtec", "--samples", "all", "--out", out)
    assert run.code == 0
    exported = {path.stem for path in out.rglob("*.png")}
    assert [slug(sample) in exported for sample in samples] == [False] + [True] * (len(samples) - 1)
    words = ("train", "--detector", "nearest", "--profile", "tiny", "--size", 64)
    trained = anomalysmith(
        *words, "--version", folder, "--out", tmp_path / "run", "--device", "cpu", "--json"
    )
    assert trained.code == 0
    card = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert card["version"]["name"] == Path(folder).name


def test_a_record_that_would_change_is_refused(anomalysmith, tmp_path, monkeypatch):
    before = published(tmp_path / "store")
    decide(before, {ids(before)[0]: "reject"})
    # As in a version of a release that recorded something else.
    record = ShardReader.record
    monkeypatch.setattr(ShardReader, "record", lambda shard, j: record(shard, j) | {"more": 1})
    run = anomalysmith("curate", before.dir)
    assert run.code == 2
    assert "made by another release, whose record of train/good/000.png@0.0" in run.err
    assert len(versions(before.dir.parent.parent, "tray")) == 1


def test_limits_are_suggested_for_what_was_rejected(anomalysmith, tmp_path):
    seams = [[("extra", {"seam_ratio": round(0.5 + n / 20, 2)})] for n in range(24)]
    version = scored_version(tmp_path / "store", seams)
    decide(version, {s: "reject" if n > 15 else "keep" for n, s in enumerate(ids(version))})
    words = ("gate", "--suggest", "--version", version.dir)
    run = anomalysmith(*words)
    assert run.code == 0
    lines = "categories:\n  tray:\n    gate:\n      max_seam_ratio: 1.27\n"
    assert run.out.endswith(lines)
    assert "reject 100% of what was rejected; 100% of what they reject was rejected" in run.out
    found = anomalysmith(*words, "--json").json
    assert found["manifest"] == lines
    assert (found["rejected"], found["kept"], found["precision"], found["recall"]) == (8, 16, 1, 1)
    assert found["limits"][0]["suggested"] == 1.27
    # Nothing was applied.
    assert open_version(version.dir).index == version.index


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "either --explain SAMPLE or --suggest"),
        (("--suggest", "--explain", "0"), "either --explain SAMPLE or --suggest"),
        (("--suggest",), "name it by --version"),
        (("--explain", "0", "--reviews", "r.jsonl"), "--reviews goes with --suggest"),
    ],
)
def test_gate_takes_one_question_at_a_time(anomalysmith, words, said):
    run = anomalysmith("gate", *words)
    assert (run.code, run.out) == (2, "")
    assert said in run.err


def test_detectors_are_compared_without_what_was_rejected(anomalysmith, tmp_path):
    version = published(tmp_path / "store")
    held = [sample for sample in ids(version) if "004" in sample]
    file = decide(version, {held[0]: "reject", held[1]: "unsure"})
    run = anomalysmith(
        "compare", version.dir, "--detector", "nearest", "--profile", "tiny", "--size", 64,
        "--device", "cpu", "--no-test", "--reviews", file, "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert run.code == 0
    facts = run.json["version"]["reviews"]
    assert (facts["rejected"], facts["unsure"], facts["reviewed"]) == (1, 1, 2)
    judged = run.json["detectors"][0]["scores"]["samples"]
    assert held[0] not in judged
    assert held[1] in judged
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "samples that people rejected in a review were left out" in page
    card = json.loads(
        (Path(run.json["detectors"][0]["checkpoint"]) / "checkpoint.json").read_text()
    )
    assert card["reviews"]["rejected"] == [held[0]]

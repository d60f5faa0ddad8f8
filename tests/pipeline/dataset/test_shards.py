"""The store: what goes in comes out, identity is content, and no damage goes unseen."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_results import PLAN, TURNS, header, image_result, real_image, small_version

from pipeline.dataset import version_writer as building
from pipeline.dataset.hdf5_columns import PROFILES
from pipeline.dataset.shard_reader import ShardReader, TestShardReader
from pipeline.dataset.shard_writer import write_shard, write_test_shard
from pipeline.dataset.verify import verify
from pipeline.dataset.version import Version, find_by_plan, latest, open_version, versions
from pipeline.errors import IntegrityError, RecordError, UserError
from pipeline.records import Edit, Sample, Verdict, bounding_box
from pipeline.reports.stats import as_text, stats

OTHER_PLAN = "f" * 64
FAST = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return small_version(tmp_path_factory.mktemp("store"), images=7, gallery=True)


@FAST
@given(
    height=st.integers(1, 33),
    width=st.integers(1, 33),
    images=st.integers(1, 3),
    profile=st.sampled_from(PROFILES),
    accepted=st.lists(st.booleans(), max_size=3),
)
def test_a_shard_returns_every_pixel_and_record(tmp_path, height, width, images, profile, accepted):
    turns = [("missing", "" if good else "seam") for good in accepted]
    results = [image_result(n, (height, width), turns) for n in range(images)]
    info = write_shard(tmp_path / "shard.h5", results, "samples", profile, "tray")
    assert (info.images, info.samples) == (images, images * sum(accepted))
    with ShardReader(tmp_path / "shard.h5") as reader:
        j = 0
        for i, result in enumerate(results):
            np.testing.assert_array_equal(reader.original(i), result.pixels_HW3)
            np.testing.assert_array_equal(reader.foreground(i), result.foreground.mask_HW)
            masks, scores = reader.proposals(i)
            np.testing.assert_array_equal(masks, result.proposals.masks_NHW)
            np.testing.assert_array_equal(scores, result.proposals.scores_N)
            for attempt in result.attempts:
                if not attempt.verdict.accepted:
                    continue
                np.testing.assert_array_equal(reader.edited(j), attempt.sample.pixels_HW3)
                np.testing.assert_array_equal(reader.mask(j), attempt.sample.change_HW)
                np.testing.assert_array_equal(reader.object_mask(j), attempt.sample.object_HW)
                assert reader.bbox(j) == bounding_box(attempt.sample.change_HW)
                assert Edit.from_json(reader.record(j)["edit"]) == attempt.sample.edit
                assert (reader.source(j), reader.label(j)) == (i, attempt.sample.label)
                j += 1


@FAST
@given(height=st.integers(1, 20), width=st.integers(1, 20), images=st.integers(1, 4))
def test_a_test_shard_returns_every_mask(tmp_path, height, width, images):
    made = [real_image(n, (height, width)) for n in range(images)]
    write_test_shard(tmp_path / "test.h5", made)
    with TestShardReader(tmp_path / "test.h5") as reader:
        for i, image in enumerate(made):
            masks, values = reader.masks(i)
            np.testing.assert_array_equal(reader.original(i), image.pixels_HW3)
            np.testing.assert_array_equal(masks, image.masks_KHW)
            np.testing.assert_array_equal(values, image.values_K)
            assert reader.record(i)["defect"] == image.defect
            assert reader.label(i) == (image.defect != "good")


def test_the_digest_knows_neither_shard_size_nor_profile_nor_duration(tmp_path):
    slow = [image_result(n) for n in range(6)]
    slow = [replace(r, attempts=tuple(replace(a, seconds=9.0) for a in r.attempts)) for r in slow]
    made = [
        small_version(tmp_path / "a", shard_images=100),
        small_version(tmp_path / "b", shard_images=1, profile="portable", keep_rejects=1),
        small_version(tmp_path / "d", shard_images=2, profile="fast"),
        small_version(tmp_path / "c", results=slow, head=header(plan_digest=OTHER_PLAN)),
    ]
    assert len({version.digest for version in made}) == 1
    assert len({version.name for version in made}) == 1


def test_the_digest_knows_every_pixel_bit_and_score(tmp_path):
    first, *rest = (image_result(n) for n in range(6))
    brighter = first.pixels_HW3.copy()
    brighter[0, 0, 0] ^= 1
    moved = first.proposals.masks_NHW.copy()
    moved[0, 0, 0] ^= True
    attempt = first.attempts[0]
    scored = replace(attempt, verdict=Verdict(True, "", {"delta_e": 1.0}))
    changes = [
        replace(first, pixels_HW3=brighter, attempts=()),
        replace(first, attempts=()),
        replace(first, proposals=replace(first.proposals, masks_NHW=moved)),
        replace(first, split="validation"),
        replace(first, attempts=(scored, *first.attempts[1:])),
        replace(first, attempts=first.attempts[:-1]),
        first,
    ]
    digests = [
        small_version(tmp_path / str(n), results=[change, *rest]).digest
        for n, change in enumerate(changes)
    ]
    relicensed = small_version(tmp_path / "licence", head=header(licence="CC-BY-4.0")).digest
    assert len({*digests, relicensed}) == len(changes) + 1


def test_a_version_is_found_by_its_plan_and_made_once(tmp_path):
    first = small_version(tmp_path)
    again = small_version(tmp_path, head=header(plan_digest=OTHER_PLAN))
    assert again.dir == first.dir
    assert find_by_plan(tmp_path, "tray", PLAN).dir == first.dir
    assert find_by_plan(tmp_path, "tray", OTHER_PLAN).dir == first.dir
    assert find_by_plan(tmp_path, "tray", "0" * 64) is None
    second = small_version(tmp_path, images=3, head=header(plan_digest="a" * 64))
    assert second.index["parent"] == first.name
    assert second.name.startswith("0002-")
    assert latest(tmp_path, "tray").dir == second.dir
    assert [v.name for v in versions(tmp_path, "tray")] == [first.name, second.name]


def test_the_same_content_in_another_profile_is_another_version(tmp_path):
    first = small_version(tmp_path, head=header(plan_digest="a" * 64))
    again = small_version(tmp_path, head=header(plan_digest="b" * 64))
    fast = small_version(tmp_path, head=header(plan_digest="c" * 64), profile="fast")
    assert again.dir == first.dir
    assert fast.dir != first.dir
    assert fast.digest == first.digest
    assert fast.index["profile"] == "fast"


def test_shards_of_the_fast_profile_close_earlier_for_they_hold_edits_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "HELD_BYTES", 10_000)
    shards = {
        profile: len(small_version(tmp_path / profile, profile=profile, shard_images=99).shards)
        for profile in ("default", "fast")
    }
    assert shards["fast"] > shards["default"]


def test_a_cached_run_starts_without_hdf5_and_parquet(version):
    store = version.dir.parent.parent
    code = (
        "import sys; from pathlib import Path; from pipeline.dataset.version import find_by_plan\n"
        f"print(find_by_plan(Path({str(store)!r}), 'tray', {PLAN!r}).digest)\n"
        "print([m for m in ('h5py', 'pyarrow', 'jinja2', 'cv2', 'PIL') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split("\n")[:2] == [version.digest, "[]"]


def test_verify_passes_and_counts_what_it_did(version):
    report = verify(version.dir)
    assert report.ok, report.problems
    assert report.checks["paste-back"] == 7 * 4
    report.raise_if_bad()


def test_verify_finds_every_flipped_byte(tmp_path):
    version = small_version(tmp_path, gallery=True)
    rng = np.random.default_rng(0)
    files = sorted(path for path in version.dir.rglob("*") if path.is_file())
    assert len(files) == 10
    for number in range(40):
        path = files[number % len(files)]
        content = path.read_bytes()
        place, bit = int(rng.integers(len(content))), int(rng.integers(8))
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        report = verify(version.dir)
        assert not report.ok, f"bit {bit} of byte {place} of {path.name}"
        assert any(path.name in problem for problem in report.problems)
        path.write_bytes(content)
    assert verify(version.dir).ok


def reseal(folder: Path) -> None:
    """Make the outer sums fit the files again, as somebody with an intention would."""
    index = json.loads((folder / "index.json").read_text())
    for shard in index["shards"]:
        shard["sha256"] = building.sha256_file(folder / shard["file"])
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "SHA256SUMS").write_bytes(building.sums(folder, (folder / "index.json").read_bytes()))


@pytest.mark.parametrize(
    ("array", "row", "value", "problem"),
    [
        ("originals/pixels", (0, 0, 0, 0), 1, "CRC-32"),
        ("samples/object_mask", (0, 0, 0), 255, "decoded content"),
        ("samples/label", 0, 0, "kind and label"),
        ("samples/bbox", (0, 0), 99, "box"),
        ("samples/kind", 0, 3, "kind and label"),
        ("samples/source", 0, 1, "another image"),
        ("originals/split", 0, 1, "two splits"),
    ],
)
def test_verify_finds_content_that_was_changed_on_purpose(tmp_path, array, row, value, problem):
    folder = small_version(tmp_path).dir
    with h5py.File(folder / "shard-0000.h5", "r+") as file:
        file[array][row] = value
    reseal(folder)
    assert any(problem in found for found in verify(folder).problems)


def test_verify_finds_pixels_outside_the_mask_and_missing_rows(tmp_path):
    folder = small_version(tmp_path).dir
    with h5py.File(folder / "shard-0000.h5", "r+") as file:
        file["samples/mask"][0] = np.zeros_like(file["samples/mask"][0])
    shutil.copy(folder / "records.parquet", folder / "more.parquet")
    reseal(folder)
    found = " ".join(verify(folder).problems)
    assert "outside the change mask" in found
    (folder / "more.parquet").unlink()
    (folder / "test.h5").unlink()
    with pytest.raises(IntegrityError, match=r"test\.h5 is missing"):
        verify(folder).raise_if_bad()


def test_the_table_has_every_attempt(version):
    rows = version.attempts()
    expected = [image_result(n) for n in range(7)]
    assert len(rows) == 7 * len(TURNS)
    for row, (result, attempt) in zip(
        rows, ((r, a) for r in expected for a in r.attempts), strict=True
    ):
        assert (row["image"], row["kind"], row["seed"]) == (result.name, attempt.kind, attempt.seed)
        assert row["scores"] == dict(attempt.verdict.scores)
        assert row["seconds"] == attempt.seconds
        if attempt.sample is None:
            assert (row["shard"], row["row"], row["reason"]) == (None, None, "no_edit")
        else:
            reader = ShardReader(version.dir / row["shard"])
            np.testing.assert_array_equal(reader.edited(row["row"]), attempt.sample.pixels_HW3)
    counts = version.index["counts"]
    assert counts["rejected"] == {"seam": 7, "no_edit": 7}
    assert counts["by_kind"]["extra"] == {"attempted": 14, "accepted": 7}
    assert (counts["accepted"], counts["controls"]) == (21, 7)


def test_kept_rejects_are_spread_over_reasons(tmp_path):
    turns = [("missing", "seam")] * 5 + [("extra", "rare")]
    results = [image_result(n, turns=turns) for n in range(6)]
    rejects = small_version(tmp_path, results=results, keep_rejects=8).rejects
    reasons = [rejects.record(j)["reason"] for j in range(rejects.samples)]
    assert sorted(reasons) == ["rare"] * 4 + ["seam"] * 4
    assert rejects.image_record(0)["attempts"] == 6
    assert small_version(tmp_path / "none", keep_rejects=0).rejects is None


def test_samples_are_filtered_by_split_and_kind(version):
    everything = list(version.samples())
    assert len(everything) == 21
    some = [record for *_, record in version.samples(split="validation", kind="extra")]
    assert [record["source"]["name"] for record in some] == ["train/good/004.png"]
    for original, edited, mask, _ in everything:
        np.testing.assert_array_equal(original[~mask], edited[~mask])
    assert len(list(version.images("train"))) == 6
    assert [len(masks) for _, masks, _, _ in version.test_images()] == [0, 1, 2, 0]
    with pytest.raises(UserError, match="missing"):
        next(version.samples(kind="vanished"))


def test_a_missing_or_damaged_shard_is_named(tmp_path):
    folder = small_version(tmp_path).dir
    path = folder / "shard-0001.h5"
    reader = ShardReader(path)
    deltas = ShardReader(path)
    with h5py.File(path, "r") as file:
        chunk = file["samples/delta"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"shard-0001\.h5"):
        deltas.edited(0)
    deltas.close()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match=r"shard-0001\.h5"):
        ShardReader(path).original(0)
    with pytest.raises(IntegrityError, match=r"shard-0001\.h5"):
        open_version(folder)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"shard-0001\.h5 is missing"):
        reader.original(0)
    with pytest.raises(UserError, match="no dataset version"):
        open_version(tmp_path)


def test_broken_promises_are_refused(tmp_path):
    result = image_result(0)
    attempt = result.attempts[0]
    spill = attempt.sample.pixels_HW3.copy()
    outside = np.argwhere(~attempt.sample.change_HW)[0]
    spill[tuple(outside)] ^= 1
    spilled = Sample(attempt.sample.edit, spill, attempt.sample.change_HW, attempt.sample.object_HW)
    unnumbered = replace(attempt, verdict=Verdict(True, "", {"delta_e": float("nan")}))
    for broken, message in (
        (
            [replace(result, attempts=(replace(attempt, sample=spilled),))],
            "outside the change mask",
        ),
        ([replace(result, attempts=(unnumbered,))], "/scores/delta_e"),
        ([result, image_result(1, (24, 20))], "size"),
        ([result, result], "came twice"),
    ):
        with pytest.raises(RecordError, match=message):
            small_version(tmp_path, results=broken)
    with pytest.raises(UserError, match="no usable normal image"):
        small_version(tmp_path, results=[])
    assert versions(tmp_path, "tray") == []


def test_stats_and_card_say_the_counts(version):
    figures = stats(version)
    assert figures["by_kind"]["extra"]["rate"] == 0.5
    assert (
        figures["bytes"]["total"]
        == sum(p.stat().st_size for p in version.dir.rglob("*.*"))
        + (version.dir / "SHA256SUMS").stat().st_size
    )
    text = as_text(figures)
    assert "no_edit" in text
    assert "extra" in text
    card = (version.dir / "README.md").read_text()
    assert "CC0-1.0" in card
    assert "| extra | 14 | 7 | 50% |" in card


def test_croissant_names_every_data_file(version):
    described = json.loads((version.dir / "croissant.json").read_text())
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert described["license"] == "https://creativecommons.org/publicdomain/zero/1.0/"
    for file in described["distribution"]:
        assert file["sha256"] == building.sha256_file(version.dir / file["contentUrl"])
    columns = {field["name"] for field in described["recordSet"][0]["field"]}
    assert columns == {key for key in version.attempts()[0] if key != "scores"}
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=version.dir, capture_output=True, check=False
    )
    assert checked.returncode == 0

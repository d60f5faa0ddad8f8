"""Shards and the table of attempts: what is written is read back, and bad input is rejected."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_results import TURNS, image_result, real_image, small_version

from pipeline.dataset import version_writer
from pipeline.dataset.hdf5_columns import PROFILES
from pipeline.dataset.shard_reader import ShardReader, TestShardReader
from pipeline.dataset.shard_writer import write_shard, write_test_shard
from pipeline.dataset.version import Version, open_version, versions
from pipeline.errors import IntegrityError, RecordError, UserError
from pipeline.records import Edit, Sample, Verdict, bounding_box

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


def test_shards_of_the_fast_profile_close_earlier_because_they_hold_edits_whole(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(version_writer, "HELD_BYTES", 10_000)
    shards = {
        profile: len(small_version(tmp_path / profile, profile=profile, shard_images=99).shards)
        for profile in ("default", "fast")
    }
    assert shards["fast"] > shards["default"]


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


def test_results_that_break_a_guarantee_are_rejected(tmp_path):
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

"""Reading: batches equal rows, damage is never returned as pixels, readers can be pickled."""

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_results import image_result, real_image, small_version

from detectors.data.dataset import VersionDataset
from pipeline.dataset import hdf5_file as handles
from pipeline.dataset.hdf5_columns import PROFILES
from pipeline.dataset.sample_table import SampleTable
from pipeline.dataset.shard_reader import SampleBatch, ShardReader, TestShardReader
from pipeline.dataset.shard_writer import write_shard, write_test_shard
from pipeline.dataset.verify import verify
from pipeline.dataset.version import Version, open_version
from pipeline.errors import IntegrityError, UserError
from pipeline.export.registry import FORMATS
from pipeline.export.run import export
from pipeline.reports.diff.compare import diff
from pipeline.reports.gallery import write_gallery_of
from pipeline.reports.sample import find_sample, triptych
from pipeline.reports.stats import stats
from pipeline.utils.hashing import sha256_array


@pytest.fixture(scope="module", params=PROFILES)
def version(request, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Seven images in shards of two, three accepted samples each."""
    folder = tmp_path_factory.mktemp("store")
    return small_version(folder, images=7, shard_images=2, profile=request.param)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(wanted=st.lists(st.integers(0, 20), max_size=9), room=st.integers(0, 3))
def test_a_batch_has_its_rows_in_the_requested_order(version, wanted, room):
    everything = list(version.samples())
    table = SampleTable(version)
    assert len(table) == len(everything) == 21
    out = SampleBatch.empty(len(wanted) + room, version.image_size)
    got = table.batch(wanted, out)
    assert len(got) == len(wanted)
    assert np.shares_memory(got.edited_BHW3, out.edited_BHW3) == bool(wanted)
    for place, index in enumerate(wanted):
        original, edited, mask, record = everything[index]
        np.testing.assert_array_equal(got.originals_BHW3[place], original)
        np.testing.assert_array_equal(got.edited_BHW3[place], edited)
        np.testing.assert_array_equal(got.masks_BHW[place], mask)
        assert table.record(index) == record
        assert table.labels_N[index] == record["label"]


def test_a_shard_reads_batches_too(version):
    shard = version.shards[1]
    got = shard.batch([4, 0, 4])
    for place, row in enumerate((4, 0, 4)):
        np.testing.assert_array_equal(got.edited_BHW3[place], shard.edited(row))
        np.testing.assert_array_equal(got.masks_BHW[place], shard.mask(row))
    for rows in ([6], [-1]):
        with pytest.raises(IndexError, match="holds 6 samples"):
            shard.batch(rows)
    with pytest.raises(UserError, match="do not fit"):
        shard.batch([0, 1, 2], SampleBatch.empty(2, shard.size_HW))


def test_a_table_is_filtered_by_split_kind_and_label(version):
    for chosen in (
        {"split": "validation"},
        {"kinds": ["extra", "control_noop"]},
        {"label": 0},
        {"split": "train", "kinds": ["extra"], "label": 1},
        {"kinds": ["swapped"]},
    ):
        expected = [
            record["id"]
            for *_, record in version.samples()
            if chosen.get("split") in (None, record["source"]["split"])
            and record["kind"] in chosen.get("kinds", [record["kind"]])
            and chosen.get("label") in (None, record["label"])
        ]
        table = SampleTable(version, **chosen)
        assert [table.record(index)["id"] for index in range(len(table))] == expected
    for wrong in ({"split": "trian"}, {"kinds": ["vanished"]}, {"label": 2}):
        with pytest.raises(UserError, match=r"expected one of|a label is"):
            SampleTable(version, **wrong)


def everything_of(reader: ShardReader | TestShardReader) -> list[str]:
    """Digests of everything that a reader returns, through every method."""
    rows = list(reader.image_digests()) + list(reader.sample_digests())
    if isinstance(reader, ShardReader):
        batch = reader.batch(range(reader.samples))
        rows += map(sha256_array, (batch.originals_BHW3, batch.edited_BHW3, batch.masks_BHW))
        rows += [f"{reader.bbox(j)} {reader.label(j)} {reader.kind(j)}" for j in range(len(batch))]
    return rows


@pytest.mark.parametrize("role", ["samples", "test"])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_flipped_bit_is_an_error_or_has_no_effect(tmp_path, profile, role):
    path = tmp_path / "shard.h5"
    if role == "test":
        write_test_shard(path, [real_image(n, (9, 11)) for n in range(3)], profile)
    else:
        write_shard(path, [image_result(n, (9, 11)) for n in range(2)], "samples", profile)
    kind = TestShardReader if role == "test" else ShardReader
    with kind(path) as reader:
        expected = everything_of(reader)
    content = path.read_bytes()
    rng, named, unnamed = np.random.default_rng(0), 0, 0
    places = rng.choice(len(content), 250, replace=False).tolist()
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            with kind(path) as reader:
                assert everything_of(reader) == expected, f"byte {place} of {len(content)}"
        except IntegrityError as error:
            named += "shard.h5" in str(error)
            unnamed += "shard.h5" not in str(error)
    assert unnamed == 0
    # The other bits are in space that HDF5 does not use.
    assert named > len(places) // 2


def test_the_memory_map_equals_the_hdf5_path(version, monkeypatch):
    reader = version.shards[0]
    assert reader.mapped("originals/pixels") is not None
    fast = [reader.edited(j) for j in range(reader.samples)]
    slow = ShardReader(reader.path)
    monkeypatch.setattr(slow, "mapped", lambda name, rows=None: None)
    for j, pixels in enumerate(fast):
        np.testing.assert_array_equal(slow.edited(j), pixels)
        np.testing.assert_array_equal(
            slow.original(slow.source(j)), reader.original(reader.source(j))
        )
    np.testing.assert_array_equal(slow.proposals(1)[0], reader.proposals(1)[0])


def test_nothing_indexes_hdf5_with_a_list(version, tmp_path, monkeypatch):
    other = small_version(tmp_path, images=3, shard_images=2)
    used = set()
    plain = h5py.Dataset.__getitem__

    def watched(self, rows, **options):
        used.update(type(part) for part in (rows if isinstance(rows, tuple) else (rows,)))
        return plain(self, rows, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    fresh = open_version(version.dir)
    list(fresh.samples(kind="extra"))
    list(fresh.test_images())
    table = SampleTable(fresh)
    table.batch(range(len(table) - 1, -1, -1))
    for dataset in (VersionDataset.normals(fresh), VersionDataset.pairs(fresh)):
        dataset.__getitems__(range(len(dataset)))
    test = VersionDataset.test(fresh)
    test.__getitems__(range(len(test)))
    assert verify(fresh.dir).ok
    assert stats(fresh)["accepted"] == len(table)
    assert not diff(fresh, open_version(other.dir)).equal
    triptych(find_sample(fresh, "0"))
    write_gallery_of(fresh, tmp_path)
    for to in FORMATS:
        export(fresh, to, tmp_path / "exports" / to)
    assert used <= {int, slice}


def test_readers_can_be_pickled_and_forked(version):
    reader = version.shards[0]
    expected = sha256_array(reader.edited(0))
    assert sha256_array(pickle.loads(pickle.dumps(reader)).edited(0)) == expected
    child, parent = os.pipe()
    if os.fork() == 0:
        os.write(parent, sha256_array(reader.edited(0)).encode())
        os._exit(0)
    os.wait()
    assert os.read(child, 64).decode() == expected


def test_many_shards_need_few_open_files(version, monkeypatch):
    monkeypatch.setattr(handles, "MOST_OPEN", 2)
    before = len(list(Path("/proc/self/fd").iterdir()))
    fresh = open_version(version.dir)
    table = SampleTable(fresh)
    for index in (0, 20, 7, 13, 1):
        expected = version.shards[table.shards_N[index]].edited(int(table.rows_N[index]))
        np.testing.assert_array_equal(table.batch([index]).edited_BHW3[0], expected)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_unpacking_without_hdf5_gives_the_same_rows(tmp_path, height, width):
    """Also tiny and noisy rows, which LZ4 cannot compress."""
    path = tmp_path / "shard.h5"
    write_shard(path, [image_result(n, (height, width)) for n in range(2)])
    with ShardReader(path) as reader:
        for name in ("samples/delta", "samples/mask"):
            for row in range(reader.samples):
                # The first read goes through HDF5, which verifies the checksum.
                first = reader.packed(name, row)
                again = reader.packed(name, row)
                assert first.base is None
                # A view of PyArrow's or the map's memory.
                assert again.base is not None
                np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_shard_truncated_under_an_open_reader_is_named(tmp_path, profile):
    version = small_version(tmp_path, images=4, shard_images=4, profile=profile)
    shard = version.shards[0]
    shard.original(0), shard.edited(0)
    os.truncate(shard.path, 100)
    with pytest.raises(IntegrityError, match=shard.path.name):
        list(version.samples())

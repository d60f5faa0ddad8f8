"""The PyTorch datasets return what the plain reader reads, in every kind of process."""

import pickle
import shutil
from itertools import chain

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_results import small_version
from torch.utils.data import DataLoader

from detectors.data.dataset import EpochSampler, VersionDataset, collate, loader
from pipeline.dataset.hdf5_columns import PROFILES
from pipeline.dataset.version import Version, open_version
from pipeline.errors import IntegrityError, UserError
from pipeline.kinds import KINDS


@pytest.fixture(scope="module", params=PROFILES)
def version(request, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Seven images in shards of two, three accepted samples each, four test images."""
    folder = tmp_path_factory.mktemp("store")
    return small_version(folder, images=7, shard_images=2, profile=request.param)


@pytest.fixture
def broken(tmp_path) -> Version:
    """A version whose second shard has a flipped bit in each original and in each packed edit."""
    folder = small_version(tmp_path, images=7, shard_images=2).dir
    path = folder / "shard-0001.h5"
    with h5py.File(path, "r") as file:
        # Offsets of one byte in each original and in each compressed chunk.
        places = [file["originals/pixels"].id.get_offset() + 24 * 19 * 3 * i + 7 for i in range(2)]
        packed = file["samples/delta"].id
        chunks = [packed.get_chunk_info(n) for n in range(packed.get_num_chunks())]
        places += [chunk.byte_offset + chunk.size // 2 for chunk in chunks]
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 4
    path.write_bytes(content)
    return open_version(folder)


def test_pairs_are_the_samples_of_the_version(version):
    pairs = VersionDataset.pairs(version, split=None)
    expected = list(version.samples())
    assert len(pairs) == len(expected)
    for index, (original, edited, mask, record) in enumerate(expected):
        item = pairs[index]
        assert item["original"].dtype == item["mask"].dtype == torch.uint8
        np.testing.assert_array_equal(item["original"].permute(1, 2, 0), original)
        np.testing.assert_array_equal(item["edited"].permute(1, 2, 0), edited)
        np.testing.assert_array_equal(item["mask"], mask)
        assert item["label"] == record["label"]
        assert KINDS[item["kind"]] == record["kind"]
        assert item["index"] == index
    assert pairs[-1]["index"] == len(expected) - 1
    with pytest.raises(IndexError):
        pairs[len(expected)]


def test_pairs_are_filtered(version):
    chosen = VersionDataset.pairs(version, split="validation", kinds=["extra"], label=1)
    ids = [chosen.view.table.record(index)["id"] for index in range(len(chosen))]
    assert ids == [r["id"] for *_, r in version.samples(split="validation", kind="extra")] != []
    with pytest.raises(UserError, match="expected one of"):
        VersionDataset.normals(version, split="vanished")


def test_normals_and_test_images_are_those_of_the_version(version):
    for split in ("train", "validation", None):
        normals = VersionDataset.normals(version, split)
        images = [pixels for pixels, _ in version.images(split)]
        assert len(normals) == len(images)
        batch = collate(normals.__getitems__(range(len(images) - 1, -1, -1)))
        np.testing.assert_array_equal(batch["image"].permute(0, 2, 3, 1), images[::-1])
    test, expected = VersionDataset.test(version), list(version.test_images())
    assert len(test) == len(expected)
    for index, (pixels, masks, _, record) in enumerate(expected):
        np.testing.assert_array_equal(test[index]["image"].permute(1, 2, 0), pixels)
        np.testing.assert_array_equal(test[index]["mask"], masks.any(0))
        assert test[index]["label"] == (record["defect"] != "good")


def test_images_are_in_channels_last_memory(version):
    batch = collate(VersionDataset.pairs(version).__getitems__([3, 1]))
    assert batch["edited"].is_contiguous(memory_format=torch.channels_last)


def expect_what_the_reader_reads(version: Version, start: str) -> None:
    pairs = VersionDataset.pairs(version, split=None)
    # Open the files here, before the workers start.
    assert len(pairs[0]) == 6
    batches = list(loader(pairs, 4, seed=3, num_workers=2, multiprocessing_context=start))
    seen = torch.cat([batch["index"] for batch in batches])
    assert seen.tolist() == list(EpochSampler(len(pairs), seed=3))
    expected = list(version.samples())
    for name, column in (("original", 0), ("edited", 1)):
        got = torch.cat([batch[name] for batch in batches]).permute(0, 2, 3, 1)
        np.testing.assert_array_equal(got, [expected[index][column] for index in seen])
    got = torch.cat([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(got, [expected[index][2] for index in seen])


def test_forked_workers_deliver_what_the_reader_reads(version):
    expect_what_the_reader_reads(version, "fork")


def test_spawned_workers_deliver_what_the_reader_reads(tmp_path):
    # For one profile only, as spawned workers take seconds to start.
    version = small_version(tmp_path, images=7, shard_images=2)
    expect_what_the_reader_reads(version, "spawn")


def test_pytorchs_own_collate_works_as_well(version):
    pairs = VersionDataset.pairs(version, split=None)
    plain = list(DataLoader(pairs, 5))
    ours = list(loader(pairs, 5, shuffle=False))
    assert len(plain) == len(ours) == 5
    for one, other in zip(plain, ours, strict=True):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name])


def test_kept_batches_stay_unchanged_and_memory_of_dropped_ones_is_reused(version):
    pairs = VersionDataset.pairs(version, split=None)
    kept = [collate(pairs.__getitems__([index, index])) for index in range(len(pairs))]
    views = [collate(pairs.__getitems__([index]))["edited"][0, 1:, 2:9] for index in range(9)]
    for index, batch in enumerate(kept):
        fresh = VersionDataset.pairs(version, split=None)[index]
        for name in ("original", "edited", "mask"):
            assert torch.equal(batch[name][0], fresh[name])
            assert torch.equal(batch[name][1], fresh[name])
        if index < len(views):
            assert torch.equal(views[index], fresh["edited"][1:, 2:9])
    # Without references, one block of memory is used again and again.
    del kept, views, batch
    places = {collate(pairs.__getitems__([0, 1]))["edited"].data_ptr() for _ in range(20)}
    assert len(places) == 1


@given(
    length=st.integers(0, 40),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 100),
    ranks=st.integers(1, 5),
    shuffle=st.booleans(),
)
def test_ranks_share_one_order(length, seed, epoch, ranks, shuffle):
    def share(rank: int, even: bool) -> list[int]:
        sampler = EpochSampler(length, seed, shuffle, rank, ranks, even)
        sampler.set_epoch(epoch)
        indices = list(sampler)
        assert len(indices) == len(sampler)
        assert list(sampler) == indices
        return indices

    exact = [share(rank, even=False) for rank in range(ranks)]
    assert sorted(chain(*exact)) == list(range(length))
    even = [share(rank, even=True) for rank in range(ranks)]
    assert len({len(indices) for indices in even}) == 1
    assert set(chain(*even)) == set(range(length))
    for some, all_ in zip(exact, even, strict=True):
        assert all_[: len(some)] == some


def test_the_order_follows_seed_and_epoch():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = EpochSampler(30, seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({order(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16
    with pytest.raises(UserError, match="rank"):
        EpochSampler(3, rank=2, ranks=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_named_also_by_a_worker(broken, workers):
    for dataset in (VersionDataset.pairs(broken, None), VersionDataset.normals(broken, None)):
        with pytest.raises(IntegrityError, match=r"shard-0001\.h5"):
            list(loader(dataset, 4, num_workers=workers))
        good = [index for index in range(len(dataset)) if index < 2]
        assert len(list(loader(dataset, 1, sampler=good, num_workers=workers))) == 2


def test_a_missing_shard_is_named(version, tmp_path):
    folder = shutil.copytree(version.dir, tmp_path / "copy")
    pairs = pickle.loads(pickle.dumps(VersionDataset.pairs(open_version(folder), None)))
    (folder / "shard-0002.h5").unlink()
    with pytest.raises(IntegrityError, match=r"shard-0002\.h5 is missing"):
        list(loader(pairs, 4, num_workers=1))
    with pytest.raises(IntegrityError, match=r"shard-0002\.h5 is missing"):
        VersionDataset.normals(Version(folder, version.index))

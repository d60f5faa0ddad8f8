"""Batches for detectors: one resize routine, fixed orders, endless steps divided among ranks."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_results import image_result, small_version

from detectors.data.batches import Feed, StepSampler, Stream, fixed_subset
from detectors.data.dataset import VersionDataset
from detectors.data.resize import resize_images, resize_masks
from pipeline.dataset.version import Version
from pipeline.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    results = [image_result(number, (48, 72)) for number in range(7)]
    return small_version(tmp_path_factory.mktemp("store"), results=results, tests=0)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_images_are_resized_as_by_pillow(size):
    rng = np.random.default_rng(size)
    image = rng.integers(0, 256, (50, 70, 3), np.uint8)
    ours = resize_images(torch.from_numpy(image).permute(2, 0, 1)[None], size)
    assert (ours.shape, ours.dtype) == ((1, 3, size, size), torch.uint8)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    pillow = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    difference = ours[0].permute(1, 2, 0).numpy().astype(int) - np.asarray(pillow)
    # Pillow rounds between its two passes.
    assert np.abs(difference).max() <= 1


def test_an_image_of_the_target_size_is_unchanged():
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(resize_images(images, 64), images)
    with pytest.raises(TypeError, match="uint8"):
        resize_images(images.float(), 64)


def test_masks_keep_their_two_values_and_their_place():
    masks = torch.zeros(2, 48, 72, dtype=torch.uint8)
    masks[0, :24] = 1
    masks[1, :, 36:] = 1
    small = resize_masks(masks, 32)
    assert small[0].tolist() == [[1] * 32] * 16 + [[0] * 32] * 16
    assert small[1].tolist() == [[0] * 16 + [1] * 16] * 32


def test_a_feed_can_be_iterated_again_in_the_same_order(version):
    normals = VersionDataset.normals(version, None)
    feed = Feed(normals, 3, 64, CPU)
    assert (len(feed), feed.items) == (3, 7)
    for _ in range(2):
        batches = list(feed)
        assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(7))
        for batch in batches:
            originals = torch.stack([normals[i]["image"] for i in batch["index"].tolist()])
            assert torch.equal(batch["image"], resize_images(originals, 64))


def test_a_feed_of_chosen_pairs_without_numbers_and_by_workers(version):
    pairs = VersionDataset.pairs(version, None)
    plain = list(Feed(pairs, 2, 32, CPU, indices=[5, 0, 3], numbered=False))
    read = list(Feed(pairs, 2, 32, CPU, workers=1, indices=[5, 0, 3], numbered=False))
    assert set(plain[0]) == {"original", "edited", "mask", "label", "kind"}
    assert plain[1]["mask"].shape == (1, 32, 32)
    for one, other in zip(plain, read, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_workers_hand_batches_over_without_shared_memory(version, monkeypatch):
    """In a container with a small /dev/shm the batch would be lost, and waited for forever."""

    def full(*_: object) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    feed = Feed(VersionDataset.normals(version, None), 4, 32, CPU, workers=1)
    assert sum(len(batch["index"]) for batch in feed) == 7


def test_a_stream_resumes_at_any_step(version):
    normals = VersionDataset.normals(version, None)
    whole = islice(Stream(normals, StepSampler(7, 2, seed=1), 64, CPU), 6)
    later = islice(Stream(normals, StepSampler(7, 2, seed=1, start_step=4), 64, CPU), 2)
    for one, other in zip(list(whole)[4:], later, strict=True):
        assert torch.equal(one["index"], other["index"])
        assert torch.equal(one["image"], other["image"])


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 3), st.integers(0, 9))
def test_every_pass_takes_every_image_once(length, batch_size, ranks, seed):
    samplers = [StepSampler(length, batch_size, seed, rank=r, ranks=ranks) for r in range(ranks)]
    steps = -(-3 * length // (batch_size * ranks))
    order = [i for step in range(steps) for sampler in samplers for i in sampler.batch(step)]
    for number in range(3):
        assert sorted(order[number * length : (number + 1) * length]) == list(range(length))
    alone = StepSampler(length, batch_size * ranks, seed)
    assert order == [i for step in range(steps) for i in alone.batch(step)]


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 40))
def test_a_step_depends_on_its_number_alone(length, batch_size, step):
    sampler = StepSampler(length, batch_size, seed=2, start_step=step)
    assert next(iter(sampler)) == StepSampler(length, batch_size, seed=2).batch(step)


def test_seeds_and_passes_differ():
    orders = {tuple(StepSampler(30, 30, seed).batch(step)) for seed in range(3) for step in (0, 1)}
    assert len(orders) == 6


def test_impossible_samplers_are_rejected():
    with pytest.raises(UserError, match="no image to train on"):
        StepSampler(0, 2)
    with pytest.raises(UserError, match="rank must be 0 to 1"):
        StepSampler(4, 2, rank=2, ranks=2)


@given(st.integers(0, 50), st.integers(1, 60))
def test_a_fixed_subset_is_sorted_and_without_repeats(length, count):
    chosen = fixed_subset(length, count)
    assert len(chosen) == len(set(chosen)) == min(length, count)
    assert chosen == sorted(chosen) == fixed_subset(length, count)


def test_a_fixed_subset_covers_every_place_of_a_round():
    assert {place % 7 for place in fixed_subset(7 * 256, 256)} == set(range(7))

"""The view `sources` and its sampler: equal weight of normals, steps that can be drawn alone."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_results import image_result, small_version

from detectors.data.dataset import VersionDataset, collate, loader
from detectors.data.source_sampler import SourceSampler, SourceSettings
from detectors.data.views import SourcesView
from pipeline.dataset.hdf5_columns import PROFILES
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.kinds import KINDS

# The number of the image without any accepted sample.
ALONE = 3


@pytest.fixture(scope="module", params=PROFILES)
def version(request, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Seven images in shards of two; image 3 has no sample, image 5 ten times as many as others."""
    usual = (("missing", ""), ("extra", ""), ("control_noop", ""))
    turns = {ALONE: (("missing", "seam"),), 5: usual * 10}
    results = [image_result(number, turns=turns.get(number, usual)) for number in range(7)]
    folder = tmp_path_factory.mktemp("store")
    return small_version(folder, results=results, shard_images=2, profile=request.param)


@pytest.fixture(scope="module")
def sources(version) -> VersionDataset:
    return VersionDataset.sources(version, split=None)


def sampler(sources: VersionDataset, **options) -> SourceSampler:
    choice = {
        name: options.pop(name) for name in ("clean_share", "controls", "kinds") if name in options
    }
    return SourceSampler(sources, SourceSettings(**choice), options.pop("batch_size", 5), **options)


def normal_of(sources: VersionDataset, item: int) -> int:
    """The normal that an item comes from, found by comparing images."""
    assert isinstance(sources.view, SourcesView)
    original = sources[item]["original"]
    same = [n for n in range(sources.view.normals) if sources[n]["original"].equal(original)]
    assert len(same) == 1
    return same[0]


def test_normals_come_first_and_are_their_own_edit(version, sources):
    images = [pixels for pixels, _ in version.images()]
    pairs = VersionDataset.pairs(version, split=None)
    assert len(sources) == len(images) + len(pairs)
    for index, image in enumerate(images):
        item = sources[index]
        np.testing.assert_array_equal(item["original"].permute(1, 2, 0), image)
        np.testing.assert_array_equal(item["edited"].permute(1, 2, 0), image)
        assert not item["mask"].any()
        assert (item["label"], item["kind"], item["index"]) == (0, -1, index)


def test_samples_follow_in_any_mixture_and_order(version, sources):
    pairs = VersionDataset.pairs(version, split=None)
    order = np.random.default_rng(0).permutation(len(sources)).tolist()
    batch = collate(sources.__getitems__(order))
    for place, index in enumerate(order):
        expected = pairs[index - 7] if index >= 7 else sources[index]
        for name in ("original", "edited", "mask", "label", "kind"):
            assert batch[name][place].equal(expected[name]), (name, index)


def test_a_split_holds_its_own_normals_and_samples_only(version):
    both = [VersionDataset.sources(version, split) for split in ("train", "validation")]
    assert sum(len(part) for part in both) == len(VersionDataset.sources(version, None))
    for part, split in zip(both, ("train", "validation"), strict=True):
        assert part.view.normals == len(VersionDataset.normals(version, split))


def test_a_loader_takes_the_batches_as_they_are(sources):
    choice = sampler(sources, seed=4)
    batches = islice(loader(sources, 1, batch_sampler=choice, sampler=None, shuffle=None), 3)
    assert [batch["index"].tolist() for batch in batches] == list(islice(choice, 3))


def test_every_normal_has_the_same_weight(sources):
    drawn = [item for batch in islice(sampler(sources), 7 * 8) for item in batch]
    counts = Counter(normal_of(sources, item) for item in drawn)
    assert counts == dict.fromkeys(range(7), 40)


def test_the_clean_share_is_kept(sources):
    drawn = np.array(list(islice(sampler(sources, batch_size=70, clean_share=0.25), 100))).ravel()
    originals = drawn < 7
    others = drawn[(drawn != ALONE)]
    # It has no sample, so it is always used unedited.
    assert (drawn == ALONE).mean() == pytest.approx(1 / 7)
    assert (others < 7).mean() == pytest.approx(0.25, abs=0.02)
    assert set(drawn[~originals]) == set(range(7, len(sources)))
    for share, expected in ((0.0, {ALONE}), (1.0, set(range(7)))):
        drawn = np.array(list(islice(sampler(sources, clean_share=share), 70))).ravel()
        assert set(drawn[drawn < 7]) == expected


def test_controls_and_kinds_can_be_chosen(sources):
    def kinds(**options) -> set[int]:
        items = {item for batch in islice(sampler(sources, **options), 60) for item in batch}
        return {int(sources[item]["kind"]) for item in items} - {-1}

    missing, extra, control = (KINDS.index(k) for k in ("missing", "extra", "control_noop"))
    assert kinds() == {missing, extra, control}
    assert kinds(controls=False) == {missing, extra}
    assert kinds(kinds=("extra",)) == {extra, control}
    assert kinds(kinds=("swapped",), controls=False) == set()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    start=st.integers(0, 50),
    ranks=st.integers(1, 4),
    batch_size=st.integers(1, 20),
)
def test_a_resumed_run_reads_the_remaining_steps(sources, seed, start, ranks, batch_size):
    for rank in range(ranks):
        options = {"seed": seed, "rank": rank, "ranks": ranks, "batch_size": batch_size}
        whole = list(islice(sampler(sources, **options), start + 4))
        assert list(islice(sampler(sources, start_step=start, **options), 4)) == whole[start:]
        assert all(len(batch) == batch_size for batch in whole)


def test_seeds_and_ranks_differ(sources):
    drawn = {
        tuple(map(tuple, islice(sampler(sources, seed=seed, rank=rank, ranks=2), 5)))
        for seed in range(4)
        for rank in range(2)
    }
    assert len(drawn) == 8


def test_user_errors_are_reported(version, sources):
    with pytest.raises(UserError, match=r"VersionDataset\.sources"):
        sampler(VersionDataset.pairs(version))
    with pytest.raises(UserError, match="rank"):
        sampler(sources, rank=2, ranks=2)

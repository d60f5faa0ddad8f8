"""The stage cache: what goes in comes out, and a damaged or half-written entry is merely absent."""

import multiprocessing
import os
import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stages import random_stages

from pipeline.errors import UserError
from pipeline.generation.cache import StageCache
from pipeline.generation.cache_codecs import (
    SetAside,
    pack_analysis,
    pack_attempts,
    read_result,
    unpack_analysis,
)
from pipeline.utils.files import locked_if_free

KEY = "ab" * 32


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(8, 21), st.integers(8, 21), st.integers(0, 4))
def test_records_come_back_as_they_went_in(tmp_path_factory, seed, height, width, count):
    store = StageCache(tmp_path_factory.mktemp("cache"))
    pixels, analysis, attempts = random_stages(seed, height, width, count)
    foreground, proposals, soft = analysis.foreground, analysis.proposals, analysis.soft
    store.write("analysis", KEY, *pack_analysis(pixels, analysis))
    # As during a run: what is rejected is packed at once.
    aside = SetAside()
    held = [one if one.verdict.accepted else aside(one) for one in attempts]
    assert all(one.verdict.accepted for one in held if one.sample is not None)
    store.write("samples", KEY, *pack_attempts(held, aside))
    back = read_result(store, "a.png", "d", "train", (KEY, KEY))
    assert np.array_equal(back.pixels_HW3, pixels)
    assert np.array_equal(back.foreground.mask_HW, foreground.mask_HW)
    assert (back.foreground.peak, back.foreground.fallback) == (0.25, "why")
    assert np.array_equal(back.proposals.masks_NHW, proposals.masks_NHW)
    assert np.array_equal(back.proposals.scores_N, proposals.scores_N)
    assert back.proposals.relaxed == ("area",)
    stored = store.read("analysis", KEY)
    found = unpack_analysis(*stored)[1].soft
    assert np.array_equal(found.masks_NHW, soft.masks_NHW)
    assert np.array_equal(found.scores_N, soft.scores_N)
    # What both limits find is stored once.
    assert len(stored[0]["soft_only"]) == -(-height * width // 8)
    for before, after in zip(attempts, back.attempts, strict=True):
        assert after.verdict == before.verdict
        assert (after.number, after.attempt, after.kind, after.seed, after.seconds) == (
            before.number, before.attempt, before.kind, before.seed, before.seconds,
        )  # fmt: skip
        if before.sample is None:
            assert after.sample is None
            continue
        assert after.sample.edit == before.sample.edit
        assert np.array_equal(after.sample.pixels_HW3, before.sample.pixels_HW3)
        assert np.array_equal(after.sample.change_HW, before.sample.change_HW)
        assert np.array_equal(after.sample.object_HW, before.sample.object_HW)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_damaged_entry_is_absent_and_deleted(tmp_path, keep):
    store = StageCache(tmp_path)
    path = store.write("samples", KEY, {"x": np.arange(100)}, {"fact": 1})
    content = path.read_bytes()
    flipped = content[:200] + bytes([content[200] ^ 255]) + content[201:]
    path.write_bytes(flipped if keep < 0 else content[:keep])
    assert store.read("samples", KEY) is None
    assert not store.has("samples", KEY)


def test_an_entry_of_another_user_is_absent_and_stays(tmp_path):
    """Root ignores permission bits, so a process that is not root tries."""
    store = StageCache(tmp_path)
    closed = store.write("analysis", KEY, {"x": np.arange(3)}, {})
    closed.chmod(0o200)
    damaged = store.write("samples", KEY, {"x": np.arange(3)}, {})
    damaged.write_bytes(b"")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    damaged.parent.chmod(0o555)
    child = multiprocessing.get_context("fork").Process(target=read_as_another, args=(store,))
    child.start()
    child.join()
    assert child.exitcode == 7
    assert closed.exists()
    assert damaged.exists()


def read_as_another(store: StageCache) -> None:
    if os.getuid() == 0:
        os.setuid(65534)
    closed, damaged = (store.read(stage, KEY) for stage in ("analysis", "samples"))
    os._exit(7 if closed is None and damaged is None and not store.has("analysis", KEY) else 1)


def write_with_little_room(root) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        StageCache(root).write("samples", KEY, {"x": np.zeros(90_000, np.uint8)}, {})
    except UserError as error:
        os._exit(7 if str(root) in str(error) and "limit on the size" in str(error) else 1)


def test_no_room_for_an_entry_is_a_user_error_and_leaves_nothing(tmp_path):
    child = multiprocessing.get_context("fork").Process(
        target=write_with_little_room, args=(tmp_path,)
    )
    child.start()
    child.join()
    assert child.exitcode == 7
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_many_runs_use_a_cache_at_once_and_no_sweep_comes_between(tmp_path):
    store, said = StageCache(tmp_path / "cache"), []
    with store.in_use(), store.in_use(lambda: said.append("waited")):
        assert not said
        with locked_if_free(store.root) as free:
            assert not free
    with locked_if_free(store.root) as free:
        assert free
    (tmp_path / "file").write_text("a file where the store should be")
    with pytest.raises(UserError, match="Not a directory"), StageCache(tmp_path / "file").in_use():
        pass


def test_an_entry_that_fails_to_be_written_leaves_nothing(tmp_path):
    store = StageCache(tmp_path)
    with pytest.raises(TypeError):
        store.write("samples", KEY, {}, {"no": object()})
    with pytest.raises(ValueError, match="pickle"):
        store.write("samples", KEY, {"objects": np.array([object()])}, {})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

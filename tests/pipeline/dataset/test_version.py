"""Versions: the digest identifies the content, and a plan finds the version that it led to."""

import subprocess
import sys
from dataclasses import replace

import pytest
from small_results import PLAN, header, image_result, small_version

from pipeline.dataset.version import Version, find_by_plan, latest, versions
from pipeline.records import Verdict

OTHER_PLAN = "f" * 64


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return small_version(tmp_path_factory.mktemp("store"), images=7, gallery=True)


def test_the_digest_ignores_shard_size_profile_and_duration(tmp_path):
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


def test_the_digest_depends_on_every_pixel_mask_bit_and_score(tmp_path):
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

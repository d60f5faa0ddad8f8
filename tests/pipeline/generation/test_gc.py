"""`anomalysmith gc`: what it frees, what it must not touch, and what a rerun finds afterwards."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_photos import draw_parts
from small_results import small_version

from flows.commands.gc import gc_command
from flows.jobs.generate import generate
from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.config.schema import CategorySettings
from pipeline.errors import UserError
from pipeline.generation.cache import CACHE
from pipeline.generation.gc import sweep
from pipeline.generation.plan import plan
from pipeline.utils.files import locked

PHOTOS = 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return draw_parts(tmp_path_factory.mktemp("photos") / "parts", PHOTOS)


def settings_of(photos: Path, store: Path, seed: int = 0) -> CategorySettings:
    """Settings of a quick run: small images, one sample each."""
    manifest = manifest_for_source(
        "folder", photos, store=str(store), image_size=128, seed=seed,
        models={"inpaint": {"backend": "telea"}}, edits={"per_image": 1},
        splits={"seed": 0},
    )  # fmt: skip
    return resolve(manifest, "parts")


@pytest.fixture(scope="module")
def made(tmp_path_factory, photos) -> Path:
    """A store with two versions that share the analysis of their images; never changed."""
    store = tmp_path_factory.mktemp("made")
    for seed in (0, 1):
        assert generate(settings_of(photos, store, seed), workers=1).accepted
    return store


@pytest.fixture
def store(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "store")


def entries(store: Path, stage: str) -> int:
    return len(list((store / ".cache" / stage).rglob("*.npz")))


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def remove_version(store: Path, seed: int) -> None:
    """Delete the version of a seed, as a person would: its folder, nothing else."""
    for folder in (store / "parts").glob("????-*"):
        if json.loads((folder / "index.json").read_text())["settings"]["seed"] == seed:
            shutil.rmtree(folder)


def test_what_versions_need_stays_and_a_rerun_is_served_from_the_cache(photos, store):
    before = files_of(store)
    swept = sweep(store)
    assert swept.orphans == ()
    assert swept.kept == PHOTOS + 1 + 2 * PHOTOS  # analyses, calibration, samples
    assert files_of(store) == before
    for seed in (0, 1):
        assert plan(settings_of(photos, store, seed)).missing() == ()


def test_a_version_that_is_gone_frees_what_only_it_needed(photos, store):
    remove_version(store, 0)
    swept = sweep(store)
    assert swept.count("cache entry")[0] == PHOTOS
    assert swept.count("plan")[0] == 1
    assert (entries(store, "analysis"), entries(store, "samples")) == (PHOTOS, PHOTOS)
    assert len(plan(settings_of(photos, store, 0)).missing()) == PHOTOS
    assert plan(settings_of(photos, store, 1)).missing() == ()
    assert generate(settings_of(photos, store, 1)).cached
    remove_version(store, 1)
    swept = sweep(store)
    assert swept.count("cache entry")[0] == 2 * PHOTOS + 1  # and the calibration
    assert not any((store / ".cache").rglob("*.npz"))
    assert not any((store / ".cache" / "samples").iterdir())
    assert sweep(store).orphans == ()


def test_entries_without_a_version_go_unless_they_are_young(photos, store):
    cache = plan(settings_of(photos, store)).cache
    taken = {path.name for path in (store / CACHE / "samples").iterdir()}
    free = next(name for name in ("ab", "cd", "ef", "01") if name not in taken)
    other = cache.write("samples", free * 32, {"x": np.arange(9)}, {"made by": "other code"})
    aside = other.with_name("tmpdeadbeef.tmp")
    aside.write_bytes(b"half an entry")
    swept = sweep(store, older_than=1)
    assert swept.orphans == ()
    assert swept.notes == ("2 younger files were spared",)
    two_days_ago = time.time() - 2 * 86_400
    os.utime(other, (two_days_ago, two_days_ago))
    assert [found.path for found in sweep(store, older_than=1).orphans] == [other]
    assert [found.path for found in sweep(store).orphans] == [aside]
    assert not other.parent.exists()


def test_what_a_killed_writer_left_goes_and_other_files_stay(tmp_path):
    small_version(tmp_path, images=1, tests=0)
    home = tmp_path / "tray"
    (home / ".building-0123456789ab").mkdir()
    (home / ".building-0123456789ab" / "shard-0000.h5").write_bytes(b"12345")
    (home / ".plans").mkdir()
    (home / ".plans" / ("a" * 64)).write_text("0007-000000000000")
    (home / "notes.txt").write_text("mine")
    (tmp_path / "not_a_category").mkdir()
    (tmp_path / "not_a_category" / ".building-x").mkdir()
    before = files_of(tmp_path)
    assert sweep(tmp_path, dry_run=True).count("unfinished version") == (1, 5)
    assert files_of(tmp_path) == before
    assert {found.path.name for found in sweep(tmp_path).orphans} == {
        ".building-0123456789ab", "a" * 64,
    }  # fmt: skip
    gone = {path for path in before if not path.exists()}
    assert {path.name for path in gone} == {"shard-0000.h5", "a" * 64}
    assert (tmp_path / "not_a_category" / ".building-x").is_dir()


def test_what_a_run_is_using_is_left_alone(photos, store):
    remove_version(store, 0)
    (store / "parts" / ".building-x").mkdir()
    before = files_of(store)
    with plan(settings_of(photos, store)).cache.in_use(), locked(store / "parts"):
        swept = sweep(store)
    assert swept.orphans == ()
    assert [note.split(": ")[1] for note in swept.notes] == [
        "a run is publishing it; left alone",
        "a run is using the cache; left alone, try later",
    ]
    assert files_of(store) == before
    assert len(sweep(store).orphans) == PHOTOS + 2


def test_a_damaged_version_keeps_all_entries_of_its_category(photos, store):
    (folder, _) = sorted((store / "parts").glob("????-*"))
    (folder / "index.json").write_text("{")
    swept = sweep(store)
    assert swept.orphans == ()
    assert "delete its folder" in swept.notes[0]
    assert all(plan(settings_of(photos, store, seed)).missing() == () for seed in (0, 1))


def test_a_folder_that_is_no_store_is_a_user_error(tmp_path):
    for place, said in {
        tmp_path: "is no store",
        tmp_path / "nowhere": "is not there",
        Path(__file__): "is a file",
    }.items():
        with pytest.raises(UserError, match=said):
            sweep(place)


def test_the_command_lists_counts_and_frees(photos, store, capsys):
    remove_version(store, 0)

    def answer(**options: Any) -> str:
        gc_command(**{"store": store, "manifest": None, "older_than": 0.0, **options})
        return capsys.readouterr().out

    would = json.loads(answer(dry_run=True, as_json=True))
    assert would["leftovers"] == {"cache entry": PHOTOS, "plan": 1}
    assert len(would["paths"]) == PHOTOS + 1
    assert all(Path(path).is_file() for path in would["paths"])
    did = json.loads(answer(dry_run=False, as_json=True))
    assert {**did, "dry_run": True, "paths": would["paths"]} == would
    assert not any(Path(path).exists() for path in would["paths"])
    assert "freed 0.0 MB" in answer(dry_run=False, as_json=False)


def test_a_dry_run_writes_nothing(photos, store):
    for lock in store.rglob(".lock"):
        lock.unlink()
    before = sorted(path for path in store.rglob("*"))
    sweep(store, dry_run=True)
    assert sorted(path for path in store.rglob("*")) == before


def test_the_calibration_is_kept_as_long_as_a_version_needs_it(photos, store):
    assert entries(store, "normality") == 1
    remove_version(store, 0)
    sweep(store)
    assert entries(store, "normality") == 1
    remove_version(store, 1)
    sweep(store)
    assert entries(store, "normality") == 0


def test_a_plan_of_an_older_release_is_absent_and_no_crash(photos, store):
    """Before there were donors and a calibration, plans lacked both."""
    for path in (store / ".cache" / "plans").glob("*.json"):
        saved = json.loads(path.read_text())
        del saved["calibration_key"]
        for image in saved["images"]:
            del image["donors"]
        path.write_text(json.dumps(saved))
    swept = sweep(store)
    assert swept.count("plan")[0] == 2
    assert swept.kept == 0
    assert generate(settings_of(photos, store), workers=1).cached


def test_a_rule_book_that_is_gone_makes_its_plan_keep_what_it_had(photos, store):
    for path in (store / ".cache" / "plans").glob("*.json"):
        saved = json.loads(path.read_text())
        saved["settings"]["rules"] = str(store / "gone.yaml")
        path.write_text(json.dumps(saved))
    swept = sweep(store)
    assert swept.orphans == ()
    assert any("gone.yaml" in note for note in swept.notes)

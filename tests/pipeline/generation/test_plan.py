"""Changing one setting of one category runs that category alone, and `plan` predicts it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_photos import draw_parts

from flows.commands.plan import as_text
from flows.jobs import forecast as forecasting
from flows.jobs.category_options import Choices, settings_of
from flows.jobs.forecast import forecast
from pipeline.dataset.version import versions
from pipeline.generation import cache_keys, timings
from pipeline.generation import plan as planning
from pipeline.generation.cache_keys import software
from pipeline.generation.timings import RUNS, TIMINGS, Timing, how_of, known, record

MANIFEST = """\
image_size: 96
models: {inpaint: {backend: telea}}
edits: {per_image: 1}
sources: {one: {kind: folder, path: one}, two: {kind: folder, path: two}}
categories:
  one: {source: one}
  two: {source: two%s}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two categories, published, and then one setting of `two` changed."""
    from flows.jobs.generate import generate

    folder = tmp_path_factory.mktemp("plan")
    for name, count in (("one", 3), ("two", 4)):
        draw_parts(folder / name, count)
    manifest = folder / "manifest.yaml"
    manifest.write_text(MANIFEST % "")
    for settings in settings_of(Choices(manifest=manifest, store=folder / "store")):
        generate(settings, workers=1)
    manifest.write_text(MANIFEST % ", edits: {per_image: 2}")
    return folder


def files_of(folder: Path) -> dict[Path, int]:
    """When each file below a folder was written."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_only_the_changed_category_runs_and_only_its_changed_stages(anomalysmith, folder):
    words = ("--manifest", folder / "manifest.yaml", "--store", folder / "store")
    store = folder / "store"
    before = files_of(store / "one") | files_of(store / ".cache" / "analysis")
    said = anomalysmith("plan", *words, "--json").json
    same, changed = said["categories"]
    assert same["published"]
    assert same["seconds"] == 0
    assert same["stages"] == {"version": {"cached": 1, "to_run": 0}}
    assert changed["published"] is None
    assert changed["changed"] == ["edits.per_image: 1 -> 2"]
    assert changed["stages"] == {
        "analysis": {"cached": 4, "to_run": 0},
        "normality": {"cached": 1, "to_run": 0},
        "samples": {"cached": 0, "to_run": 4},
        "version": {"cached": 0, "to_run": 1},
    }
    assert changed["samples_to_make"] == {"anomalous": 8, "controls": 4}
    assert changed["seconds"] > 0
    assert said["seconds"] == changed["seconds"]

    made = anomalysmith("generate", *words, "--workers", 1, "--json").json["categories"]
    assert [part["cached"] for part in made] == [True, False]
    assert files_of(store / "one") | files_of(store / ".cache" / "analysis") == before
    old, new = versions(store, "two")
    assert new.index["parent"] == old.name == changed["parent"]
    assert [version.index["parent"] for version in versions(store, "one")] == [None]
    assert anomalysmith("plan", *words, "--json").json["seconds"] == 0


def test_a_setting_that_is_changed_back_leads_to_the_version_that_it_made(folder, tmp_path):
    from flows.jobs.generate import generate
    from flows.jobs.train import planned_version

    store = folder / "store"
    changed = settings_of(Choices(manifest=folder / "manifest.yaml", store=store))[1]
    newest = generate(changed, workers=1).version_dir  # published by now, or published now
    (folder / "before.yaml").write_text(MANIFEST % "")
    before = settings_of(Choices(manifest=folder / "before.yaml", store=store))[1]

    found, why = planned_version(changed)
    assert found.dir == newest == versions(store, "two")[-1].dir
    assert "manifest leads to" in why
    found, why = planned_version(before)
    assert found.dir == versions(store, "two")[0].dir != newest
    assert f"newest: {newest.name}" in why

    other = changed.model_copy(update={"seed": 99})
    found, why = planned_version(other)
    assert found.dir == newest
    assert "not published" in why
    found, why = planned_version(changed.model_copy(update={"root": tmp_path / "nowhere"}))
    assert found.dir == newest
    assert "no plan can be made" in why


def test_code_and_libraries_that_changed_are_named(folder, monkeypatch):
    choices = Choices(manifest=folder / "manifest.yaml", store=folder / "store")
    settings = settings_of(choices)[0]
    libraries = software() | {"numpy": "0.0"}
    monkeypatch.setattr(forecasting, "software", lambda: libraries)
    monkeypatch.setattr(forecasting, "code_version", lambda: "f" * 16)
    monkeypatch.setattr(cache_keys, "code_digest", lambda packages: "f" * 64)
    found = forecast(settings, None, 1)
    assert found["published"] is None
    code, numpy = found["changed"]
    assert code.startswith("code: ")
    assert code.endswith(" -> " + "f" * 16)
    assert numpy.endswith(" -> 0.0")
    text = as_text(found)
    assert f"child of {found['parent']}, from 3 good images, unless its content turns out" in text


def test_the_lines_of_the_text_add_up(folder, tmp_path):
    settings = settings_of(Choices(manifest=folder / "manifest.yaml", store=tmp_path))[1]
    how = how_of(planning.plan(settings))
    (tmp_path / ".cache").mkdir()
    seconds = {"start": 5.0, "analysis": 1.0, "normality": 3.0, "samples": 0.5, "version": 0.25}
    record(tmp_path / ".cache", [Timing(stage, how, s, 1) for stage, s in seconds.items()])
    text = as_text(forecast(settings, None, workers=2))
    shown = [float(line.split()[-2]) for line in text.splitlines() if line.endswith(" s")]
    assert sum(shown) == pytest.approx(float(re.search(r"about (\d+) s", text)[1]))
    assert "  generation " in text
    assert "samples: 8 anomalous and 4 controls" in text


def test_the_text_names_reason_stages_and_time(anomalysmith, folder, tmp_path):
    run = anomalysmith("plan", "--manifest", folder / "manifest.yaml", "--store", tmp_path)
    assert "two: a new version, the first, from 4 good images" in run.out
    assert "no earlier run of" in run.out
    assert "2 of 2 categories to run, time unknown" in run.out
    assert list(tmp_path.iterdir()) == []


def test_a_category_that_cannot_be_planned_does_not_hide_the_others(anomalysmith, folder, tmp_path):
    (tmp_path / "two").mkdir()
    draw_parts(tmp_path / "one", 2)
    (tmp_path / "manifest.yaml").write_text(MANIFEST % "")
    run = anomalysmith("plan", "--manifest", tmp_path / "manifest.yaml", "--json")
    assert run.code == 2
    good, bad = run.json["categories"]
    assert good["images"] == 2
    assert "two" in bad["error"]
    assert run.json["seconds"] is None


def test_an_estimate_is_units_times_seconds_over_workers(folder, tmp_path):
    choices = Choices(manifest=folder / "manifest.yaml", store=tmp_path)
    settings = settings_of(choices)[1]  # 4 images, 2 samples and 1 control each
    how = how_of(planning.plan(settings))
    (tmp_path / ".cache").mkdir()
    seconds = {"start": 5.0, "analysis": 1.0, "normality": 3.0, "samples": 0.5, "version": 0.25}
    record(tmp_path / ".cache", [Timing(stage, how, s, 1) for stage, s in seconds.items()])
    found: dict[str, Any] = forecast(settings, None, workers=2)
    assert found["seconds_by_stage"] == {
        "start": 5.0,
        "analysis": 4 * 1.0 / 2,
        "normality": 3.0,
        "samples": 4 * 3 * 0.5 / 2,
        "version": 4 * 0.25,
    }
    assert found["seconds"] == sum(found["seconds_by_stage"].values())
    assert forecast(settings, 1, workers=8)["seconds_by_stage"]["analysis"] == 1.0


def test_an_outlier_a_damaged_line_and_other_work_do_not_move_an_estimate(tmp_path):
    record(tmp_path, [Timing("analysis", "a", 2.0, 10)] * 5 + [Timing("analysis", "a", 90.0, 10)])
    record(tmp_path, [Timing("analysis", "b", 7.0, 10)])
    with (tmp_path / TIMINGS).open("a") as file:
        file.write('{"stage": "analysis", "how": "a"\nnot JSON\n' + json.dumps([1]) + "\n")
    assert known(tmp_path, "a") == {"analysis": (2.0, 6)}
    assert known(tmp_path, "c") == {}
    record(tmp_path, [Timing("analysis", "a", 1.0, 10)] * RUNS)
    assert known(tmp_path, "a") == {"analysis": (1.0, RUNS)}


def test_the_file_of_timings_stays_small_and_a_lost_folder_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(timings, "MAX_BYTES", 1000)
    monkeypatch.setattr(timings, "KEPT_LINES", 4)
    for number in range(30):
        record(tmp_path, [Timing("analysis", "a", float(number), 1)])
    assert (tmp_path / TIMINGS).stat().st_size < 1500
    assert known(tmp_path, "a")["analysis"][0] > 20
    record(tmp_path / "gone", [Timing("analysis", "a", 1.0, 1)])

"""Exports hold the version's own pixels, masks and licence, and appear complete or not at all.

Here and in `test_export_formats.py` every format is read by a few lines of our own;
`test_export_peers.py` opens the same exports with the tools that they are for.
"""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from small_exports import exportable, files, lineage, members, originals, pixels, sample_id
from small_results import header, image_result, real_image, small_version

from flows import cli
from pipeline.dataset.files import CARD
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.export.base import ExportOptions
from pipeline.export.folder import export_folder
from pipeline.export.registry import FORMATS
from pipeline.export.run import export
from pipeline.generation.publish import publish
from pipeline.sources.ground_truth import load_test
from pipeline.sources.listing import read_source
from pipeline.utils.file_hash import sha256_file
from pipeline.utils.files import MAX_NAME_LENGTH, UniqueNames

ALL, REAL, BOTH = (
    ExportOptions(samples="all"),
    ExportOptions(test="real"),
    ExportOptions(test="both"),
)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return exportable(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, version, tmp_path_factory) -> Path:
    """Every format in turn."""
    out = tmp_path_factory.mktemp("exports") / request.param
    export(version, request.param, out)
    return out


# -- what every format promises ----------------------------------------------------------------


def test_every_image_is_that_of_the_version(version, exported):
    wanted = originals(version)
    rows = lineage(exported)
    for row in rows:
        image, _ = wanted[sample_id(row)]
        if "key" in row:
            stored = pixels(members(exported / row["file"])[f"{row['key']}.image.png"])
        else:
            stored = pixels(exported / row["file"])
        np.testing.assert_array_equal(stored, image)
    assert len({sample_id(row) for row in rows}) == len(rows)
    if exported.name not in ("mvtec", "anomalib"):
        assert {sample_id(row) for row in rows} == set(wanted)


def test_masks_are_255_where_the_image_is_not_normal(version, exported):
    wanted = originals(version)
    for row in lineage(exported):
        truth = wanted[sample_id(row)][1]
        if "key" in row:
            stored = members(exported / row["file"]).get(f"{row['key']}.mask.png")
        else:
            stored = (exported / row["mask"]).read_bytes() if row.get("mask") else None
        if exported.name == "coco":
            # Has run lengths instead; see test_formats.py.
            continue
        if stored is None:
            assert truth is None
        else:
            found = pixels(stored)
            assert set(np.unique(found)) <= {0, 255}
            np.testing.assert_array_equal(found == 255, truth if truth is not None else found > 255)


def test_licence_and_checksums_are_part_of_an_export(exported):
    card = (exported / CARD).read_text()
    assert "[CC BY-NC-SA 4.0](https://creativecommons.org/licenses/by-nc-sa/4.0/)" in card
    assert "same licence" in card
    assert "Commercial use is not allowed" in card
    assert "MVTec Software GmbH" in card
    assert json.loads((exported / "export.json").read_text())["licence"] == "CC BY-NC-SA 4.0"
    sums = dict(reversed(line.split("  ")) for line in (exported / "SHA256SUMS").open())
    assert {name.strip(): digest for name, digest in sums.items()} == {
        name: sha256_file(exported / name) for name in files(exported) if name != "SHA256SUMS"
    }


def test_a_second_export_has_the_same_bytes(version, exported, tmp_path):
    export(version, exported.name, tmp_path / "again")
    assert files(tmp_path / "again") == files(exported)


def test_an_export_that_is_there_already_is_left_as_it_is(version, exported):
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    report = export(version, exported.name, exported)
    assert report.cached
    assert report.images == len(lineage(exported))
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*")} == before


# -- whole or not at all -----------------------------------------------------------------------


def test_an_interrupted_export_leaves_nothing(version, tmp_path):
    def stop(done: int, total: int | None) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(version, "hf", tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_run_are_deleted(version, tmp_path):
    half = tmp_path / ".out.exporting" / "train" / "images"
    half.mkdir(parents=True)
    (half / "half.png").write_bytes(b"half")
    export(version, "hf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "train/images/half.png" not in files(tmp_path / "out")


def test_two_exports_do_not_write_into_one_folder(version, tmp_path):
    with export_folder(tmp_path / "out"), pytest.raises(UserError, match="another export"):
        export(version, "coco", tmp_path / "out")


def test_the_target_may_be_an_empty_folder_and_nothing_else(version, tmp_path):
    (tmp_path / "empty").mkdir()
    assert not export(version, "coco", tmp_path / "empty").cached
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all I have")
    with pytest.raises(UserError, match="is no export"):
        export(version, "coco", tmp_path / "mine")
    with pytest.raises(UserError, match="is a file"):
        export(version, "coco", tmp_path / "mine" / "thesis.txt")
    with pytest.raises(UserError, match="is inside the version"):
        export(version, "coco", version.dir / "coco")
    assert files(tmp_path / "mine") == {"thesis.txt": b"all I have"}


def test_the_folder_that_somebody_is_in_stays_and_is_filled(version, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(version, "coco", Path("."))
    assert Path.cwd().samefile(tmp_path / "here")
    assert "SHA256SUMS" in files(tmp_path / "here")
    assert not (tmp_path / "here" / ".exporting").exists()
    assert export(version, "coco", Path(".")).cached


def test_a_filled_folder_is_finished_after_a_kill_and_an_unfinished_one_begun_anew(
    version, tmp_path
):
    out = tmp_path / "out"
    out.mkdir()
    export(version, "coco", out)
    whole = files(out)
    # Killed while the files were moved up: the checksums come last.
    aside = out / ".exporting"
    aside.mkdir()
    for name in ("export.json", "SHA256SUMS"):
        (out / name).rename(aside / name)
    assert export(version, "coco", out).cached
    assert files(out) == whole
    # Killed while they were written.
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    aside.mkdir()
    (aside / "half.png").write_bytes(b"half")
    assert not export(version, "coco", out).cached
    assert files(out) == whole


def test_another_or_a_changed_export_is_rejected(version, tmp_path):
    out = tmp_path / "out"
    export(version, "mvtec", out)
    with pytest.raises(UserError, match="another export"):
        export(version, "coco", out)
    with pytest.raises(UserError, match="another export"):
        export(version, "mvtec", out, ALL)
    next((out / "ground_truth").rglob("*.png")).write_bytes(b"")
    with pytest.raises(UserError, match="missing or was changed"):
        export(version, "mvtec", out)


@given(st.lists(st.text(min_size=1, max_size=120), unique=True, max_size=20))
def test_names_are_plain_short_and_unique(ids):
    names = UniqueNames()
    taken = [names.take(sample_id) for sample_id in ids]
    assert len({name.lower() for name in taken}) == len(ids)
    for name in taken:
        assert 0 < len(name) <= MAX_NAME_LENGTH
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def test_a_name_tells_where_an_image_comes_from():
    names = UniqueNames()
    assert names.take("train/good/000.png") == "train_good_000"
    assert names.take("train/good/000.png@2.0") == "train_good_000_2_0"
    assert names.take("train/good_000.png").startswith("train_good_000-")


# -- the folder trees --------------------------------------------------------------------------


def test_our_own_reader_reads_the_mvtec_tree(version, tmp_path):
    export(version, "mvtec", tmp_path / "tray")
    listing = read_source("mvtec_ad", tmp_path / "tray", "tray")
    assert listing.problems == ()
    assert Counter((entry.split, entry.defect) for entry in listing.entries) == {
        ("train", "good"): 8,
        # Held-out normals and their controls.
        ("test", "good"): 2 + 2,
        ("test", "missing"): 2,
        ("test", "extra"): 2,
    }
    wanted = originals(version)
    ids = {row["file"]: sample_id(row) for row in lineage(tmp_path / "tray")}
    for entry in listing.entries:
        image, mask = wanted[ids[entry.name]]
        found = load_test(entry, version.image_size)
        np.testing.assert_array_equal(found.pixels_HW3, image)
        np.testing.assert_array_equal(found.masks_KHW.any(0), mask if mask is not None else False)


@pytest.mark.parametrize("to", ["mvtec", "anomalib"])
def test_no_sample_of_a_training_image_is_tested(version, to, tmp_path):
    report = export(version, to, tmp_path / "held-out")
    trained = {
        r["record"]["digest"] for r in lineage(tmp_path / "held-out") if r["split"] == "train"
    }
    tested = [r for r in lineage(tmp_path / "held-out") if r["role"] == "edited"]
    assert tested
    assert not trained & {row["record"]["source"]["digest"] for row in tested}
    assert report.left_out == {"made from training images": 8 * 3}
    assert report.notes == ()
    report = export(version, to, tmp_path / "all", ALL)
    assert report.left_out == {}
    assert report.images == 10 + 10 * 3


def test_without_validation_images_the_readme_says_what_the_test_side_is(tmp_path):
    small = small_version(tmp_path / "store", images=3)
    report = export(small, "mvtec", tmp_path / "out")
    assert any("training images" in note for note in report.notes)
    assert "training images" in (tmp_path / "out" / CARD).read_text()
    assert len(list((tmp_path / "out" / "test" / "missing").iterdir())) == 3


def test_controls_are_good_images_or_left_out(version, tmp_path):
    kinds = {"with": Counter(), "without": Counter()}
    for name, options in ("with", ExportOptions()), ("without", ExportOptions(controls=False)):
        export(version, "mvtec", tmp_path / name, options)
        kinds[name] = Counter(row["kind"] for row in lineage(tmp_path / name))
        assert not (tmp_path / name / "ground_truth" / "control_noop").exists()
    assert kinds["with"] - kinds["without"] == {"control_noop": 2}


def test_real_defects_stay_apart_from_synthetic_kinds(tmp_path):
    named = [replace(real_image(n), defect=d) for n, d in enumerate(("good", "missing", "scratch"))]
    results = [image_result(n) for n in range(5)]
    version = publish(tmp_path / "store", "tray", results, named, header(), gallery=False)
    export(version, "mvtec", tmp_path / "both", BOTH)
    assert {path.name for path in (tmp_path / "both" / "test").iterdir()} == {
        "good", "missing", "extra", "real_missing", "scratch",
    }  # fmt: skip
    report = export(version, "anomalib", tmp_path / "real", REAL)
    names = {path.name for path in (tmp_path / "real" / "abnormal").iterdir()}
    assert names == {"real_missing-test_bad_001.png", "scratch-test_bad_002.png"}
    assert report.left_out["synthetic test data, not asked for"] == 1 + 5 * 3
    export(version, "coco", tmp_path / "coco")
    labels = json.loads((tmp_path / "coco" / "annotations" / "instances_test.json").read_text())
    named_ids = {row["id"]: row["name"] for row in labels["categories"]}
    assert [named_ids[a["category_id"]] for a in labels["annotations"]] == ["real_missing"] + [
        "scratch"
    ] * 2


def test_a_defect_without_ground_truth_gets_no_mask_and_a_note(tmp_path):
    results = [image_result(n) for n in range(5)]
    blind = [replace(real_image(n), defect=d) for n, d in ((0, "CNV"), (3, "good"))]
    version = publish(tmp_path / "store", "oct", results, blind, header(), gallery=False)
    report = export(version, "anomalib", tmp_path / "out", REAL)
    assert any("no ground-truth mask" in note for note in report.notes)
    assert not (tmp_path / "out" / "mask").exists()
    assert "mask_dir" not in (tmp_path / "out" / "anomalib.yaml").read_text()


def test_images_and_masks_of_the_anomalib_tree_share_names(version, tmp_path):
    export(version, "anomalib", tmp_path)
    names = {
        folder: {p.name for p in (tmp_path / folder).iterdir()} for folder in ("abnormal", "mask")
    }
    assert names["abnormal"] == names["mask"]
    data = YAML(typ="safe").load((tmp_path / "anomalib.yaml").read_text())
    folders = [value for key, value in data["init_args"].items() if key.endswith("_dir")]
    assert sorted(folders) == ["abnormal", "mask", "normal", "normal_test"]
    assert all((tmp_path / folder).is_dir() for folder in folders)


# -- the command -------------------------------------------------------------------------------


def run(*words: Any, capsys, monkeypatch) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["anomalysmith", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


def test_the_command_reports_what_it_wrote(version, tmp_path, capsys, monkeypatch):
    words = ("export", version.dir, "--to", "anomalib", "--out", tmp_path / "out", "--json")
    code, out, _ = run(*words, capsys=capsys, monkeypatch=monkeypatch)
    printed = json.loads(out)
    assert code == 0
    assert (printed["to"], printed["cached"], printed["pictures"]) == ("anomalib", False, 8 + 2 + 6)
    assert printed["left_out"] == {"made from training images": 24}
    assert printed["licence"] == "CC BY-NC-SA 4.0"
    assert Path(printed["out"]) == tmp_path / "out"
    code, out, _ = run(*words, capsys=capsys, monkeypatch=monkeypatch)
    assert json.loads(out)["cached"]
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, check=False
    )
    assert checked.returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "yolo"), "--to: expected one of mvtec, anomalib"),
        (("--to", "coco", "--samples", "all"), "every split under its own name"),
        (("--to", "mvtec", "--samples", "some"), "--samples: expected one of"),
        (("--to", "mvtec", "--test", "none"), "--test: expected one of"),
    ],
)
def test_a_user_error_is_one_line(version, words, message, tmp_path, capsys, monkeypatch):
    words = ("export", version.dir, "--out", tmp_path / "out", *words)
    code, out, err = run(*words, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_real_test_side_needs_a_real_test_split(tmp_path):
    small = small_version(tmp_path / "store", images=5, tests=0)
    with pytest.raises(UserError, match="no real test split"):
        export(small, "mvtec", tmp_path / "out", REAL)
    assert not (tmp_path / "out").exists()

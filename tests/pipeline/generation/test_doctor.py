"""The doctor opens every file and reports what is bad, what is missing and how to get it."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.commands.doctor import as_text
from pipeline.config.manifest import manifest_for_source, override, read_manifest, resolve
from pipeline.generation.doctor import DoctorReport, examine, inspect
from pipeline.models import hardware
from pipeline.models.weights import store as weights


@pytest.fixture(autouse=True)
def _small_models(tmp_path, monkeypatch):
    """Every bundled model is found, as in a complete checkout, whatever is trained already."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for entry in weights.entries():
        if entry.bundled:
            (folder / entry.file).write_bytes(b"weights")
    monkeypatch.setattr(weights, "BUNDLED", folder)
    monkeypatch.setattr(weights, "folders", lambda: (tmp_path / "cache",))


def good_category(root: Path) -> Path:
    """Ten normals and one defective test image with its mask, 64 px."""
    rng = np.random.default_rng(0)
    places = [f"train/good/{n:03}.png" for n in range(10)] + ["test/cut/000.png"]
    for place in places:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    marked_HW = np.zeros((64, 64), np.uint8)
    marked_HW[10:20, 10:20] = 255
    (root / "ground_truth/cut").mkdir(parents=True)
    Image.fromarray(marked_HW).save(root / "ground_truth/cut/000_mask.png")
    return root


def report_on(root: Path, **overrides: object) -> DoctorReport:
    overrides = {"store": str(root.parent / "store"), "image_size": 64} | overrides
    return inspect(manifest_for_source("mvtec_ad", root, **overrides))


def test_a_sound_category_is_ready(tmp_path):
    report = report_on(good_category(tmp_path / "nut"))
    (nut,) = report.categories
    assert report.exit_code == 0
    assert not report.missing
    assert nut.splits == {"train": 9, "validation": 1, "test": 1}
    assert nut.test == {"cut": 1}
    assert nut.sizes == {"64x64": 11}
    assert nut.modes == {"RGB": 11}
    assert nut.masks == 1
    assert not nut.bad
    assert nut.models["foreground"].startswith("bundled (")
    assert report.store_writable
    assert report.free_gigabytes > 0
    text = as_text(report)
    assert "nut: mvtec_ad at" in text
    assert text.endswith("ready")
    assert "anomalysmith weights pull u2net" in text


def test_the_report_is_plain_json(tmp_path):
    report = report_on(good_category(tmp_path / "nut"))
    plain = json.loads(json.dumps(dataclasses.asdict(report)))
    assert plain["categories"][0]["splits"]["train"] == 9


def test_bad_files_are_named_and_the_exit_code_says_so(tmp_path):
    root = good_category(tmp_path / "nut")
    (root / "train/good/000.png").write_bytes(b"")
    (root / "train/good/001.png").write_bytes((root / "train/good/002.png").read_bytes()[:400])
    Image.new("L", (32, 32)).save(root / "ground_truth/cut/000_mask.png")
    report = report_on(root)
    bad = {file.name: file.reason for file in report.categories[0].bad}
    assert report.exit_code == 3
    assert bad["train/good/000.png"] == "the file has zero bytes; copy it again"
    assert bad["train/good/001.png"].startswith("damaged or truncated")
    assert "the mask is 32 x 32 px, its image 64 x 64 px" in bad["test/cut/000.png"]
    assert report.categories[0].sizes == {"64x64": 9}
    text = as_text(report)
    assert "bad         train/good/000.png: the file has zero bytes" in text
    assert text.endswith("ready; 3 files would be skipped")


def test_implausible_masks_are_questioned_with_their_share(tmp_path):
    root = good_category(tmp_path / "nut")
    image = (root / "test/cut/000.png").read_bytes()
    inverted_HW = np.full((64, 64), 255, np.uint8)
    inverted_HW[10:26, 10:26] = 0
    masks = {"001": np.zeros((64, 64), np.uint8), "002": inverted_HW, "003": inverted_HW | 255}
    for stem, mask_HW in masks.items():
        (root / f"test/cut/{stem}.png").write_bytes(image + stem.encode())
        Image.fromarray(mask_HW).save(root / f"ground_truth/cut/{stem}_mask.png")
    report = report_on(root)
    doubts = report.categories[0].doubts
    assert [(doubt.name, round(doubt.share, 4)) for doubt in doubts] == [
        ("test/cut/001.png", 0), ("test/cut/002.png", 0.9375), ("test/cut/003.png", 1),
    ]  # fmt: skip
    text = as_text(report)
    assert "test/cut/001.png: the mask is empty (0.0% of the image is marked)" in text
    assert "the mask looks inverted: it marks the border of the image (93.8% of" in text
    assert "test/cut/003.png: the mask is full (100.0%" in text
    assert text.endswith("ready; 3 masks are implausible")


def test_a_test_split_without_a_good_image_is_said_loudly(tmp_path):
    report = report_on(good_category(tmp_path / "nut"))
    assert "NO GOOD TEST IMAGE: all 1 are defective (cut)" in as_text(report)


def test_a_folder_with_defects_is_refused_unless_all_are_said_to_be_normal(tmp_path):
    root = good_category(tmp_path / "nut") / "test"
    (root / "good").mkdir()
    (root / "good/000.png").write_bytes((root / "cut/000.png").read_bytes())
    manifest = manifest_for_source("folder", root, store=str(tmp_path / "store"))
    report = inspect(manifest)
    assert report.exit_code == 2
    assert f"use mvtec_ad:{tmp_path / 'nut'}; if every image is good" in report.missing[0]
    (settings,) = (override(resolve(manifest, name), all_normal=True) for name in ("test",))
    assert examine([settings]).exit_code == 0


def test_copies_leaks_small_and_dark_images_are_noted(tmp_path):
    root = good_category(tmp_path / "nut")
    same = (root / "train/good/000.png").read_bytes()
    (root / "train/good/copy.png").write_bytes(same)
    (root / "test/good").mkdir()
    (root / "test/good/000.png").write_bytes(same)
    Image.fromarray(np.full((64, 64), 8191, np.uint16)).save(root / "train/good/deep.png")
    report = report_on(root, image_size=128)
    notes = "\n".join(report.categories[0].notes)
    assert "14 images are smaller than image_size 128x128" in notes
    assert "1 test images are copies of training images: test/good/000.png = train/good/" in notes
    assert "1 normals are copies of other normals" in notes
    assert "16-bit images use only their lower bits" in notes
    assert report.exit_code == 0


def test_what_is_missing_says_how_to_get_it(tmp_path):
    (tmp_path / "nut").mkdir()
    blocked = tmp_path / "file"
    blocked.write_text("")
    report = report_on(
        tmp_path / "nut",
        store=str(blocked / "store"),
        models={"proposals": {"backend": "vit_b"}},
    )
    assert report.exit_code == 2
    missing = "\n".join(report.missing)
    assert "nut: not in the mvtec_ad layout" in missing
    assert "run `anomalysmith weights pull sam-vit-b`" in missing
    assert "cannot be written to; set `store` to another folder" in missing
    text = as_text(report)
    assert "to fix first" in text
    assert "NOT WRITABLE" in text


def test_scenes_that_are_not_rendered_yet_are_no_fault(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("sources: {r: {kind: scenes, path: s}}\ncategories: {tray: {source: r}}\n")
    report = inspect(read_manifest(path))
    assert report.categories[0].to_render
    assert report.exit_code == 0
    assert "8 train, 2 validation; rendered on the first run" in as_text(report)


def test_progress_counts_the_files(tmp_path):
    root = good_category(tmp_path / "nut")
    seen: list[tuple[int, int]] = []
    inspect(manifest_for_source("mvtec_ad", root), progress=lambda *step: seen.append(step))
    assert seen == [(number, 11) for number in range(1, 12)]


def test_an_explicit_gpu_that_is_not_there_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "nvidia_gpus", lambda: ())
    report = report_on(good_category(tmp_path / "nut"), models={"device": "cuda"})
    assert report.device == "cuda: not available"
    assert "shows no NVIDIA GPU" in report.missing[0]


def test_a_gpu_is_named_and_left_to_pytorch(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "nvidia_gpus", lambda: ("NVIDIA H200",))
    report = report_on(good_category(tmp_path / "nut"))
    assert report.device == "NVIDIA H200 by the driver; `doctor --deep` asks PyTorch"


def test_models_are_run_on_request(tmp_path, monkeypatch):
    monkeypatch.undo()
    wanted = {"foreground": "bundled", "proposals": "small", "features": "bundled"}
    wanted["inpaint"] = "telea"
    chosen = {stage: {"backend": backend} for stage, backend in wanted.items()}
    root = good_category(tmp_path / "nut")
    settings = resolve(manifest_for_source("mvtec_ad", root, models=chosen, image_size=64), "nut")
    (nut,) = examine([settings], deep=True).categories
    assert re.fullmatch(
        r"000.png: \d+ objects found and one removed in [\d.]+ s, models loaded in [\d.]+ s",
        nut.tried,
    )


def test_models_that_do_not_run_are_found_on_request(tmp_path):
    # The weights of these tests are no weights.
    settings = resolve(manifest_for_source("mvtec_ad", good_category(tmp_path / "nut")), "nut")
    report = examine([settings], deep=True)
    assert report.categories[0].tried == "failed"
    assert "nut: the models do not run here" in report.missing[0]
    assert report.exit_code == 2

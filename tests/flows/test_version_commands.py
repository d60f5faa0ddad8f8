"""`verify`, `show`, `stats` and `gallery` on a published version."""

import json
import shutil
from pathlib import Path

from PIL import Image


def test_verify_proves_a_version_and_finds_a_flipped_bit(anomalysmith, finished, tmp_path):
    good = anomalysmith("verify", finished["version_dir"], "--regenerate", 2, "--json")
    assert good.code == 0, good.err
    assert good.json["ok"]
    assert good.json["checks"]["regenerated samples"] == 2
    copy = shutil.copytree(finished["version_dir"], tmp_path / "copy")
    shard = copy / "shard-0000.h5"
    bytes_ = bytearray(shard.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    shard.write_bytes(bytes_)
    bad = anomalysmith("verify", copy, "--json")
    assert bad.code == 4
    assert not bad.json["ok"]
    assert "shard-0000.h5" in bad.err


def test_show_prints_the_lineage_and_draws_the_sample(anomalysmith, finished, tmp_path):
    run = anomalysmith("show", finished["version_dir"], 0, "--out", tmp_path / "sample.png")
    assert run.code == 0
    lineage = json.loads(run.out)
    assert lineage["dataset_digest"] == finished["digest"]
    assert lineage["source"]["name"].endswith(".png")
    with Image.open(tmp_path / "sample.png") as image:
        assert image.size == (3 * 128 + 16, 128 + 16)  # three images, labels above
    same = anomalysmith(
        "show", finished["version_dir"], lineage["id"], "--out", tmp_path / "again.png"
    )
    assert json.loads(same.out) == lineage
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sample.png").read_bytes()
    missing = anomalysmith("show", finished["version_dir"], "nobody")
    assert missing.code == 2
    assert "nobody" in missing.err


def test_stats_and_gallery_answer(anomalysmith, finished):
    figures = anomalysmith("stats", finished["version_dir"], "--json").json
    assert figures["images"] == 3
    assert "missing" in anomalysmith("stats", finished["version_dir"]).out
    page = anomalysmith("gallery", finished["version_dir"])
    assert Path(page.out.strip()).is_file()
    assert anomalysmith("verify", finished["version_dir"]).code == 0

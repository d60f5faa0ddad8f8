"""An image whose name is no UTF-8, through every command that reads, stores or shows names."""

import csv
import json
import os
from pathlib import Path

import pytest

from pipeline.utils.names import path_of

# The name in `flows/conftest.py`, as every file and page of ours writes it.
NAME = r"\xb2\xe2\xca\xd4.png"


@pytest.fixture(scope="module")
def version(finished) -> str:
    return finished["version_dir"]


def test_doctor_and_a_dry_run_take_it(anomalysmith, parts):
    run = anomalysmith("doctor", "--source", f"folder:{parts}", "--json")
    (category,) = run.json["categories"]
    assert sum(category["splits"].values()) == 3
    assert category["bad"] == []


def test_it_is_in_the_version_its_gallery_and_its_exports(anomalysmith, version, parts, tmp_path):
    # Of the samples of three images, the first one made from this image.
    shown = (anomalysmith("show", version, n, "--out", tmp_path / "s.png").out for n in range(12))
    records = (json.loads(text) for text in shown if text)
    found = next(record for record in records if record["source"]["name"] == NAME)
    assert (parts / path_of(found["source"]["name"])).is_file()
    again = anomalysmith("show", version, found["id"], "--out", tmp_path / "s.png")
    assert json.loads(again.out) == found
    page = anomalysmith("gallery", version).out.strip()
    assert NAME in Path(page).read_text("utf-8")
    assert anomalysmith("export", version, "--to", "coco", "--out", tmp_path / "coco").code == 0
    assert json.dumps(NAME)[1:-1] in (tmp_path / "coco" / "lineage.jsonl").read_text("utf-8")


def test_a_detector_is_trained_on_it_and_scores_it(anomalysmith, version, parts, tmp_path):
    out = tmp_path / "run"
    small = ("--profile", "tiny", "--size", "64", "--device", "cpu", "--set", "bank=64")
    run = anomalysmith("train", "--detector", "nearest", *small, "--version", version, "--out", out)
    assert run.code == 0, run.err
    table = tmp_path / "scores.csv"
    run = anomalysmith("predict", "--checkpoint", out, parts, "--csv", table, "--device", "cpu")
    assert run.code == 0, run.err
    assert NAME in run.out
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [os.fspath(path_of(row["path"])) for row in rows] == [
        os.fspath(path) for path in sorted(parts.iterdir())
    ]


def test_a_source_of_that_name_is_one(anomalysmith, parts, tmp_path):
    folder = tmp_path / os.fsdecode(b"parts\xb2")
    folder.symlink_to(parts)
    words = ("generate", "--source", f"folder:{tmp_path}/{folder.name}", "--dry-run", "--json")
    assert anomalysmith(*words, "--store", tmp_path).json["images"] == 3
    odd = anomalysmith(*words[:-2], "--store", tmp_path / os.fsdecode(b"store\xb2"))
    assert odd.code == 2
    assert "not UTF-8" in odd.err

"""Each export format against its specification, read by independent code."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ruamel.yaml import YAML
from small_exports import exportable, files, lineage, members, originals, pixels, sample_id
from small_results import header, small_version

from pipeline.dataset.files import CARD
from pipeline.dataset.version import Version
from pipeline.export.base import ExportOptions
from pipeline.export.coco import annotation, compress, run_lengths
from pipeline.export.folder import export_folder
from pipeline.export.run import export
from pipeline.export.webdataset import write_webdataset
from pipeline.sources.licences import NOT_STATED, terms_of


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return exportable(tmp_path_factory.mktemp("store"))


# -- COCO --------------------------------------------------------------------------------------


def decode(text: str, height: int, width: int) -> np.ndarray:
    """COCO's encoding inverted, one character at a time."""
    runs: list[int] = []
    value = place = 0
    for byte in (ord(letter) - 48 for letter in text):
        value, place = value | (byte & 31) << place, place + 5
        if not byte & 32:
            value -= (1 << place) if byte & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = place = 0
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    return flat.reshape(width, height).T.astype(bool)


@given(arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_decode_to_the_mask(mask):
    runs = run_lengths(mask)
    assert sum(runs) == mask.size
    assert all(run > 0 for run in runs[1:])
    np.testing.assert_array_equal(decode(compress(runs), *mask.shape), mask)


def test_long_runs_are_written_in_several_groups():
    mask = np.zeros((900, 700), np.bool_)
    mask[13:880, 5:690] = True
    np.testing.assert_array_equal(decode(compress(run_lengths(mask)), 900, 700), mask)
    described = annotation(mask)
    assert described["bbox"] == [5, 13, 685, 867]
    assert described["area"] == 685 * 867


def test_coco_annotates_every_anomaly_and_nothing_else(version, tmp_path):
    export(version, "coco", tmp_path)
    wanted, seen, categories = originals(version), set(), []
    for split in ("train", "validation", "test"):
        data = json.loads((tmp_path / "annotations" / f"instances_{split}.json").read_text())
        categories.append(data["categories"])
        regions: dict[int, np.ndarray] = {}
        for a in data["annotations"]:
            region = decode(a["segmentation"]["counts"], *a["segmentation"]["size"])
            assert a["area"] == region.sum()
            regions[a["image_id"]] = regions.get(a["image_id"], False) | region
        for image in data["images"]:
            assert (tmp_path / "images" / split / image["file_name"]).is_file()
            truth = wanted[image["sample_id"]][1]
            assert (image["id"] in regions) == (truth is not None) == bool(image["label"])
            if truth is not None:
                np.testing.assert_array_equal(regions[image["id"]], truth)
            seen.add(image["id"])
    assert len(seen) == len(wanted)
    assert categories[0] == categories[1] == categories[2]
    assert [row["name"] for row in categories[0]] == ["extra", "missing", "logical"]


# -- Hugging Face, WebDataset, FiftyOne --------------------------------------------------------


def test_every_row_of_the_image_folder_has_its_files_and_the_same_columns(version, tmp_path):
    export(version, "hf", tmp_path)
    columns, listed = set(), set()
    for table in tmp_path.glob("*/metadata.jsonl"):
        for row in map(json.loads, table.read_text().splitlines()):
            columns.add(tuple((name, type(value)) for name, value in row.items()))
            for name in ("file_name", "mask_file_name", "original_file_name"):
                listed.add((table.parent / row[name]).relative_to(tmp_path).as_posix())
    assert len(columns) == 1
    assert listed == {name for name in files(tmp_path) if name.endswith(".png")}


def test_originals_are_stored_beside_the_edited_images(version, tmp_path):
    export(version, "hf", tmp_path)
    before = {record["id"]: original for original, _, _, record in version.samples()}
    rows = [row for row in lineage(tmp_path) if row["role"] == "edited"]
    assert len(rows) == len(before)
    for row in rows:
        np.testing.assert_array_equal(pixels(tmp_path / row["original"]), before[sample_id(row)])


def test_the_hub_reads_the_header_of_the_card(version, tmp_path):
    export(version, "hf", tmp_path)
    _, front, _ = (tmp_path / CARD).read_text().split("---\n", 2)
    card = YAML(typ="safe").load(front)
    assert card["license"] == "cc-by-nc-sa-4.0"
    found = {row["split"]: row["path"] for row in card["configs"][0]["data_files"]}
    assert found == {split: f"{split}/**" for split in ("train", "validation", "test")}


def test_tar_headers_have_no_time_and_no_owner(version, tmp_path):
    export(version, "webdataset", tmp_path)
    shards = sorted(tmp_path.glob("*.tar"))
    assert [shard.name for shard in shards] == [
        f"{family}-000000.tar"
        for family in (
            "test-real", "train-edited", "train-normal", "validation-edited", "validation-normal",
        )
    ]  # fmt: skip
    for shard in shards:
        with tarfile.open(shard) as tar:
            infos = tar.getmembers()
        assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in infos} == {
            (0, 0, 0, "", "", 0o644)
        }
        # A record is the members with the same name up to the first dot; they are adjacent.
        parts: dict[str, list[str]] = {}
        for info in infos:
            key, _, ending = info.name.partition(".")
            assert key == list(parts)[-1] if key in parts else True
            parts.setdefault(key, []).append(ending)
        assert len({tuple(endings) for endings in parts.values()}) == 1


def test_a_full_shard_is_followed_by_the_next(version, tmp_path):
    with export_folder(tmp_path / "out") as folder:
        write_webdataset(version, ExportOptions(), folder, shard_bytes=20_000)
        folder.finish({})
    shards = sorted((tmp_path / "out").glob("train-edited-*.tar"))
    assert len(shards) > 2
    assert [shard.name for shard in shards] == [
        f"train-edited-{number:06d}.tar" for number in range(len(shards))
    ]
    keys = [name.split(".")[0] for shard in shards for name in members(shard)]
    assert len(set(keys)) == 8 * 3
    assert len(keys) == 8 * 3 * 4


def test_fiftyone_finds_each_mask_at_the_path_of_its_image(version, tmp_path):
    # The documented rule of ImageSegmentationDirectory: the same path below data/ and labels/.
    export(version, "fiftyone", tmp_path)
    data = {p.relative_to(tmp_path / "data") for p in (tmp_path / "data").rglob("*.png")}
    labels = {p.relative_to(tmp_path / "labels") for p in (tmp_path / "labels").rglob("*.png")}
    rows = lineage(tmp_path)
    assert data == {Path(row["file"]).relative_to("data") for row in rows}
    assert labels == {Path(row["file"]).relative_to("data") for row in rows if row["label"]}
    assert all(Path(row["file"]).parts[1:3] == (row["split"], row["kind"]) for row in rows)


# -- licences ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("licence", "kind", "hub", "says", "says_not"),
    [
        ("CC BY-NC-SA 4.0", "mvtec_ad", "cc-by-nc-sa-4.0", "MVTec AD, https", "rendered"),
        ("CC BY-NC-SA 4.0", "mvtec_loco", "cc-by-nc-sa-4.0", "MVTec LOCO AD", "MVTec AD,"),
        ("CC BY 4.0", "retinal_oct", "cc-by-4.0", "Kermany", "Commercial"),
        ("CC0-1.0", "folder", "cc0-1.0", "publicdomain/zero", "Credit"),
        ("Apache-2.0 (rendered)", "mvtec_loco", "apache-2.0", "Apache-2.0 (rendered)", "MVTec"),
        ("CC BY 4.0", "mvtec_ad", "cc-by-4.0", "licenses/by/4.0", "MVTec"),
        ("proprietary <b>", "folder", "other", "proprietary &lt;b>", "Ask"),
        ("unknown", "folder", "unknown", NOT_STATED, "Commercial"),
        ("", "folder", "unknown", "Ask the owner", "Credit"),
    ],
)
def test_terms_state_what_a_licence_requires(licence, kind, hub, says, says_not):
    terms = terms_of({"licence": licence, "settings": {"kind": kind}})
    assert terms.hub == hub
    assert says in terms.sentences()
    assert says_not not in terms.sentences()


def test_an_unknown_licence_gives_a_note(tmp_path):
    version = small_version(tmp_path / "store", images=5, head=header(licence="unknown"))
    report = export(version, "hf", tmp_path / "out")
    assert any("licence" in note for note in report.notes)
    assert "license: unknown" in (tmp_path / "out" / CARD).read_text()

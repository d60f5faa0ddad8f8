"""Every export opened by the tool that it is for, and the Croissant file read by mlcroissant.

The tools are not part of the project's environment: `make test-peers` lays them beside it. A test
whose tool is missing is skipped.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from small_results import header, image_result, real_image

from pipeline.dataset.version import Version
from pipeline.export.base import ExportOptions
from pipeline.export.run import export
from pipeline.generation.publish import publish

SIZE = (48, 64)
HOW = "not installed here; `make test-peers` does it"
BY_HAND = "not installed here, and in no lock of ours: docs/export.md says why"
# Formats whose README has code that runs without a server, and what it imports.
NEEDED = {
    "mvtec": "anomalib.data",
    "anomalib": "anomalib.data",
    "coco": "pycocotools.coco",
    "hf": "datasets",
    "webdataset": "webdataset",
}


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Fifteen images, three of them held out, each with two anomalies and a control; real ones."""
    return publish(
        tmp_path_factory.mktemp("store"),
        "tray",
        (image_result(n, SIZE) for n in range(15)),
        (real_image(n, SIZE) for n in range(6)),
        header(settings={"kind": "mvtec_ad"}, licence="CC BY-NC-SA 4.0"),
        gallery=False,
    )


def truth(version: Version) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Id to pixels and mask, from the reader."""
    nothing = np.zeros(version.image_size, np.bool_)
    found = {record["name"]: (image, nothing) for image, record in version.images()}
    for _, edited, mask, record in version.samples():
        found[record["id"]] = edited, mask if record["label"] else nothing
    for image, masks, _, record in version.test_images():
        found[record["name"]] = image, masks.any(0)
    return found


def ids(out: Path) -> dict[str, str]:
    """Absolute file name to id."""
    rows = map(json.loads, (out / "lineage.jsonl").read_text().splitlines())
    return {
        str(out / row["file"]): row["record"].get("id", row["record"].get("name")) for row in rows
    }


def check_anomalib(version: Version, out: Path, data: Any) -> None:
    """Sizes of the sides, and every test image and mask, as anomalib loads them."""
    data.setup()
    assert len(data.train_data) == 12
    wanted, names = truth(version), ids(out)
    # The validation side may be the test side or half of it, so paths are counted once.
    labels: dict[str, bool] = {}
    for loader in (data.test_dataloader(), data.val_dataloader()):
        for batch in loader:
            for path, image, mask, label in zip(
                batch.image_path, batch.image, batch.gt_mask, batch.gt_label, strict=True
            ):
                pixels, changed = wanted[names[path]]
                np.testing.assert_array_equal(
                    (image * 255).round().numpy(), np.moveaxis(pixels, 2, 0)
                )
                np.testing.assert_array_equal(mask.bool().numpy(), changed)
                labels[path] = bool(label)
    assert Counter(labels.values()) == {False: 3 + 3, True: 3 * 2}


def test_anomalib_opens_the_folders(version, tmp_path):
    data = pytest.importorskip("anomalib.data", reason=HOW)
    export(version, "anomalib", tmp_path / "out")
    check_anomalib(
        version,
        tmp_path / "out",
        data.Folder(
            name="tray",
            root=tmp_path / "out",
            normal_dir="normal",
            abnormal_dir="abnormal",
            normal_test_dir="normal_test",
            mask_dir="mask",
            num_workers=0,
        ),
    )


def test_anomalib_makes_the_data_from_the_configuration(version, tmp_path, monkeypatch):
    data = pytest.importorskip("anomalib.data", reason=HOW)
    export(version, "anomalib", tmp_path / "out")
    # The root in the configuration is the working directory.
    monkeypatch.chdir(tmp_path / "out")
    module = data.get_datamodule(YAML(typ="safe").load(Path("anomalib.yaml")))
    assert isinstance(module, data.Folder)
    module.setup()
    assert len(module.train_data) == 12


def test_anomalib_opens_the_mvtec_tree(version, tmp_path):
    data = pytest.importorskip("anomalib.data", reason=HOW)
    export(version, "mvtec", tmp_path / "tray")
    module = data.MVTecAD(root=tmp_path, category="tray", num_workers=0)
    check_anomalib(version, tmp_path / "tray", module)


@pytest.mark.slow
def test_anomalib_trains_and_tests_on_the_folders(version, tmp_path, monkeypatch):
    pytest.importorskip("anomalib", reason=HOW)
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Padim

    export(version, "anomalib", tmp_path / "out", ExportOptions(samples="all"))
    monkeypatch.chdir(tmp_path)
    model = Padim(backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=16)
    data = Folder(
        name="tray",
        root=tmp_path / "out",
        normal_dir="normal",
        abnormal_dir="abnormal",
        normal_test_dir="normal_test",
        mask_dir="mask",
        num_workers=0,
    )
    engine = Engine(accelerator="cpu", devices=1, default_root_dir=tmp_path / "runs", logger=False)
    engine.fit(model=model, datamodule=data)
    (measured,) = engine.test(model=model, datamodule=data)
    assert 0 <= measured["image_AUROC"] <= 1
    assert 0 <= measured["pixel_AUROC"] <= 1


def test_pycocotools_decodes_every_mask(version, tmp_path):
    coco_module = pytest.importorskip("pycocotools.coco", reason=HOW)
    export(version, "coco", tmp_path)
    wanted, annotated = truth(version), 0
    for split in ("train", "validation", "test"):
        coco = coco_module.COCO(str(tmp_path / "annotations" / f"instances_{split}.json"))
        for image in coco.loadImgs(coco.getImgIds()):
            rows = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            found = np.zeros(version.image_size, np.bool_)
            for row in rows:
                mask = coco.annToMask(row)
                assert mask.sum() == row["area"]
                found |= mask.astype(np.bool_)
            annotated += len(rows)
            np.testing.assert_array_equal(found, wanted[image["sample_id"]][1])
    assert annotated == 15 * 2 + (1 + 2) * 2


def test_pycocotools_writes_the_same_run_lengths():
    mask_module = pytest.importorskip("pycocotools.mask", reason=HOW)
    from pipeline.export.coco import annotation

    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 40), (40, 1), (33, 57), (300, 400)):
        for share in (0.0, 0.01, 0.5, 1.0):
            mask = rng.random((height, width)) < share
            theirs = mask_module.encode(np.asfortranarray(mask.astype(np.uint8)))
            ours = annotation(mask)
            assert ours["segmentation"]["counts"] == theirs["counts"].decode()
            assert ours["segmentation"]["size"] == theirs["size"]
            assert ours["area"] == mask_module.area(theirs)
            if mask.any():
                assert ours["bbox"] == mask_module.toBbox(theirs).tolist()


@pytest.mark.parametrize("by_folder", [True, False])
def test_datasets_loads_images_masks_and_originals(version, tmp_path, by_folder):
    datasets = pytest.importorskip("datasets", reason=HOW)
    out = tmp_path / "out"
    export(version, "hf", out)
    how = {"path": "imagefolder", "data_dir": str(out)} if by_folder else {"path": str(out)}
    loaded = datasets.load_dataset(**how, cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {
        "train": 12 * 4, "validation": 3 * 4, "test": 6,
    }  # fmt: skip
    wanted = truth(version)
    before = {record["id"]: original for original, _, _, record in version.samples()}
    for split in loaded.values():
        for row in split:
            pixels, changed = wanted[row["sample_id"]]
            np.testing.assert_array_equal(np.asarray(row["image"]), pixels)
            np.testing.assert_array_equal(np.asarray(row["mask"]), changed * np.uint8(255))
            original = before.get(row["sample_id"], pixels)
            np.testing.assert_array_equal(np.asarray(row["original"]), original)
            assert row["label"] == int(changed.any())


def test_webdataset_groups_the_members_of_each_record(version, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason=HOW)
    export(version, "webdataset", tmp_path)
    wanted, seen = truth(version), Counter()
    for shard in sorted(tmp_path.glob("*.tar")):
        records = webdataset.WebDataset(str(shard), shardshuffle=False).decode("rgb8")
        for record in records:
            facts = record["json"]
            pixels, changed = wanted[facts["sample_id"]]
            np.testing.assert_array_equal(record["image.png"], pixels)
            # Decoded as RGB like every image.
            if "mask.png" in record:
                np.testing.assert_array_equal(record["mask.png"][:, :, 0], changed * np.uint8(255))
            assert ("original.png" in record) == (facts["role"] == "edited")
            seen[facts["split"], facts["role"]] += 1
    assert seen == {
        ("train", "normal"): 12, ("train", "edited"): 36,
        ("validation", "normal"): 3, ("validation", "edited"): 9, ("test", "real"): 6,
    }  # fmt: skip


def test_mlcroissant_reads_the_metadata_without_a_warning(version):
    mlcroissant = pytest.importorskip("mlcroissant", reason=HOW)
    described = mlcroissant.Dataset(jsonld=str(version.dir / "croissant.json"))
    issues = described.metadata.issues
    assert (sorted(issues.errors), sorted(issues.warnings)) == ([], [])
    assert described.metadata.license == ["https://creativecommons.org/licenses/by-nc-sa/4.0/"]
    read = list(described.records("attempts"))
    assert len(read) == len(version.attempts())
    for mine, theirs in zip(version.attempts(), read, strict=True):
        assert theirs["attempts/image"].decode() == mine["image"]
        assert theirs["attempts/seed"] == mine["seed"]
        assert theirs["attempts/accepted"] == mine["accepted"]


@pytest.mark.parametrize("to", NEEDED)
def test_the_lines_in_the_readme_run(version, to, tmp_path, monkeypatch):
    pytest.importorskip(NEEDED[to], reason=HOW)
    export(version, to, tmp_path / "tray")
    monkeypatch.chdir(tmp_path / "tray")
    if to == "hf":
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    names = run_readme()
    if to in ("mvtec", "anomalib"):
        names["datamodule"].setup()
        assert len(names["datamodule"].train_data) == 12
    else:
        assert {
            "coco": lambda: len(names["masks"]) == 12 * 2,
            "hf": lambda: len(names["dataset"]["train"]) == 12 * 4,
            "webdataset": lambda: names["image"].shape == (*SIZE, 3),
        }[to]()


def run_readme() -> dict[str, Any]:
    """Run the first Python block of the README of the export that we are in; its variables."""
    block = Path("README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_fiftyones_importer_finds_every_image_and_mask(version, tmp_path):
    importers = pytest.importorskip("fiftyone.utils.data", reason=BY_HAND)
    export(version, "fiftyone", tmp_path)
    importer = importers.ImageSegmentationDirectoryImporter(
        dataset_dir=str(tmp_path), include_all_data=True
    )
    wanted, names, found = truth(version), ids(tmp_path), 0
    with importer:
        for path, _, label in importer:
            changed = wanted[names[path]][1]
            assert (label is None) == (not changed.any())
            if label is not None:
                with Image.open(label.mask_path) as mask:
                    np.testing.assert_array_equal(np.asarray(mask) == 255, changed)
            found += 1
    assert found == len(wanted)


def test_fiftyone_makes_a_dataset(version, tmp_path, monkeypatch):
    fiftyone = pytest.importorskip("fiftyone", reason=BY_HAND)
    export(version, "fiftyone", tmp_path)
    try:
        fiftyone.list_datasets()
    except Exception as error:
        pytest.skip(f"FiftyOne's MongoDB server does not start here: {type(error).__name__}")
    monkeypatch.chdir(tmp_path)
    dataset = run_readme()["dataset"]
    assert len(dataset) == len(truth(version))
    assert len(dataset.exists("mask")) == len(dataset.match({"anomalous": True})) == 15 * 2 + 4
    assert len(dataset.match_tags("validation")) == 3 * 4

"""Medical images in their public layout: from the folder to the report of a trained detector."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COUNTS = {
    "train/NORMAL": 8, "train/CNV": 1, "val/NORMAL": 2, "test/NORMAL": 3, "test/CNV": 2,
    "test/DME": 2, "test/DRUSEN": 2,
}  # fmt: skip
IMAGE = ("image_auroc", "image_ap", "image_f1", "precision_at_recall_90")
PIXEL = ("iap", "iap90", "pixel_auroc", "aupro", "spro")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark background and two bright layers, with a bump in the diseased ones."""
    root = tmp_path_factory.mktemp("source") / "retina"
    patient = 0
    for folder, count in COUNTS.items():
        label = folder.partition("/")[2]
        for number in range(count):
            patient += 1
            rng = np.random.default_rng(patient)
            y, x = np.mgrid[:80, :96]
            line = 40 + 6 * np.cos(x / 30) + rng.normal(0, 1)
            if label != "NORMAL":
                line = line - 10 * np.exp(-(((x - rng.integers(30, 66)) / 8) ** 2))
            grey = 30 + 150 * (np.abs(y - line) < 5) + 90 * (np.abs(y - line - 16) < 4)
            grey = np.clip(grey + rng.normal(0, 6, grey.shape), 0, 255).astype(np.uint8)
            path = root / folder / f"{label}-{patient}-{number + 1}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey).save(path)
    return root


@pytest.mark.slow
def test_scans_without_masks_get_image_metrics_only(anomalysmith, scans, tmp_path):
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(
        f"store: {tmp_path / 'store'}\nimage_size: 64\nedits:\n  per_image: 1\ncategories:\n"
        f"  retina:\n    source: retinal_oct\n    path: {scans}\n"
    )
    made = anomalysmith("generate", "--manifest", manifest, "--workers", 1, "--json")
    assert made.code in (0, 3), made.err
    (category,) = made.json["categories"]
    # The diseased eye in the training folder is not used as a normal image.
    assert category["images"] == 10
    run = anomalysmith(
        "train", "--detector", "glcf", "--profile", "tiny", "--size", 64, "--steps", 4,
        "--version", category["version_dir"], "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert (run.json["steps"], run.json["validation"]["normals"]) == (4, 2)
    found = anomalysmith(
        "evaluate", "--checkpoint", tmp_path / "run", "--version", category["version_dir"], "--json"
    )
    assert found.code == 0, found.err
    report = found.json
    assert all(0 <= report[name] <= 1 for name in IMAGE)
    assert set(report["per_type"]) >= {"CNV", "DME", "DRUSEN"}
    for name in PIXEL:
        assert report[name] is None, name
        assert report["notes"][name], name

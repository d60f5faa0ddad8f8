"""Builders of tiny source folders in the layouts of public data sets and of private ones."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

# One entry of defects_config.json.
DEFECT = {
    "defect_name": "missing_nut",
    "pixel_value": 249,
    "saturation_threshold": 10,
    "relative_saturation": False,
}


def write_image(path: Path, shade: int = 100, size: tuple[int, int] = (32, 24)) -> Path:
    """An RGB image of one grey level; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)
    return path


def write_mask(
    path: Path, value: int = 255, corner: int = 8, size: tuple[int, int] = (32, 24)
) -> Path:
    """A grey PNG with `value` in a square at the top left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey_HW = np.zeros(size[::-1], np.uint8)
    grey_HW[:corner, :corner] = value
    Image.fromarray(grey_HW).save(path)
    return path


def write_images(root: Path, *names: str) -> None:
    for name in names:
        write_image(root / name)


def mvtec_ad(root: Path) -> Path:
    write_images(root, *(f"train/good/{number:03}.png" for number in range(20)))
    write_images(root, "test/good/000.png", "test/crack/000.png", "test/crack/001.png")
    write_mask(root / "ground_truth/crack/000_mask.png")
    write_mask(root / "ground_truth/crack/001_mask.png")
    return root


def mvtec_loco(root: Path) -> Path:
    write_images(root, "train/good/000.png", "train/good/001.png", "validation/good/000.png")
    write_images(root, "test/good/000.png", "test/logical_anomalies/000.png")
    write_mask(root / "ground_truth/logical_anomalies/000/000.png", 249)
    write_mask(root / "ground_truth/logical_anomalies/000/001.png", 248, corner=12)
    types = [DEFECT, DEFECT | {"defect_name": "two_nuts", "pixel_value": 248}]
    (root / "defects_config.json").write_text(json.dumps(types))
    return root


def mpdd(root: Path) -> Path:
    """MVTec AD's tree, under the name of a category of MPDD."""
    return mvtec_ad(root / "tubes")


def btad(root: Path) -> Path:
    """Product 03: masks of .bmp images may be .png."""
    root /= "03"
    write_images(root, "train/ok/0000.bmp", "train/ok/0001.png", "test/ok/0000.bmp")
    write_images(root, "test/ko/0000.bmp", "test/ko/0001.bmp")
    write_mask(root / "ground_truth/ko/0000.png")
    write_mask(root / "ground_truth/ko/0001.bmp")
    return root


def visa(root: Path) -> Path:
    """The object candle, and the table of all objects beside it."""
    names = [("train", "normal", f"Normal/{n:04}.JPG") for n in range(4)]
    names += [("test", "normal", "Normal/0004.JPG"), ("test", "anomaly", "Anomaly/000.JPG")]
    rows = ["object,split,label,image,mask", "fryum,train,normal,fryum/Data/Images/Normal/0.JPG,"]
    for split, label, name in names:
        mask = "candle/Data/Masks/Anomaly/000.png" if label == "anomaly" else ""
        rows.append(f"candle,{split},{label},candle/Data/Images/{name},{mask}")
        write_image(root / "candle/Data/Images" / name)
    write_mask(root / "candle/Data/Masks/Anomaly/000.png", value=3)
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return root / "candle"


def ok_ng(root: Path) -> Path:
    """Ten good images, two kinds of defects, a mask for one of them."""
    write_images(root, *(f"OK/{number}.png" for number in range(10)))
    write_images(root, "NG/dent/0.png", "NG/scratch/0.png", "NG/scratch/1.png")
    write_mask(root / "masks/scratch/0_mask.png")
    return root

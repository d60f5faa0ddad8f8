"""Write rendered scenes in the exact layout of MVTec LOCO AD.

<root>/<product>/
  defects_config.json                       name, grey value and saturation of every defect type
  train/good, validation/good, test/good    NNN.png
  test/{logical,structural}_anomalies       NNN.png
  ground_truth/{logical,structural}_anomalies/NNN/KKK.png    one file per region, 0 elsewhere
  scene.json                                marker with the arguments, written last
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from scenes.records import Defect
from scenes.render import defect_table, pixel_value, render

MARKER = "scene.json"
_FOLDERS = {"logical": "logical_anomalies", "structural": "structural_anomalies"}
# Every data set seed owns a million scene seeds, and every split a hundred thousand of them, so no
# scene occurs twice.
_SEED_STRIDE, _SPLIT_STRIDE = 1_000_000, 100_000


def write_loco(
    root: Path,
    product: str,
    train: int,
    validation: int,
    test_good: int,
    per_defect: int,
    seed: int = 0,
    size: int = 512,
) -> Path:
    """Write one category and return its folder; the same arguments give the same bytes.

    Nothing is done when the folder is already complete for these arguments. A folder that this
    function did not write is never replaced: it raises FileExistsError.
    """
    table = defect_table(product)
    counts = {
        "train": train,
        "validation": validation,
        "test_good": test_good,
        "per_defect": per_defect,
    }
    for name, count in counts.items():
        if not 0 <= count < _SPLIT_STRIDE:
            raise ValueError(f"{name} must be 0 to {_SPLIT_STRIDE - 1}, got {count}")
    marker = {
        "product": product,
        **counts,
        "seed": seed,
        "size": size,
        "renderer": _renderer_digest(),
    }
    folder = Path(root) / product
    if _is_complete(folder, marker):
        return folder
    if folder.exists() and not (folder / MARKER).is_file():
        raise FileExistsError(
            f"{folder} exists and was not written by write_loco; "
            "move it away or choose another root"
        )

    # Write to a hidden folder and rename it at the end: readers see all of it or nothing.
    aside = folder.with_name(f".{product}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    _write_config(aside, table, product, size)
    base = seed * _SEED_STRIDE
    # Good images of the three splits.
    for slot, (split, count) in enumerate(
        (("train", train), ("validation", validation), ("test", test_good))
    ):
        for number in range(count):
            scene = render(product, base + slot * _SPLIT_STRIDE + number, size=size)
            _write_png(aside / split / "good" / f"{number:03d}.png", scene.image_HW3)
    # Anomalous test images, numbered per kind as in MVTec LOCO.
    numbers = dict.fromkeys(_FOLDERS, 0)
    scene_seed = base + 3 * _SPLIT_STRIDE
    for name, defect in table.items():
        for _ in range(per_defect):
            number = numbers[defect.kind]
            _write_anomaly(aside, product, scene_seed, name, number, size)
            numbers[defect.kind] += 1
            scene_seed += 1
    (aside / MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True) + "\n")
    _publish(aside, folder, marker)
    return folder


def _write_anomaly(
    folder: Path, product: str, seed: int, defect: str, number: int, size: int
) -> None:
    """One anomalous test image and its region files."""
    scene = render(product, seed, defect, size)
    kind = _FOLDERS[scene.kind]
    _write_png(folder / "test" / kind / f"{number:03d}.png", scene.image_HW3)
    truth = folder / "ground_truth" / kind / f"{number:03d}"
    for index, (value, mask_HW) in enumerate(scene.defect_masks):
        _write_png(truth / f"{index:03d}.png", mask_HW.astype(np.uint8) * np.uint8(value))


def _write_config(folder: Path, table: dict[str, Defect], product: str, size: int) -> None:
    """Logical defects saturate at an absolute area in pixels, structural ones at the whole."""
    rows = []
    for name, defect in table.items():
        relative = defect.area == 0
        # LOCO's evaluation reads an absolute threshold as a number of pixels of this image size.
        threshold = 1.0 if relative else max(1, round(defect.area * size * size))
        rows.append(
            {
                "defect_name": name,
                "pixel_value": pixel_value(product, name),
                "saturation_threshold": threshold,
                "relative_saturation": relative,
            }
        )
    folder.mkdir(parents=True)
    (folder / "defects_config.json").write_text(json.dumps(rows, indent=4) + "\n")


def _write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # OpenCV expects BGR.
    pixels = array[:, :, ::-1] if array.ndim == 3 else array
    # Level 3 is much faster than the default and hardly larger for rendered images.
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise OSError(f"OpenCV could not encode {path.name} as PNG")
    path.write_bytes(data.tobytes())


def _renderer_digest() -> str:
    """Digest of the renderer's sources: images of older sources are rendered again."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _is_complete(folder: Path, marker: dict[str, object]) -> bool:
    try:
        found = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return bool(found == marker)


def _publish(aside: Path, folder: Path, marker: dict[str, object]) -> None:
    """Move the finished folder into place, replacing an older one that `write_loco` wrote."""
    # A folder cannot be renamed onto a non-empty one: the old version steps aside first.
    old = folder.with_name(f"{aside.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        aside.rename(folder)
    except OSError:
        # Another process may have published the same data set a moment earlier.
        shutil.rmtree(aside, ignore_errors=True)
        if not _is_complete(folder, marker):
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)

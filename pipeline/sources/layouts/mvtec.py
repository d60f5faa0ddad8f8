"""MVTec AD and MVTec LOCO AD.

mvtec_ad      train/good/*  test/{good,DEFECT}/*  ground_truth/DEFECT/STEM_mask.png
mvtec_loco    train/good/*  validation/good/*  test/{good,DEFECT}/*
              ground_truth/DEFECT/STEM/*.png (grey value = defect type)  defects_config.json
"""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.records import GOOD
from pipeline.sources.folder_names import same_name
from pipeline.sources.layouts.base import FolderReader, Layout, WrongLayout
from pipeline.sources.layouts.split_tree import (
    MasksOf,
    masks_by_name,
    read_tree,
    subfolder,
)

# The keys of an entry of defects_config.json, which sPRO needs.
_DEFECT_FIELDS = {"defect_name", "pixel_value", "saturation_threshold", "relative_saturation"}


def _read_mvtec_ad(reader: FolderReader) -> None:
    # A LOCO folder has all folders of this layout, but its masks would not be found.
    if _is_loco(reader.root):
        raise WrongLayout("no validation folder")
    read_tree(reader, masks_by_name, "STEM_mask.png")


def _read_mvtec_loco(reader: FolderReader) -> None:
    if not _is_loco(reader.root):
        raise WrongLayout(f"train/{GOOD} and validation/{GOOD}")
    for path in reader.images(subfolder(reader.root, f"validation/{GOOD}")):
        reader.add(path, "validation")
    read_tree(reader, _masks_by_image, "STEM/000.png")
    # Only sPRO needs it, so images are usable without.
    config = reader.root / "defects_config.json"
    if config.is_file() and reader.is_inside(config):
        reader.defects_config = read_defects_config(config)
    elif any(entry.masks for entry in reader.entries):
        reader.problem(config, "missing: saturated overlap (sPRO) cannot be measured without it")


def _masks_by_image(folder: Path, paths: list[Path]) -> MasksOf:
    """All masks in the folder that is called as the image."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        if path.parent.parent == folder:
            found.setdefault(same_name(path.parent.name), []).append(path)
    return lambda image: found.get(same_name(image.stem), [])


def read_defects_config(path: Path) -> list[dict[str, Any]]:
    """MVTec LOCO's defect types with grey value, name and saturation; SourceError when invalid."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not readable as JSON ({error}); copy it again") from error
    if not isinstance(content, list):
        raise SourceError(f"{path}: expected a list of defect types, got {type(content).__name__}")
    seen: set[int] = set()
    for number, defect in enumerate(content):
        fault = _defect_fault(defect, seen)
        if fault:
            raise SourceError(f"{path}: entry {number}: {fault}; take the dataset's own file")
        seen.add(defect["pixel_value"])
    return content


def _defect_fault(defect: Any, seen: set[int]) -> str:
    """What is wrong with one entry of defects_config.json, or an empty string."""
    if not isinstance(defect, dict) or not set(defect) >= _DEFECT_FIELDS:
        return f"expected the keys {', '.join(sorted(_DEFECT_FIELDS))}"
    # `type(...) is`, because bool is a subclass of int.
    value, limit = defect["pixel_value"], defect["saturation_threshold"]
    if type(value) is not int or not 1 <= value <= 255:
        return f"pixel_value must be a whole number from 1 to 255, got {value!r}"
    if value in seen:
        return f"pixel_value {value} is given twice"
    if type(defect["relative_saturation"]) is not bool:
        return f"relative_saturation must be true or false, got {defect['relative_saturation']!r}"
    if type(limit) not in (int, float) or not limit > 0:
        return f"saturation_threshold must be above 0, got {limit!r}"
    # A relative threshold is a share of the region, an absolute one counts pixels.
    if defect["relative_saturation"] and limit > 1:
        return f"a relative saturation_threshold is at most 1, got {limit!r}"
    return ""


# To be guessed, a folder has the data sets' own name for good images: trees with other names are
# private ones, and not under MVTec's licence.
def _is_ad(root: Path) -> bool:
    return subfolder(root, f"train/{GOOD}").is_dir() and not _is_loco(root)


def _is_loco(root: Path) -> bool:
    return all(subfolder(root, f"{split}/{GOOD}").is_dir() for split in ("train", "validation"))


_LICENCE = "CC BY-NC-SA 4.0"
_DATASETS = "https://www.mvtec.com/company/research/datasets"

MVTEC_AD = Layout(
    name="mvtec_ad",
    files="`train/good/*`, `test/{good,DEFECT}/*`, `ground_truth/DEFECT/STEM_mask.png`",
    read=_read_mvtec_ad,
    matches=_is_ad,
    licence=_LICENCE,
    credit=f"MVTec Software GmbH, MVTec AD, {_DATASETS}/mvtec-ad",
)
MVTEC_LOCO = Layout(
    name="mvtec_loco",
    files="`train/good/*`, `validation/good/*`, `test/{good,DEFECT}/*`, "
    "`ground_truth/DEFECT/STEM/*.png` (grey value = defect type), `defects_config.json`",
    read=_read_mvtec_loco,
    matches=_is_loco,
    licence=_LICENCE,
    credit=f"MVTec Software GmbH, MVTec LOCO AD, {_DATASETS}/mvtec-loco",
)

"""The tree that most data sets share: train/good, test/{good,DEFECT}, ground_truth/DEFECT.

In `test`, `good` may have any of its usual names: taken for a kind of defect, good images would be
counted as found defects. Names of folders match in any case and Unicode form.
"""

import os
from collections.abc import Callable
from pathlib import Path

from pipeline.records import GOOD
from pipeline.sources.folder_names import is_good, same_name
from pipeline.sources.layouts.base import FolderReader, WrongLayout
from pipeline.sources.layouts.mask_files import MaskFiles
from pipeline.utils.names import text_of
from pipeline.utils.repeated import first_few

# The masks of an image of one test folder; and the function that finds them, from the folder of
# ground_truth with the same name and all mask files in it.
MasksOf = Callable[[Path], list[Path]]
MakeMasksOf = Callable[[Path, list[Path]], MasksOf]


def subfolder(folder: Path, name: str) -> Path:
    """The subfolder of a name, in any case and Unicode form; `folder / name` where there is none.

    The name may be a path, such as `train/good`.
    """
    for part in Path(name).parts:
        exact = folder / part
        if not exact.is_dir() and folder.is_dir():
            # Folders first: most sources hold many files, and few folders.
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.is_dir()]
            alike = [name for name in names if same_name(name) == same_name(part)]
            exact = folder / min(alike, default=part)
        folder = exact
    return folder


def masks_by_name(folder: Path, paths: list[Path]) -> MasksOf:
    """One mask per image, called as the image or with an ending such as `_mask`."""
    return MaskFiles(path for path in paths if path.parent == folder).of


def read_tree(
    reader: FolderReader, masks_by: MakeMasksOf, wanted: str, normals: str = f"train/{GOOD}"
) -> None:
    """Add the training and test images; WrongLayout without the folder of `normals`.

    `wanted` is the usual name of a mask below its folder, for messages.
    """
    folder = subfolder(reader.root, normals)
    if not folder.is_dir():
        raise WrongLayout(normals)
    for path in reader.images(folder):
        reader.add(path, "train")
    _read_test(reader, _ground_truth(reader), masks_by, wanted)


def note_missing_masks(reader: FolderReader, wanted: str) -> None:
    """One line for all defective test images without a mask: they count, but not their pixels."""
    defective = [e for e in reader.entries if e.split == "test" and e.defect != GOOD]
    without = [entry.name for entry in defective if not entry.masks]
    if without:
        reader.notes.append(
            f"{len(without)} of {len(defective)} defective test images have no mask, so they count "
            f"in image metrics, not in pixel metrics: {first_few(without)}; expected {wanted}"
        )


def _ground_truth(reader: FolderReader) -> dict[str, tuple[Path, list[Path]]]:
    """Name of a defect -> its folder of masks, and the masks in it or one level below."""
    found = {}
    for folder in reader.folders(subfolder(reader.root, "ground_truth")):
        below = [folder, *reader.folders(folder)]
        masks = [path for place in below for path in reader.images(place)]
        found[same_name(folder.name)] = folder, masks
    return found


def _read_test(
    reader: FolderReader,
    truth: dict[str, tuple[Path, list[Path]]],
    masks_by: MakeMasksOf,
    wanted: str,
) -> None:
    test = subfolder(reader.root, "test")
    used: set[Path] = set()
    for folder in reader.folders(test):
        good = is_good(folder.name)
        masks_of = masks_by(*truth.get(same_name(folder.name), (folder, [])))
        for path in reader.images(folder):
            masks = [] if good else masks_of(path)
            used.update(masks)
            reader.add(path, "test", GOOD if good else folder.name, masks)
    loose = reader.images(test)
    if loose:
        reader.notes.append(
            f"{len(loose)} images directly in {test.name}/ are not read: only its folder says "
            f"whether an image is good ({first_few([text_of(path.name) for path in loose])})"
        )
    note_missing_masks(reader, f"ground_truth/DEFECT/{wanted}")
    for mask in (mask for _, masks in truth.values() for mask in masks if mask not in used):
        reader.problem(mask, "a mask without its test image")

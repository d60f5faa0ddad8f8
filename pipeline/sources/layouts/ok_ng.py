"""Folders of good and of defective images under any of their usual names: OK and NG.

    OK/*  NG/*                                   masks/*  (optional, called as the image)
    OK/*  NG/{scratch,dent}/*                    masks/{scratch,dent}/*
    normal/*  normal_test/*  abnormal/*  mask/*  (anomalib's `Folder`)
    train/OK/*  test/{OK,NG}/*                   ground_truth/NG/*

Where names do not say it, the manifest does: `normal_dir`, `normal_test_dir`, `abnormal_dir`,
`mask_dir`. Without good test images a fifth of the good ones, chosen by a hash of their names, is
held out for the test, as neither false alarms nor AUROC can be measured on defects alone.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from pipeline.imaging.decode import is_image_name
from pipeline.records import GOOD, Split
from pipeline.sources.folder_names import is_only_around, mask_stem, read_name, same_name
from pipeline.sources.layouts.base import FolderReader, Layout, WrongLayout
from pipeline.sources.layouts.mask_files import MaskFiles
from pipeline.sources.layouts.split_tree import note_missing_masks
from pipeline.utils.names import text_of
from pipeline.utils.repeated import first_few

# One of so many good images is held out for the test.
_HELD_OUT = 5
# Trees that would be read here as well, but without their masks, split or rule for patients.
_MORE_THAN_FOLDERS = ("mvtec_loco", "retinal_oct", "visa")
_KEYS = ("normal_dir", "normal_test_dir", "abnormal_dir", "mask_dir")


@dataclass(slots=True)
class _Folders:
    """The folders of a source by what is in them.

    Of those in `flat` only their own files count, of those in `around` only their folders.
    """

    normal: dict[Split, list[Path]] = field(
        default_factory=lambda: {"train": [], "validation": [], "test": []}
    )
    abnormal: list[Path] = field(default_factory=list)
    abnormal_train: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)
    flat: list[Path] = field(default_factory=list)
    around: list[Path] = field(default_factory=list)

    def holds(self, folder: Path) -> bool:
        """True for a folder with a meaning of its own."""
        lists = (*self.normal.values(), self.abnormal, self.abnormal_train, self.masks)
        return any(folder in folders for folders in lists)

    def sort(self, folder: Path, split: Split | None) -> None:
        """Put one folder where its name says; `split` is that of the folder around it."""
        name = read_name(folder.name)
        split = split or name.split
        if name.role == "mask":
            self.masks.append(folder)
        elif name.role == "normal":
            self.normal[split or "train"].append(folder)
        elif name.role == "abnormal" and split == "train":
            self.abnormal_train.append(folder)
        # Beside the good images of a test split, every other name is a kind of defect.
        elif name.role == "abnormal" or split == "test":
            self.abnormal.append(folder)
        else:
            self.unknown.append(folder)


def _read_ok_ng(reader: FolderReader) -> None:
    if reader.guess(reader.root) in _MORE_THAN_FOLDERS:
        raise WrongLayout("folders of good and of defective images, each with its masks")
    found = _by_name(reader.root, reader.folders)
    _by_options(reader, found)
    if not (any(found.normal.values()) and found.abnormal):
        raise WrongLayout(
            "folders of good and of defective images, such as OK and NG (a manifest names others: "
            "normal_dir, abnormal_dir)"
        )
    for split, folders in found.normal.items():
        for path in (path for folder in folders for path in _below(reader, folder, found)):
            reader.add(path, split)
    _add_defective(reader, found)
    if not any(entry.split == "test" and entry.defect == GOOD for entry in reader.entries):
        _hold_out(reader)
    if found.unknown:
        names = _names(reader, found.unknown)
        reader.notes.append(
            f"{len(names)} folders are not read, as their names say neither good nor defective: "
            f"{first_few(names)}; normal_dir or abnormal_dir of a manifest can name them"
        )
    around = [folder for folder in found.around if not found.holds(folder)]
    loose = [path for folder in around for path in reader.images(folder)]
    if loose:
        reader.notes.append(
            f"{len(loose)} images in no folder are not read, as nothing says whether they are "
            f"good: {first_few(_names(reader, loose))}"
        )
    if found.abnormal_train:
        names = _names(reader, found.abnormal_train)
        reader.notes.append(
            f"{first_few(names)}: not read, as training takes good images only"
        )  # fmt: skip


def _names(reader: FolderReader, paths: list[Path]) -> list[str]:
    return [text_of(path.relative_to(reader.root)) for path in paths]


def _by_name(root: Path, folders_of: Callable[[Path], list[Path]]) -> _Folders:
    """Sort the subfolders of the root, and those of its folders `train`, `test`, `images`, ..."""
    found = _Folders()
    _sort_below(root, None, found, folders_of)
    # Without any other defective image, those among the training images are the test.
    if not found.abnormal:
        found.abnormal, found.abnormal_train = found.abnormal_train, []
    # *.png beside NG/.
    if not any(found.normal.values()) and found.abnormal:
        found.flat.append(root)
        found.normal["train"].append(root)
    return found


def _sort_below(
    folder: Path, split: Split | None, found: _Folders, folders_of: Callable[[Path], list[Path]]
) -> bool:
    """Sort the subfolders of one folder; True when the name of any says what it holds."""
    found.around.append(folder)
    named = False
    for child in folders_of(folder):
        name, around = read_name(child.name), is_only_around(child.name)
        # A link could lead in circles.
        if around and child.is_symlink():
            found.unknown.append(child)
        # images/{OK,NG} beside masks, and test/images/{OK,NG}.
        elif around:
            named |= _sort_below(child, split, found, folders_of)
        elif split is None and name.split and name.role is None:
            _sort_below(child, name.split, found, folders_of)
        else:
            found.sort(child, split)
            named |= name.role is not None
    # train/*.png beside test/{OK,NG}; what lies in `test` itself may be anything.
    if split == "train" and not named:
        found.flat.append(folder)
        found.normal["train"].append(folder)
    return named


def _by_options(reader: FolderReader, found: _Folders) -> None:
    """Replace what was found by name by what the manifest states."""
    # One that is named twice would be in the training and in the test.
    stated = {
        key: list(dict.fromkeys(_inside(reader, key, name) for name in reader.options.folders(key)))
        for key in _KEYS
    }
    for path, times in Counter(path for paths in stated.values() for path in paths).items():
        if times > 1:
            raise WrongLayout(
                "folders that hold one thing each",
                f"{text_of(path.relative_to(reader.root))} under two of {', '.join(_KEYS)}",
            )
    if stated["normal_dir"]:
        found.normal["train"] = stated["normal_dir"]
    if stated["normal_test_dir"]:
        found.normal["test"] = stated["normal_test_dir"]
    if stated["abnormal_dir"]:
        found.abnormal = stated["abnormal_dir"]
    if stated["mask_dir"]:
        found.masks = stated["mask_dir"]
    # A folder has one meaning: the stated one.
    taken = {path for paths in stated.values() for path in paths}
    for key, folders in (
        ("normal_dir", found.normal["train"]), ("normal_test_dir", found.normal["test"]),
        ("abnormal_dir", found.abnormal), ("mask_dir", found.masks),
        ("", found.normal["validation"]), ("", found.abnormal_train), ("", found.unknown),
    ):  # fmt: skip
        if not stated.get(key):
            folders[:] = [folder for folder in folders if folder not in taken]


def _inside(reader: FolderReader, key: str, name: str) -> Path:
    """The folder of an option; WrongLayout unless it is one below the root."""
    folder = reader.root / name
    if not folder.is_dir() or not reader.is_inside(folder) or ".." in Path(name).parts:
        raise WrongLayout(f"the folder {name} of {key} below it")
    return folder


def _below(reader: FolderReader, folder: Path, found: _Folders) -> Iterator[Path]:
    """The images of a folder at any depth, without folders that hold something else."""
    yield from reader.images(folder)
    for child in reader.folders(folder) if folder not in found.flat else []:
        if child.is_symlink():
            reader.problem(child, "a link to a folder is not followed; name that folder itself")
        elif read_name(child.name).role == "mask" and folder not in found.masks:
            found.masks.append(child)
        elif not found.holds(child):
            yield from _below(reader, child, found)


def _add_defective(reader: FolderReader, found: _Folders) -> None:
    """Add the defective images with their masks; a subfolder names the kind of defect."""
    images: list[tuple[Path, Path]] = []
    masks: list[tuple[Path, Path]] = []
    for folder in found.abnormal:
        inside = list(_below(reader, folder, found))
        # NG/000.png with NG/000_mask.png beside it.
        stems = {(path.parent, same_name(path.stem)) for path in inside}
        for path in inside:
            of = mask_stem(path.stem)
            beside = of != same_name(path.stem) and (path.parent, of) in stems
            (masks if beside else images).append((folder, path))
    masks += [(folder, mask) for folder in found.masks for mask in _below(reader, folder, found)]
    files = MaskFiles(mask for _, mask in masks)
    stems_of_all = Counter(same_name(path.stem) for _, path in images)
    for folder, path in images:
        below = path.relative_to(folder).parts[:-1]
        # A mask lies in a folder that is called as the image's; or in that of all masks, where its
        # name must say of which image it is.
        among = {same_name(path.parent.name)}
        if stems_of_all[same_name(path.stem)] == 1:
            among |= {same_name(mask_folder.name) for mask_folder in found.masks}
        defect = below[0] if below else folder.name
        reader.add(path, "test", defect, files.of(path, among))
    # Without any mask, image metrics alone were meant.
    if any(entry.masks for entry in reader.entries):
        note_missing_masks(reader, "a mask called as the image, as masks/000.png or 000_mask.png")
    for mask in files.unused():
        reader.problem(mask, "a mask without its image")


def _hold_out(reader: FolderReader) -> None:
    """Move a share of the good images to the test, the same ones on every machine."""
    train = [entry.name for entry in reader.entries if entry.split == "train"]
    if len(train) < 2:
        return
    # The order by hash does not depend on the other images, so adding one changes little.
    train.sort(key=lambda name: sha256(name.encode()).digest())
    chosen = set(train[: max(1, len(train) // _HELD_OUT)])
    reader.entries = [
        replace(entry, split="test") if entry.name in chosen else entry for entry in reader.entries
    ]
    reader.notes.append(
        f"{len(chosen)} of {len(train)} good images are held out for the test, as no folder has "
        "good test images (normal_test_dir of a manifest names one)"
    )


def _matches(root: Path) -> bool:
    def folders_of(folder: Path) -> list[Path]:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if entry.is_dir())

    found = _by_name(root, folders_of)
    # Images beside one folder of defects have no folder of their own.
    named = any(folder not in found.flat for folders in found.normal.values() for folder in folders)
    beside = root in found.flat and any(map(is_image_name, root.iterdir()))
    return bool(found.abnormal) and (named or beside)


OK_NG = Layout(
    name="ok_ng",
    files="`OK/*`, `NG/*` or `NG/DEFECT/*` under any of their usual names in a dozen languages, "
    "also below `train` and `test`; optional `masks/*`; anomalib's `normal`, `normal_test`, "
    "`abnormal`, `mask`",
    read=_read_ok_ng,
    matches=_matches,
    one_category=True,
)

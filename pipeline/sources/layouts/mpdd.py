"""MPDD, metal parts defect detection (Jezek et al., 2021): the tree of MVTec AD, another owner.

{bracket_black,…,tubes}/train/good/*  test/{good,DEFECT}/*  ground_truth/DEFECT/STEM_mask.png
"""

from pathlib import Path

from pipeline.records import GOOD
from pipeline.sources.layouts.base import FolderReader, Layout, WrongLayout
from pipeline.sources.layouts.split_tree import masks_by_name, read_tree, subfolder

# The tree alone could be MVTec AD's, so it is told by the names of its categories.
_CATEGORIES = {
    "bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes",
}  # fmt: skip


def _read_mpdd(reader: FolderReader) -> None:
    if _is_loco(reader.root):
        raise WrongLayout("no validation folder")
    read_tree(reader, masks_by_name, "STEM_mask.png")


def _matches(root: Path) -> bool:
    good = subfolder(root, f"train/{GOOD}").is_dir()
    return good and root.name in _CATEGORIES and not _is_loco(root)


def _is_loco(root: Path) -> bool:
    return subfolder(root, f"validation/{GOOD}").is_dir()


MPDD = Layout(
    name="mpdd",
    files="`train/good/*`, `test/{good,DEFECT}/*`, `ground_truth/DEFECT/STEM_mask.png`, as in "
    "MVTec AD",
    read=_read_mpdd,
    matches=_matches,
    by_name=True,
    # Its owner states none: `unknown`, so cards say to ask.
    credit="Jezek et al., Metal Parts Defect Detection Dataset (MPDD), "
    "https://github.com/stepanje/MPDD",
)

"""VisA (Zou et al., 2022), as it is distributed: the split is a table.

    split_csv/1cls.csv                                object,split,label,image,mask
    OBJECT/Data/Images/{Normal,Anomaly}/*.JPG  OBJECT/Data/Masks/Anomaly/*.png

A category is one OBJECT; the table lies beside it. Masks hold small ids: whatever is above 0 is
marked.
"""

import csv
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.records import GOOD
from pipeline.sources.layouts.base import FolderReader, Layout, Problem, WrongLayout
from pipeline.sources.layouts.split_tree import note_missing_masks
from pipeline.utils.names import visible

_TABLE = "split_csv/1cls.csv"
_COLUMNS = {"object", "split", "label", "image", "mask"}
# An unknown label would count as an anomaly.
_VALUES = {"split": ("train", "test"), "label": ("normal", "anomaly")}
# Larger than any table of images by far.
_MOST_BYTES = 100_000_000


def _read_visa(reader: FolderReader) -> None:
    table = reader.root.parent / _TABLE
    if not _matches(reader.root):
        raise WrongLayout(f"Data/Images/Normal, and ../{_TABLE} beside it")
    rows = [row for row in _rows(table) if row["object"] == reader.root.name]
    seen = set[Path]()
    for row in rows:
        path, normal = _placed(reader, row["image"]), row["label"] == "normal"
        if path is None:
            name = visible(row["image"])
            reader.problems.append(Problem(name, f"not there, but named in {_TABLE}"))
            continue
        if path in seen:
            # Else it could be in the training and in the test.
            reader.problem(path, f"twice in {_TABLE}; the first row counts")
            continue
        seen.add(path)
        if row["split"] == "train" and normal:
            reader.add(path, "train")
        elif row["split"] == "test":
            mask = _placed(reader, row["mask"]) if row["mask"] else None
            masks = [] if mask is None else [mask]
            reader.add(path, "test", GOOD if normal else "anomaly", [] if normal else masks)
    note_missing_masks(reader, "Data/Masks/Anomaly/STEM.png")


def _rows(table: Path) -> list[dict[str, str]]:
    """The rows of the table; SourceError when it is another one."""
    try:
        if table.stat().st_size > _MOST_BYTES:
            raise ValueError("too large")
        with table.open(encoding="utf-8-sig", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"{table}: not readable as CSV ({error}); copy it again") from error
    for number, row in enumerate(rows, 2):
        if not set(row) >= _COLUMNS or None in row.values():
            raise SourceError(
                f"{table}:{number}: expected the columns {','.join(sorted(_COLUMNS))}; take the "
                "dataset's own file"
            )
        for column, known in _VALUES.items():
            if row[column] not in known:
                raise SourceError(
                    f"{table}:{number}: expected {' or '.join(known)} as {column}, got "
                    f"{row[column]!r}; take the dataset's own file"
                )
    return rows


def _placed(reader: FolderReader, name: str) -> Path | None:
    """The file of a path in the table, which starts beside `split_csv`; None where it is absent."""
    path = reader.root.parent / name
    # Whatever a table says: nothing outside the category is read.
    if ".." in Path(name).parts or not path.is_relative_to(reader.root):
        return None
    return path if path.is_file() and reader.is_inside(path) else None


def _matches(root: Path) -> bool:
    return (root / "Data/Images/Normal").is_dir() and (root.parent / _TABLE).is_file()


VISA = Layout(
    name="visa",
    files="`Data/Images/{Normal,Anomaly}/*`, `Data/Masks/Anomaly/*` of one object; the split is "
    f"`../{_TABLE}` beside it",
    read=_read_visa,
    matches=_matches,
    licence="CC BY 4.0",
    credit="Zou et al., VisA, https://github.com/amazon-science/spot-diff",
)

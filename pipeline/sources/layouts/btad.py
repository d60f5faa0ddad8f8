"""BeanTech AD (Mishra et al., 2021): three industrial products.

    {01,02,03}/train/ok/*  test/{ok,ko}/*  ground_truth/ko/*, images .bmp or .png

A mask is called as its image, in either format.
"""

from pathlib import Path

from pipeline.sources.layouts.base import FolderReader, Layout
from pipeline.sources.layouts.split_tree import masks_by_name, read_tree, subfolder


def _read_btad(reader: FolderReader) -> None:
    read_tree(reader, masks_by_name, "STEM.png", normals="train/ok")


def _matches(root: Path) -> bool:
    # Its own three folders: `ok` and `ko` alone are frequent names of private data.
    return root.name in ("01", "02", "03") and all(
        subfolder(root, folder).is_dir() for folder in ("train/ok", "test/ko")
    )


BTAD = Layout(
    name="btad",
    files="`train/ok/*`, `test/{ok,ko}/*`, `ground_truth/ko/STEM.*`; bmp and png mixed",
    read=_read_btad,
    matches=_matches,
    by_name=True,
    # Its author's page says CC BY-SA, copies of it CC BY-NC-SA: the stricter one, to be safe.
    licence="CC BY-NC-SA 4.0",
    credit="Mishra et al., BeanTech Anomaly Detection Dataset (BTAD), "
    "https://github.com/pankajmishra000/VT-ADL",
)

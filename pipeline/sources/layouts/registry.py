"""Every source layout by name: what the manifest, the help, the docs and the splits derive from."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.records import SourceEntry
from pipeline.sources.layouts.base import Layout
from pipeline.sources.layouts.image_folder import IMAGE_FOLDER
from pipeline.sources.layouts.mvtec import MVTEC_AD, MVTEC_LOCO
from pipeline.sources.layouts.retinal_oct import RETINAL_OCT

# A folder is guessed to be in the first layout that matches, so the plain folder comes last.
LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        MVTEC_AD,
        MVTEC_LOCO,
        RETINAL_OCT,
        IMAGE_FOLDER,
    )
}


def guess_layout(root: Path) -> str | None:
    """The name of the layout that a folder has, or None."""
    return next((name for name, layout in LAYOUTS.items() if layout.matches(root)), None)


def group_of(entry: SourceEntry) -> str:
    """What must stay on one side of a split with an image: its patient, else the image itself.

    Told by the file's name, whichever layout it was read in.
    """
    groups = (layout.group(entry) for layout in LAYOUTS.values())
    return next((group for group in groups if group is not None), entry.name)

"""All source layouts by name; manifest, help, docs and splits derive from this table."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.records import SourceEntry
from pipeline.sources.layouts.base import Layout
from pipeline.sources.layouts.image_folder import IMAGE_FOLDER
from pipeline.sources.layouts.mvtec import MVTEC_AD, MVTEC_LOCO
from pipeline.sources.layouts.retinal_oct import RETINAL_OCT

# `guess_layout` takes the first match, so the plain folder, which matches most, comes last.
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
    """The name of a folder's layout, or None."""
    return next((name for name, layout in LAYOUTS.items() if layout.matches(root)), None)


def group_of(entry: SourceEntry) -> str:
    """The group that must stay on one side of a split: a patient, else the image itself.

    Determined by the name of the file, independently of the layout that it was read in.
    """
    groups = (layout.group(entry) for layout in LAYOUTS.values())
    return next((group for group in groups if group is not None), entry.name)

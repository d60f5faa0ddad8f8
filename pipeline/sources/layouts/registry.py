"""All source layouts by name; manifest, help, docs and splits derive from this table."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.records import SourceEntry
from pipeline.sources.layouts.base import Layout
from pipeline.sources.layouts.btad import BTAD
from pipeline.sources.layouts.image_folder import IMAGE_FOLDER
from pipeline.sources.layouts.mpdd import MPDD
from pipeline.sources.layouts.mvtec import MVTEC_AD, MVTEC_LOCO
from pipeline.sources.layouts.ok_ng import OK_NG
from pipeline.sources.layouts.retinal_oct import RETINAL_OCT
from pipeline.sources.layouts.visa import VISA

# The more special ones come first, as `guess_layout` takes the first match: the plain folder, which
# matches most, last.
LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        MVTEC_AD,
        MVTEC_LOCO,
        VISA,
        BTAD,
        MPDD,
        RETINAL_OCT,
        OK_NG,
        IMAGE_FOLDER,
    )
}


def guess_layout(root: Path) -> str | None:
    """The name of a folder's layout, or None."""
    ordered = sorted(LAYOUTS.values(), key=lambda layout: not layout.by_name)
    return next((layout.name for layout in ordered if layout.matches(root)), None)


def group_of(entry: SourceEntry) -> str:
    """The group that must stay on one side of a split: a patient, else the image itself.

    Determined by the name of the file, independently of the layout that it was read in.
    """
    groups = (layout.group(entry) for layout in LAYOUTS.values())
    return next((group for group in groups if group is not None), entry.name)

"""A plain folder: images at any depth, all of them normal.

Unless the user says `all_normal`, it is refused where a defective image or a mask may be among them
(`pipeline.sources.guard`), as they would be learned as normal.
"""

from pathlib import Path

from pipeline.imaging.decode import is_image_name
from pipeline.imaging.walk import LINKED_FOLDER, LeftOut, natural_key
from pipeline.sources.guard import suspicion
from pipeline.sources.layouts.base import FolderReader, Layout, WrongLayout

ALL_NORMAL = "images that are all normal"


def _read_folder(reader: FolderReader) -> None:
    """Add all images below the root as training images."""

    def walk(folder: Path) -> None:
        # A folder with a test split in it, such as one category among others.
        if not reader.options.all_normal and reader.guess(folder) not in (None, "folder"):
            raise WrongLayout(ALL_NORMAL)
        for path in reader.images(folder):
            reader.add(path, "train")
        for child in reader.folders(folder):
            if child.is_symlink() and reader.bounds.links is None:
                # A link could lead in circles, or count images twice.
                reader.links_left_out.append(LeftOut(child, LINKED_FOLDER))
                reader.problem(child, LINKED_FOLDER)
            elif child.resolve() not in entered:
                entered.add(child.resolve())
                walk(child)

    entered = {reader.root}
    walk(reader.root)
    # Files come before folders in the walk; the order of the records is by path.
    reader.entries.sort(key=lambda entry: natural_key(entry.name))
    if not reader.entries and not reader.problems:
        raise WrongLayout("at least one image")
    if not reader.options.all_normal:
        seen = suspicion(reader.root, [entry.path for entry in reader.entries])
        if seen:
            raise WrongLayout(ALL_NORMAL, seen)


def _holds_images(root: Path) -> bool:
    return any(is_image_name(path) for path in root.iterdir())


IMAGE_FOLDER = Layout(
    name="folder",
    files="images at any depth, all normal",
    read=_read_folder,
    matches=_holds_images,
    one_category=True,
)

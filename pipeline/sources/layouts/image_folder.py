"""A plain folder: images at any depth, all of them normal."""

from pathlib import Path

from pipeline.imaging.decode import is_image_name
from pipeline.sources.layouts.base import FolderReader, Layout, WrongLayout, natural_key


def _read_folder(reader: FolderReader) -> None:
    """Add all images below the root as training images."""

    def walk(folder: Path) -> None:
        if reader.guess(folder) not in (None, "folder") or folder.name == "ground_truth":
            # Otherwise defective test images, or masks, would be read as normal images.
            raise WrongLayout("images that are all normal")
        for path in reader.images(folder):
            reader.add(path, "train")
        for child in reader.folders(folder):
            if child.is_symlink():
                # A link could lead in circles, or count images twice.
                reader.problem(child, "a link to a folder is not followed; name that folder itself")
            else:
                walk(child)

    walk(reader.root)
    # Files come before folders in the walk; the order of the records is by path.
    reader.entries.sort(key=lambda entry: natural_key(entry.name))
    if not reader.entries and not reader.problems:
        raise WrongLayout("at least one image")


def _holds_images(root: Path) -> bool:
    return any(is_image_name(path) for path in root.iterdir())


IMAGE_FOLDER = Layout(
    name="folder",
    files="images at any depth, all normal",
    read=_read_folder,
    matches=_holds_images,
    one_category=True,
)

"""Find the mask files of a test image, whatever their ending, format, case or Unicode form."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.sources.folder_names import mask_stem, same_name


class MaskFiles:
    """The mask files of one or several folders, by the image that they belong to.

    A mask is called as its image, with or without an ending such as `_mask` (`mask_stem`).
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._by_stem: dict[str, list[Path]] = {}
        self._used: set[Path] = set()
        for path in paths:
            # Under both names, as an image itself may be called `000_mask`. The image's whole name
            # comes first: it fits better than what is left of a longer one.
            for stem in dict.fromkeys((same_name(path.stem), mask_stem(path.stem))):
                self._by_stem.setdefault(stem, []).append(path)

    def of(self, image: Path, among: Iterable[str] | None = None) -> list[Path]:
        """The mask of an image as a list, empty if it has none.

        `among` are the folders, as `same_name` writes them, of which one must be the mask's own.
        """
        for path in self._by_stem.get(same_name(image.stem), []):
            if among is None or same_name(path.parent.name) in among:
                self._used.add(path)
                return [path]
        return []

    def unused(self) -> list[Path]:
        """The masks that no image was found for, in the order given."""
        paths = dict.fromkeys(path for paths in self._by_stem.values() for path in paths)
        return [path for path in paths if path not in self._used]

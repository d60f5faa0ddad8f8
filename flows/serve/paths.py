"""From names in a request to folders: looked up in the listing of the store, never joined to it.

So `..`, `%2e%2e`, a slash, a drive or a link in a request lead nowhere: the listing has no such
name. A category or version whose folder is a link out of the store is not listed either.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException

from pipeline.dataset.version import Version, version_folders, versions
from pipeline.utils.names import text_of


@dataclass(frozen=True, slots=True)
class Category:
    """One product of the store: its name as text, and its folder."""

    name: str
    folder: Path


class Store:
    """The categories and versions of a store's folder, listed anew on every call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def categories(self) -> list[Category]:
        """The folders that hold versions, by name."""
        return [category for category in self._folders() if version_folders(category.folder)]

    def category(self, name: str) -> Category:
        """The category of that name; 404 when there is none."""
        for category in self._folders():
            if category.name == name:
                return category
        raise HTTPException(404, "There is no such product in this store.")

    def versions(self, category: Category) -> list[Version]:
        """The readable versions of a category, oldest first."""
        found = versions(category.folder.parent, category.folder.name)
        return [version for version in found if self._is_inside(version.dir)]

    def version_folders(self, category: Category) -> list[Path]:
        """The folders of its versions, readable or not, oldest first."""
        return [folder for folder in version_folders(category.folder) if self._is_inside(folder)]

    def version_dir(self, category: str, version: str) -> Path:
        """The folder of a version, readable or not; 404 when there is none."""
        for folder in self.version_folders(self.category(category)):
            if folder.name == version:
                return folder
        raise HTTPException(404, "There is no such version of this product.")

    def _folders(self) -> Iterator[Category]:
        """Visible folders inside the store, whatever they hold."""
        for path in sorted(self.folder.iterdir()):
            if path.name[0] != "." and path.is_dir() and self._is_inside(path):
                yield Category(text_of(path.name), path)

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.folder)

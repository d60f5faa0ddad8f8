"""The image files that a user names: files, and folders of them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.imaging.walk import LeftOut, only_links, walk_images
from pipeline.utils.names import text_of


def find_images(
    places: Iterable[Path],
    outputs: Sequence[Path] = (),
    links: Path | None = None,
    failures: dict[str, str] | None = None,
) -> list[Path]:
    """The named files, and the images inside named folders in natural order; each file once.

    Files in the folders `outputs` are from earlier runs and are skipped. Links that are not
    followed are added to `failures`. UserError for a path that does not exist, and when nothing was
    found.
    """
    seen: set[str] = set()
    folders: dict[Path, str] = {}
    found: list[Path] = []
    left_out: list[LeftOut] = []
    ours_only = False
    places = list(places)
    ours = tuple(f"{os.path.realpath(folder)}/" for folder in outputs)
    for place in places:
        if not place.exists():
            raise UserError(f"{text_of(place)}: no such file or folder")
        # A named file is taken as it is; in folders only names of images count.
        inside = [place]
        if place.is_dir():
            walk = walk_images(place, links)
            left_out += walk.left_out
            inside = [place / name for name in walk.names]
        for path in inside:
            # A file may be named twice, or directly and through its folder or a link.
            real = _real(path, folders)
            # Files named explicitly are never skipped.
            written_by_us = path != place and real.startswith(ours)
            ours_only |= written_by_us
            if real not in seen and not written_by_us:
                seen.add(real)
                found.append(path)
    if not found:
        named = ", ".join(map(text_of, places)) or "nothing was named"
        why = "the images in it lie in an output folder; choose another" if ours_only else ""
        why = only_links(left_out) or why
        raise UserError(f"no image to score in: {named}" + (f"; {why}" if why else ""))
    if failures is not None:
        failures |= {text_of(left.path): left.reason for left in left_out}
    return found


def _real(path: Path, folders: dict[Path, str]) -> str:
    """The path without links. Those of the folders are looked up once, and kept in `folders`."""
    if path.is_symlink():
        return os.path.realpath(path)
    if path.parent not in folders:
        folders[path.parent] = os.path.realpath(path.parent)
    return os.path.join(folders[path.parent], path.name)

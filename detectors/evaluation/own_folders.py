"""A test set from a user's own folders: good images, bad images and, if there are any, masks.

    good/**                         images without a defect, at any depth
    bad/*, bad/DEFECT/**            defective images; a sub-folder names the type of its defects
    masks/**/STEM.png               the marked pixels of a bad image, matched by its file name

A mask has the name of its image with any ending, also with `_mask` behind it, or lies in a folder
of that name. Where several images share a name, the folders around them decide.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ImageError, UserError
from pipeline.imaging.decode import file_digest
from pipeline.imaging.walk import only_links, walk_images
from pipeline.records import GOOD, SourceEntry
from pipeline.sources.folder_names import mask_stem, read_name, same_name
from pipeline.utils.hashing import digest_of
from pipeline.utils.names import text_of
from pipeline.utils.repeated import first_few

# What the name of a folder says that it holds.
_ROLES = {"normal": "good images", "abnormal": "defective images", "mask": "masks"}
_ADVICE = "put masks into sub-folders that are called as those of the images"


@dataclass(frozen=True, slots=True)
class OwnFolders:
    """The folders of a test set; of each kind there may be several.

    Links may lead into the folder `links`. UserError for folders that contradict each other.
    """

    good: tuple[Path, ...]
    bad: tuple[Path, ...]
    masks: tuple[Path, ...] = ()
    links: Path | None = None

    def __post_init__(self) -> None:
        for what in ("good", "bad", "masks"):
            for folder in getattr(self, what):
                if not folder.is_dir():
                    found = "is a file" if folder.exists() else "there is no such folder"
                    raise UserError(f"{folder}: {found}; name a folder of {what} images")
        _require_apart(self)

    def to_json(self) -> dict[str, list[str]]:
        """The folders as they were named."""
        return {
            what: [text_of(path) for path in getattr(self, what)]
            for what in ("good", "bad", "masks")
        }


@dataclass(frozen=True, slots=True)
class OwnImages:
    """The images of the folders, good ones first, and what to know about them.

    `unusable` has the reason of every file that was left out, by name. `digest` changes with any
    image, label or mask.
    """

    folders: OwnFolders
    entries: tuple[SourceEntry, ...]
    unusable: Mapping[str, str]
    notes: Mapping[str, str]
    digest: str


@dataclass(frozen=True, slots=True)
class _Found:
    """A file and the folder below which it was found."""

    root: Path
    path: Path

    @property
    def below(self) -> Path:
        return self.path.relative_to(self.root)

    @property
    def around(self) -> tuple[str, ...]:
        """The folders around the file, the named one first."""
        return tuple(map(same_name, (self.root.resolve().name, *self.below.parts[:-1])))


def list_own(folders: OwnFolders) -> OwnImages:
    """List the images with their types and masks.

    UserError for a folder without an image or with a name that says something else, an image that
    is both good and bad, masks of which none has the name of a bad image, a mask that fits several.
    """
    unusable: dict[str, str] = {}
    good = _images(folders.good, folders, unusable)
    bad = _images(folders.bad, folders, unusable)
    for what, roots, found in (("good", folders.good, good), ("bad", folders.bad, bad)):
        _require_names_that_agree(what, roots, found)
        if not found:
            where = " and ".join(text_of(root) for root in roots)
            why = "; ".join(unusable.values())
            raise UserError(
                f"{where}: no image in it that would be {what}; "
                + (why or "expected PNG, JPEG, TIFF, BMP or WebP files")
            )
    every = _images(folders.masks, folders, unusable, masks=True)
    masks = _matched(bad, every)
    if every and not masks:
        name = bad[0].path
        raise UserError(
            f"{' and '.join(text_of(root) for root in folders.masks)}: no mask has the name of a "
            f"bad image; expected names such as {text_of(name.stem)}.png for {text_of(name.name)}"
        )
    names = _labels([*folders.good, *folders.bad])
    entries = [
        *(_entry(names, image, GOOD, ()) for image in good),
        *(_entry(names, image, _type(image), masks.get(image.path, ())) for image in bad),
    ]
    digests = {entry.path: _digest(entry.path) for entry in entries}
    notes = _copies(entries, digests)
    used = {mask for some in masks.values() for mask in some}
    unused = [text_of(mask.below.as_posix()) for mask in every if mask.path not in used]
    if unused:
        notes["masks_unused"] = (
            f"{len(unused)} masks have the name of no bad image: {first_few(unused)}"
        )
    content = [
        [e.name, e.defect, digests[e.path], [_digest(path) for path in e.masks]] for e in entries
    ]
    return OwnImages(folders, tuple(entries), unusable, notes, digest_of(content))


def _require_apart(folders: OwnFolders) -> None:
    """UserError where one folder is given twice, or a good one lies in a bad one or around it."""
    labelled = [(path, "good") for path in folders.good] + [(path, "bad") for path in folders.bad]
    for number, (path, what) in enumerate(labelled):
        for other, other_what in labelled[number + 1 :]:
            one, two = path.resolve(), other.resolve()
            if one == two:
                both = what if what == other_what else f"{what} and {other_what}"
                raise UserError(f"{text_of(path)} is given twice, as {both}; name each folder once")
            if one.is_relative_to(two) or two.is_relative_to(one):
                inner, outer = (path, other) if one.is_relative_to(two) else (other, path)
                raise UserError(
                    f"{text_of(inner)} lies in {text_of(outer)}, so its images would count twice; "
                    "name folders that lie beside each other, such as that of each defect"
                )
    for mask in folders.masks:
        if any(mask.resolve() == path.resolve() for path, _ in labelled):
            raise UserError(
                f"{text_of(mask)} is given as masks and as images; name each folder once"
            )


def _require_names_that_agree(what: str, roots: Sequence[Path], found: Sequence[_Found]) -> None:
    """UserError where a name says that the images are of the other kind, or masks.

    Defects that count as good, or good images that count as defects, make every number wrong.
    """
    wrong = {"good": ("abnormal", "mask"), "bad": ("normal", "mask")}[what]
    # Folders without images, such as one of text files, may have any name.
    around = (image.root / below for image in found for below in image.below.parents)
    for path in dict.fromkeys((*roots, *around)):
        role = read_name(path.resolve().name).role
        if role in wrong:
            raise UserError(
                f"{text_of(path)}: by its name it holds {_ROLES[role]}, but its images would count "
                f"as {what}; name the folders of {what} images alone, or rename it"
            )


def _inside(path: Path, roots: Iterable[Path]) -> bool:
    return any(path.resolve().is_relative_to(root.resolve()) for root in roots)


def _images(
    roots: Sequence[Path], folders: OwnFolders, unusable: dict[str, str], masks: bool = False
) -> list[_Found]:
    """The image files below folders; those in the folders of masks only for `masks`."""
    found = []
    for root in roots:
        walk = walk_images(root, folders.links)
        unusable |= {text_of(left.path): left.reason for left in walk.left_out}
        # The reason with the folder into which all links lead.
        if not walk.names and (why := only_links(walk.left_out)):
            raise UserError(f"{text_of(root)}: {why}")
        paths = [root / name for name in walk.names]
        apart = () if masks else [mask for mask in folders.masks if _inside(mask, [root])]
        found += [_Found(root, path) for path in paths if not (apart and _inside(path, apart))]
    return found


def _entry(
    names: Mapping[Path, str], image: _Found, defect: str, masks: tuple[Path, ...]
) -> SourceEntry:
    name = text_of(f"{names[image.root]}/{image.below.as_posix()}")
    return SourceEntry("", name, image.path, "test", text_of(defect), masks)


def _type(image: _Found) -> str:
    """The type of a defect: the sub-folder of the image, else the name of the bad folder."""
    first, *rest = image.below.parts
    return first if rest else image.root.resolve().name


def _labels(roots: Sequence[Path]) -> dict[Path, str]:
    """A short name of each folder: its last parts, as many as tell all apart."""
    parts = {root: root.resolve().parts for root in roots}
    names = {root: root.resolve().name for root in roots}
    for count in range(2, max(map(len, parts.values())) + 1):
        if len(set(names.values())) < len(names):
            names = {root: "/".join(parts[root][-count:]) for root in roots}
    return names


def _matched(bad: Sequence[_Found], every: Sequence[_Found]) -> dict[Path, tuple[Path, ...]]:
    """The masks of the bad images."""
    # Name of an image -> the masks that may be its own, each with the folders around it.
    by_name: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
    stems = {same_name(image.path.stem) for image in bad}
    types = {folder for image in bad for folder in image.around}
    for mask in every:
        *outer, inner = mask.around
        # As in MVTec LOCO: one file per region, in a folder with the name of the image.
        if outer and inner in stems - types:
            by_name.setdefault(inner, []).append((tuple(outer), mask.path))
            continue
        for name in {same_name(mask.path.stem), mask_stem(mask.path.stem)}:
            by_name.setdefault(name, []).append((mask.around, mask.path))
    found: dict[Path, tuple[Path, ...]] = {}
    owner: dict[Path, Path] = {}
    for image in bad:
        fitting = [
            (around, path)
            for around, path in by_name.get(same_name(image.path.stem), ())
            # In sub-folders, every folder of masks is for the folder of images of its name.
            if min(len(around), len(image.around)) == 1 or around[-1] == image.around[-1]
        ]
        # The masks in the folders that are called most like those of the image.
        best = max((_common_end(around, image.around) for around, _ in fitting), default=0)
        masks = [path for around, path in fitting if _common_end(around, image.around) == best]
        if len({path.parent for path in masks}) > 1:
            shown = first_few([text_of(path) for path in masks])
            raise UserError(f"{text_of(image.path)}: several masks fit it ({shown}); {_ADVICE}")
        for path in masks:
            if owner.setdefault(path, image.path) != image.path:
                raise UserError(
                    f"{text_of(path)} fits {text_of(owner[path])} and {text_of(image.path)}; "
                    f"{_ADVICE}"
                )
        if masks:
            found[image.path] = tuple(masks)
    return found


def _common_end(one: Sequence[str], two: Sequence[str]) -> int:
    """How many of the last parts agree."""
    pairs = zip(reversed(one), reversed(two), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))


def _digest(path: Path) -> str:
    """Of an unreadable or empty file nothing: it is reported when it is decoded."""
    try:
        return file_digest(path) if path.stat().st_size else ""
    except (ImageError, OSError):
        return ""


def _copies(entries: Sequence[SourceEntry], digests: Mapping[Path, str]) -> dict[str, str]:
    """A note about images that are there twice; UserError when one is good and bad."""
    first: dict[str, SourceEntry] = {}
    copies = []
    for entry in entries:
        before = first.setdefault(digests[entry.path] or entry.name, entry)
        if (before.defect == GOOD) != (entry.defect == GOOD):
            raise UserError(
                f"{text_of(before.path)} and {text_of(entry.path)} are the same image, once good "
                "and once bad; remove one"
            )
        if before is not entry:
            copies.append(f"{entry.name} = {before.name}")
    if not copies:
        return {}
    return {"copies": f"{len(copies)} images are copies of others: {first_few(copies)}"}

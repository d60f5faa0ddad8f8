"""Sources of kind `scenes`: draw them on first use, and again when their settings change.

`scenes.loco.write_loco` writes whole categories or nothing, does nothing when they are complete,
and never replaces a folder that it did not write. It names folders after products; a category of
another name gets a link to a hidden one.
"""

from pathlib import Path

from pipeline.config.schema import CategorySettings
from pipeline.errors import UserError


def is_rendered(settings: CategorySettings) -> bool:
    """True when there is nothing to draw: another kind of source, or drawn before."""
    return settings.scenes is None or settings.root.is_dir()


def ensure_rendered(settings: CategorySettings) -> int:
    """Draw the category's scenes unless they are there as asked; the number of images drawn."""
    scenes, product, root = settings.scenes, settings.product, settings.root
    if scenes is None or product is None:
        return 0
    from scenes.loco import MARKER, write_loco

    named = root.name == product
    top = root.parent if named else root.parent / f".{root.name}"
    before = _changed(top / product / MARKER)
    try:
        folder = write_loco(
            top,
            product,
            train=scenes.train,
            validation=scenes.validation,
            test_good=scenes.test_good,
            per_defect=scenes.per_defect,
            seed=scenes.seed,
            size=scenes.size,
        )
        if root.is_symlink() and root.resolve() != folder.resolve():
            root.unlink()  # the category draws another product now
        if not named and not root.exists():
            root.symlink_to(folder.relative_to(root.parent), target_is_directory=True)
    except OSError as error:
        raise UserError(f"cannot draw scenes into {root}: {error.strerror or error}") from error
    if _changed(folder / MARKER) == before:
        return 0
    return sum(1 for path in folder.rglob("*.png") if "ground_truth" not in path.parts)


def _changed(path: Path) -> int:
    """When the file was written, 0 when it is not there."""
    return path.stat().st_mtime_ns if path.is_file() else 0

"""Sources of kind `scenes`: render them on first use, and again when their settings change.

`scenes.loco.write_loco` writes whole categories or nothing, does nothing when they are complete,
and never replaces a folder that it did not write. It names folders after products; a category of
another name becomes a symbolic link to a hidden folder.
"""

from pathlib import Path

from pipeline.config.schema import CategorySettings
from pipeline.errors import UserError


def is_rendered(settings: CategorySettings) -> bool:
    """True when there is nothing to render: another kind of source, or rendered before."""
    return settings.scenes is None or settings.root.is_dir()


def ensure_rendered(settings: CategorySettings) -> int:
    """Render the scenes of a category unless they exist with these settings.

    Returns the number of images that were rendered. Raises UserError where they cannot be written.
    """
    scenes, product, root = settings.scenes, settings.product, settings.root
    if scenes is None or product is None:
        return 0
    # Imported here, as only runs on example scenes need the renderer.
    from scenes.loco import MARKER, write_loco

    # `write_loco` writes into <top>/<product>.
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
            # The category names another product now.
            root.unlink()
        if not named and not root.exists():
            root.symlink_to(folder.relative_to(root.parent), target_is_directory=True)
    except OSError as error:
        raise UserError(f"cannot render scenes into {root}: {error.strerror or error}") from error
    # The marker is written with every rendering, so an unchanged one means that nothing was done.
    if _changed(folder / MARKER) == before:
        return 0
    return sum(1 for path in folder.rglob("*.png") if "ground_truth" not in path.parts)


def _changed(path: Path) -> int:
    """When the file was written, in nanoseconds; 0 when there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0

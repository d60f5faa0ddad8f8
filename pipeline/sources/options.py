"""What a user may say about a source beyond its kind and path.

Sources and categories of a manifest have these keys, and what a category states wins.
"""

from typing import Any

from pydantic import Field

from pipeline.settings import Settings

# One folder or several, below the source, as in anomalib's `Folder`, whose names these keys have.
Folders = tuple[str, ...] | str


def _key(meaning: str) -> Any:
    return Field(default=None, description=meaning)


NORMAL_DIR = _key("only for kind ok_ng: folder or folders of good images; null = by name")
NORMAL_TEST_DIR = _key(
    "only for kind ok_ng: good images for the test only; null = by name, else a fifth of the others"
)
ABNORMAL_DIR = _key("only for kind ok_ng: folder or folders of defective images; null = by name")
MASK_DIR = _key("only for kind ok_ng: folder or folders of masks; null = by name")
ALL_NORMAL = _key(
    "only for kind folder: true = every image is good, whatever folders and files look like"
)


class SourceOptions(Settings):
    """The folders of the layout `ok_ng` by what is in them; `all_normal` silences the guard."""

    normal_dir: Folders | None = NORMAL_DIR
    normal_test_dir: Folders | None = NORMAL_TEST_DIR
    abnormal_dir: Folders | None = ABNORMAL_DIR
    mask_dir: Folders | None = MASK_DIR
    all_normal: bool | None = ALL_NORMAL

    def folders(self, key: str) -> tuple[str, ...]:
        """The folders of one key; empty where it is not stated."""
        value = getattr(self, key)
        return (value,) if isinstance(value, str) else tuple(value or ())


NO_OPTIONS = SourceOptions()

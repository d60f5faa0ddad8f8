"""One walk through folders of images: junk, endings, links, order."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging.walk import LEADS_NOWHERE, natural_key, only_links, walk_images


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_images_of_any_ending_in_natural_order_and_no_junk(tmp_path):
    wanted = ["2.PNG", "10.jpeg", "a/1.Tif", "a/deep/3.webp", os.fsdecode(b"\xb2\xe2.bmp")]
    junk = [".hidden.png", "._2.PNG", "__MACOSX/2.PNG", "@eaDir/2.PNG", ".dvc/1.png", "Thumbs.db",
            "notes.txt"]  # fmt: skip
    touch(*(tmp_path / name for name in wanted + junk))
    (tmp_path / "folder.png").mkdir()
    found = walk_images(tmp_path)
    assert found.names == wanted
    assert found.left_out == []


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    """A folder as DVC leaves it: images and a folder are links into a cache outside."""
    cache, root = tmp_path / "cache", tmp_path / "images"
    touch(cache / "3f" / "aa", cache / "9c" / "bb", cache / "dir" / "7.png")
    root.mkdir()
    (root / "1.png").symlink_to(cache / "3f" / "aa")
    (root / "2.png").symlink_to(cache / "9c" / "bb")
    (root / "more").symlink_to(cache / "dir")
    # Circles of folders, and of a link with itself.
    (cache / "dir" / "round").symlink_to(root)
    (root / "self.png").symlink_to("self.png")
    return root


def test_links_that_lead_out_are_left_out_with_the_reason_and_the_way(tracked):
    found = walk_images(tracked)
    assert found.names == []
    assert [left.path.name for left in found.left_out] == ["1.png", "2.png", "more", "self.png"]
    cache = tracked.parent / "cache"
    assert f"--follow-links {cache}" in only_links(found.left_out[:3])


def test_links_into_a_named_folder_are_followed_each_folder_once(tracked):
    found = walk_images(tracked, tracked.parent / "cache")
    assert found.names == ["1.png", "2.png", "more/7.png"]
    # Named, but another one.
    assert walk_images(tracked, tracked.parent / "cache" / "3f").names == ["1.png"]


def test_links_inside_are_followed_to_files_only(tmp_path):
    touch(tmp_path / "a" / "1.png")
    (tmp_path / "2.png").symlink_to("a/1.png")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "3.png").symlink_to("gone.png")
    found = walk_images(tmp_path)
    assert found.names == ["2.png", "a/1.png"]
    assert {left.path.name: left.reason for left in found.left_out}["3.png"] == LEADS_NOWHERE
    assert {left.path.name for left in found.left_out} == {"3.png", "b"}


@given(st.lists(st.text("ab_1029-/ é瓶", max_size=8)))
def test_the_order_is_that_of_numbers_and_letters(names):
    import re

    def by_parts(name: str) -> list[tuple[int, int, str]]:
        parts = re.split("([0-9]+)", name)
        return [(1, int(p), p) if odd % 2 else (0, 0, p) for odd, p in enumerate(parts)]

    assert sorted(names, key=natural_key) == sorted(names, key=by_parts)

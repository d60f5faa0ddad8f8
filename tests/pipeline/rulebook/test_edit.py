"""Editing the YAML of a rule book without losing what a person wrote into it."""

from difflib import unified_diff
from pathlib import Path

import cv2
import numpy as np
import pytest
import toy_rules as toy

from pipeline.errors import UserError
from pipeline.rulebook.book import parse_text
from pipeline.rulebook.draft import Draft, draft
from pipeline.rulebook.edit import rename_part, set_rule
from pipeline.rulebook.sheet import TILE, decode, row_of
from pipeline.rulebook.write import BookFiles, write_draft

PATH = Path("board.rules.yaml")


@pytest.fixture(scope="module")
def juice() -> str:
    """A book with totals and pairs: a disc and a bar, both green or both blue."""
    images = []
    for seed in range(12):
        image_HW3 = np.full((128, 128, 3), 128, np.uint8)
        colour = toy.GREEN if seed % 2 else toy.BLUE
        toy.disc(image_HW3, 32, 60 + seed % 3, colour)
        toy.bar(image_HW3, 92, 60 - seed % 3, colour)
        images.append(image_HW3)
    found = [toy.ToyFinder()(image) for image in images]
    return BookFiles.of(draft(found, "juice"), PATH, found, images.__getitem__).text


def changed(before: str, after: str) -> list[str]:
    """The lines that a diff shows, without its head."""
    lines = unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


def test_a_rename_reaches_every_place_and_nothing_else(juice: str) -> None:
    text = rename_part(juice, "part_1", "green_bar")
    assert set(changed(juice, text)) == {
        "-# Rules are called part_1.count, part_1.place and so on; samples are labelled with them.",
        "+# Rules are called green_bar.count, green_bar.place and so on; samples are labelled with "
        "them.",
        "-  part_1:  # seen in 6 of 12 images; 0 in 50%",
        "+  green_bar:  # seen in 6 of 12 images; 0 in 50%",
        "-  - {name: one_of_1, parts: [part_1, part_3], count: 1}",
        "+  - {name: one_of_1, parts: [green_bar, part_3], count: 1}",
        "-  - {name: pair_1, parts: [part_1, part_2]}",
        "+  - {name: pair_1, parts: [green_bar, part_2]}",
    }
    # The order of the parts stays, and the way back leads to the same bytes.
    assert list(parse_text(text, PATH).parts) == ["green_bar", "part_2", "part_3", "part_4"]
    assert rename_part(text, "green_bar", "part_1") == juice


def test_counts_and_places_are_one_line_each(file: Path) -> None:
    text = file.read_text()
    assert set_rule(text, "part_1", "count", 3) == text
    wider = set_rule(text, "part_1", "count", [2, 3])
    assert changed(text, wider) == ["-    count: 3", "+    count: [2, 3]"]
    boxed = set_rule(wider, "part_2", "place", {"box": [0.2, -0.3, 0.4, 0.3]})
    assert "+    place: {box: [0.2, -0.3, 0.4, 0.3]}" in changed(wider, boxed)
    assert parse_text(boxed, PATH).parts["part_2"].place.box == (0.2, -0.3, 0.4, 0.3)  # type: ignore[union-attr]
    # Slots are written as a draft writes them, so that setting the same ones again changes nothing.
    slots = {"slots": [[0.279, -0.201], [0.287, 0.204]], "radius": 0.033}
    assert set_rule(boxed, "part_2", "place", slots) == wider


def test_what_a_person_wrote_stays(file: Path) -> None:
    text = file.read_text().replace("    count: 3", "    count: 3   # never two: ask Anna")
    text = text.replace("parts:\n", "parts:\n  # from the drawing of 2019\n")
    after = rename_part(set_rule(text, "part_1", "count", "any"), "part_1", "disc")
    assert "    count: any # never two: ask Anna\n" in after.replace("any   #", "any #")
    assert "parts:\n  # from the drawing of 2019\n  disc:" in after


def test_a_rule_whose_line_was_deleted_comes_back(file: Path) -> None:
    text = file.read_text().replace("    count: 3\n", "")
    assert parse_text(set_rule(text, "part_1", "count", 4), PATH).parts["part_1"].count == 4


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: rename_part(text, "part_9", "x"), "no part is called 'part_9'"),
        (lambda text: rename_part(text, "part_1", "part_2"), "there is a part part_2 already"),
        (lambda text: rename_part(text, "part_1", "../x"), "expected a name of letters"),
        (lambda text: rename_part(text, "part_1", "a: b"), "expected a name of letters"),
        (lambda text: set_rule(text, "part_1", "count", [4, 2]), "must not be above the second"),
        (lambda text: set_rule(text, "part_1", "count", -1), "parts.part_1.count"),
        (lambda text: set_rule(text, "part_1", "place", {"box": [1, 0, 0, 1]}), "left and top"),
        (lambda text: set_rule(text, "part_1", "place", {"slots": []}), "at least one"),
    ],
)
def test_an_edit_that_makes_no_valid_book_is_refused(file: Path, edit, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        edit(file.read_text())
    # Lines of a text that nobody has seen are not named.
    assert "rules:" not in str(caught.value)


def test_the_files_of_a_draft_are_those_that_it_writes(
    drafted: tuple[Draft, list[np.ndarray]], file: Path, tmp_path: Path
) -> None:
    made, images = drafted
    found = [toy.ToyFinder()(image) for image in images]
    written = write_draft(made, tmp_path / file.name, found, images.__getitem__)
    files = BookFiles.of(made, tmp_path / file.name, found, images.__getitem__)
    content = [files.text.encode(), files.examples, files.sheet]
    assert [path.read_bytes() for path in written] == content
    again = BookFiles.read(tmp_path / file.name)
    assert (again.text, again.examples, again.sheet) == (files.text, files.examples, files.sheet)


def test_the_contact_sheet_has_the_new_name_and_the_same_cutouts(file: Path) -> None:
    before = BookFiles.read(file)
    after = before.with_text(rename_part(before.text, "part_1", "disc"), file)
    old, new = decode(before.sheet), decode(after.sheet)
    assert not np.array_equal(old, new)
    assert np.array_equal(row_of(old, 0), row_of(new, 0))
    assert row_of(new, 0).shape[0] == TILE
    # And back: the title is drawn over the old one.
    back = after.with_text(before.text, file)
    assert np.array_equal(decode(back.sheet), old)
    # White where no part is: every member of the toy board has a red or blue cutout.
    assert cv2.cvtColor(row_of(new, 0), cv2.COLOR_RGB2HSV)[..., 1].max() > 100
    with pytest.raises(IndexError):
        row_of(new, 2)

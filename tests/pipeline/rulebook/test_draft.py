"""Drafting a rule book from normal images."""

import numpy as np
import pytest
import toy_rules as toy

from pipeline.errors import UserError
from pipeline.rulebook.draft import Draft, draft


def test_a_draft_finds_the_kinds_their_counts_and_their_places(
    drafted: tuple[Draft, list[np.ndarray]],
) -> None:
    book = drafted[0].book
    assert {name: part.count for name, part in book.parts.items()} == {"part_1": 3, "part_2": 2}
    slots = {name: part.place.slots for name, part in book.parts.items()}  # type: ignore[union-attr]
    for name, spots in (("part_1", toy.LEFT), ("part_2", toy.RIGHT)):
        expected = toy.FRAME.inward(np.array(spots))
        found = np.array(sorted(slots[name] or (), key=lambda slot: slot[1]))
        assert np.abs(found - expected).max() < 0.02
    # Both kinds have slots of their own.
    assert book.order
    upright = book.parts["part_2"].turn
    assert not isinstance(upright, str)
    assert abs((upright.around or 0) - 90) < 3


def test_the_same_images_give_the_same_draft(drafted: tuple[Draft, list[np.ndarray]]) -> None:
    find = toy.ToyFinder()
    again = draft([find(image) for image in drafted[1]], "board")
    assert again.book == drafted[0].book
    for name in again.examples.FIELDS:
        assert np.array_equal(getattr(again.examples, name), getattr(drafted[0].examples, name))


def test_a_count_that_varies_becomes_a_range() -> None:
    images = [toy.board(seed) for seed in range(12)]
    for image_HW3 in images[::2]:
        toy.disc(image_HW3, 62, 64)
    find = toy.ToyFinder()
    made = draft([find(image) for image in images], "board")
    assert made.book.parts["part_1"].admitted == (3, 4)


def test_interchangeable_kinds_and_kinds_in_equal_numbers() -> None:
    """Either a green disc and a green bar, or a blue disc and a blue bar, like juice and label."""
    images = []
    for seed in range(16):
        image_HW3 = np.full((128, 128, 3), 128, np.uint8)
        colour = toy.GREEN if seed % 2 else toy.BLUE
        toy.disc(image_HW3, 32, 60 + seed % 3, colour)
        toy.bar(image_HW3, 92, 60 - seed % 3, colour)
        images.append(image_HW3)
    find = toy.ToyFinder()
    made = draft([find(image) for image in images], "juice").book
    assert len(made.parts) == 4
    assert [total.count for total in made.totals] == [1, 1]
    assert len(made.together) == 2
    # One of each family, of one colour.
    for pair in made.together:
        labs = [made.parts[name].colour.lab for name in pair.parts]  # type: ignore[union-attr]
        assert np.linalg.norm(np.subtract(*labs)) < 15


def test_kinds_that_do_not_recur_are_not_used() -> None:
    images = [toy.board(seed) for seed in range(12)]
    for image_HW3 in images[:4]:
        toy.disc(image_HW3, 62, 20, toy.GREEN, r=5)
    find = toy.ToyFinder()
    made = draft([find(image) for image in images], "board")
    assert len(made.book.parts) == 2
    assert list(made.not_used.values()) == ["found in 4 of 12 images only"]


def test_a_draft_needs_enough_images() -> None:
    find = toy.ToyFinder()
    with pytest.raises(UserError, match="3 good images are too few"):
        draft([find(toy.board(seed)) for seed in range(3)], "board")


@pytest.mark.slow
def test_with_the_bundled_models_on_rendered_pins() -> None:
    """Five pins of each colour in five cells each, as the renderer draws them."""
    from benchmarks.rules import measure

    rows = measure("pins", 8, 70_700_000)
    assert [(row.part, row.drafted) for row in rows] == [
        ("pin_blue", (5, 5)), ("pin_red", (5, 5)), ("pin_yellow", (5, 5)),
    ]  # fmt: skip

"""Checking the rules of a book on an image."""

import numpy as np
import toy_rules as toy

from pipeline.rulebook.book import RuleBook


def test_an_image_without_any_part_breaks_the_counts(book: RuleBook) -> None:
    empty_HW3 = np.full((128, 128, 3), 128, np.uint8)
    assert toy.broken(book, empty_HW3) == ["part_1.count", "part_2.count"]


def test_a_normal_board_breaks_nothing(book: RuleBook) -> None:
    assert toy.broken(book, toy.board(77)) == []


def test_a_part_in_the_slot_of_another_kind_breaks_order_and_not_place(book: RuleBook) -> None:
    image_HW3 = toy.board(77)
    toy.wipe(image_HW3, *toy.RIGHT[0])
    toy.disc(image_HW3, *toy.RIGHT[0])
    assert toy.broken(book, image_HW3) == ["part_1.count", "part_2.count", "order"]

"""Judging edits by a rule book: exactly the intended rules must be broken."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import toy_rules as toy

from pipeline.generation import sampler
from pipeline.generation.cache import StageCache
from pipeline.imaging.masks import dilated
from pipeline.models.build import Models
from pipeline.records import Edit, ObjectProposals, Sample, Verdict
from pipeline.rulebook.book import RuleBook
from pipeline.rulebook.judge import Judge


def a_sample(
    source_HW3: np.ndarray,
    kind: str,
    targets: tuple[int, ...],
    parameters: dict[str, object],
    paint: Callable[[np.ndarray], object],
) -> tuple[Edit, Sample, ObjectProposals]:
    edited_HW3 = source_HW3.copy()
    paint(edited_HW3)
    change_HW = dilated((edited_HW3 != source_HW3).any(2), 3)
    masks_NHW = toy.ToyFinder()(source_HW3).masks_NHW
    proposals = ObjectProposals(
        masks_NHW, np.ones(len(masks_NHW), np.float32), np.ones((128, 128), np.bool_)
    )
    edit = Edit(kind, targets, parameters, seed=0)
    object_HW = masks_NHW[list(targets)].any(0)
    return edit, Sample(edit, edited_HW3, change_HW, object_HW), proposals


def judged(
    book: RuleBook,
    kind: str,
    target: tuple[int, int],
    paint: Callable[[np.ndarray], object],
    source_HW3: np.ndarray | None = None,
    **parameters: object,
) -> Verdict:
    source_HW3 = toy.board(77) if source_HW3 is None else source_HW3
    masks_NHW = toy.ToyFinder()(source_HW3).masks_NHW
    index = next(k for k, mask in enumerate(masks_NHW) if mask[target[1], target[0]])
    edit, sample, proposals = a_sample(source_HW3, kind, (index,), parameters, paint)
    judge = Judge(book, toy.ToyFinder())
    return judge.judge(edit, sample, source_HW3, proposals, Verdict(True, "", {"seam": 1.0}))


def move(image_HW3: np.ndarray, dx: int, dy: int) -> None:
    x, y = toy.LEFT[1]
    piece = image_HW3[y - 12 : y + 13, x - 12 : x + 13].copy()
    toy.wipe(image_HW3, x, y, reach=12)
    image_HW3[y + dy - 12 : y + dy + 13, x + dx - 12 : x + dx + 13] = piece


def test_a_missing_part_breaks_its_count_and_nothing_else(book: RuleBook) -> None:
    verdict = judged(book, "missing", toy.LEFT[1], lambda i: toy.wipe(i, *toy.LEFT[1], reach=13))
    assert (verdict.accepted, verdict.rule) == (True, "part_1.count")
    assert verdict.findings == ("part_1.count: expected 3, found 2",)
    assert verdict.broken == ("part_1.count",)
    assert verdict.scores["seam"] == 1.0
    assert verdict.scores["rules_broken"] == 1.0


def test_a_part_between_the_slots_is_out_of_place(book: RuleBook) -> None:
    verdict = judged(book, "misplaced", toy.LEFT[1], lambda i: move(i, 30, 0), offset=[30, 0])
    assert (verdict.reason, verdict.rule, verdict.broken) == (
        "", "part_1.place", ("part_1.place",),
    )  # fmt: skip


def test_a_move_that_the_rules_allow_breaks_none(book: RuleBook) -> None:
    verdict = judged(book, "misplaced", toy.LEFT[1], lambda i: move(i, 1, 0), offset=[1, 0])
    assert (verdict.accepted, verdict.reason) == (False, "breaks_no_rule")


def test_a_removal_that_left_the_part_there_is_rejected(book: RuleBook) -> None:
    x, y = toy.LEFT[1]
    verdict = judged(book, "missing", (x, y), lambda i: i.__setitem__((y, x), 128))
    assert (verdict.reason, verdict.rule) == ("breaks_rule_unseen", "part_1.count")


def test_a_removal_of_more_than_the_edit_says_is_rejected(book: RuleBook) -> None:
    def paint(image_HW3: np.ndarray) -> None:
        toy.wipe(image_HW3, *toy.LEFT[1], reach=13)
        toy.wipe(image_HW3, *toy.RIGHT[0], reach=16)

    verdict = judged(book, "missing", toy.LEFT[1], paint)
    assert (verdict.reason, verdict.rule) == ("breaks_other_rules", "part_1.count")
    assert verdict.broken == ("part_1.count", "part_2.count")


def test_a_wrong_colour_is_named(book: RuleBook) -> None:
    def paint(image_HW3: np.ndarray) -> None:
        y = toy.LEFT[1][1]
        mask = (image_HW3[..., 0] > 150) & (np.abs(np.arange(128) - y) < 14)[:, None]
        image_HW3[mask] = toy.GREEN

    verdict = judged(book, "wrong_colour", toy.LEFT[1], paint)
    assert (verdict.reason, verdict.broken) == ("", ("part_1.colour",))


def test_a_control_must_break_nothing(book: RuleBook) -> None:
    quiet = judged(book, "control_noop", toy.LEFT[1], lambda i: None)
    assert quiet.accepted
    assert quiet.broken == ()
    assert quiet.rule == ""
    loud = judged(book, "control_noop", toy.LEFT[1], lambda i: toy.wipe(i, *toy.LEFT[1], reach=13))
    assert (loud.reason, loud.broken) == ("breaks_a_rule", ("part_1.count",))


def test_a_rule_that_the_source_breaks_does_not_count(book: RuleBook) -> None:
    """A disc is missing in the source: its count is blind there, other rules are not."""
    source_HW3 = toy.board(77)
    toy.wipe(source_HW3, *toy.LEFT[0], reach=13)
    blind = judged(
        book, "missing", toy.LEFT[1],
        lambda i: toy.wipe(i, *toy.LEFT[1], reach=13), source_HW3,
    )  # fmt: skip
    assert blind.reason == "breaks_no_rule"
    assert blind.scores["rules_blind"] == 1.0
    bar = judged(
        book, "missing", toy.RIGHT[0],
        lambda i: toy.wipe(i, *toy.RIGHT[0], reach=16), source_HW3,
    )  # fmt: skip
    assert bar.accepted
    assert bar.broken == ("part_2.count",)


def test_the_source_is_segmented_once(book: RuleBook) -> None:
    find = toy.ToyFinder()
    judge = Judge(book, find)
    source_HW3 = toy.board(77)
    made = a_sample(source_HW3, "missing", (1,), {}, lambda i: toy.wipe(i, *toy.LEFT[1], reach=13))
    for _ in range(3):
        judge.judge(*made[:2], source_HW3, made[2], Verdict(True))
    # The source once, each sample once.
    assert find.calls == 4


def test_workers_that_share_a_judge_keep_a_source_each(book: RuleBook) -> None:
    find = toy.ToyFinder()
    judge, turns = Judge(book, find), threading.Barrier(2)

    def work(seed: int) -> None:
        source_HW3 = toy.board(seed)
        erase = lambda i: toy.wipe(i, *toy.LEFT[1], reach=13)  # noqa: E731
        made = a_sample(source_HW3, "missing", (1,), {}, erase)
        for _ in range(3):
            # Strictly alternating: the worst case if the source were shared.
            turns.wait(timeout=60)
            judge.judge(*made[:2], source_HW3, made[2], Verdict(True))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (77, 78)))
    assert find.calls == 8


def test_the_judges_of_a_run_are_let_go_with_the_models_that_they_hold(
    file: Path, tmp_path: Path
) -> None:
    network: Any = toy.ToyFinder()
    models = Models(network, None, network, network, "cpu", None)
    held = weakref.ref(network)
    sampler._resident_rules(file, "digest", models, StageCache(tmp_path))
    del network, models
    assert held() is not None
    sampler.forget_models()
    assert held() is None

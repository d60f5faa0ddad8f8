"""Rule books: drafting from good images, reading and editing the YAML, judging edits."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_rules as toy

from pipeline.errors import ManifestError, UserError
from pipeline.imaging.masks import dilated
from pipeline.records import Edit, ForegroundMask, ObjectProposals, Sample, Verdict
from pipeline.rulebook.book import RuleBook, digest_of_file, load
from pipeline.rulebook.check import broken_rules, seen_in
from pipeline.rulebook.draft import Draft, draft
from pipeline.rulebook.judge import Judge
from pipeline.rulebook.parts import ProductFrame, chosen, frame_of
from pipeline.rulebook.write import write_draft

IMAGES = 14


@pytest.fixture(scope="module")
def drafted() -> tuple[Draft, list[np.ndarray]]:
    images = [toy.board(seed) for seed in range(IMAGES)]
    find = toy.ToyFinder()
    return draft([find(image) for image in images], "board"), images


@pytest.fixture(scope="module")
def file(drafted: tuple[Draft, list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, images = drafted
    path = tmp_path_factory.mktemp("book") / "board.rules.yaml"
    found = [toy.ToyFinder()(image) for image in images]
    write_draft(made, path, found, images.__getitem__)
    return path


@pytest.fixture(scope="module")
def book(file: Path) -> RuleBook:
    return load(file)


@pytest.fixture
def copy(file: Path, tmp_path: Path) -> Path:
    """A book of one's own, to edit."""
    for name in (file.name, file.with_suffix(".safetensors").name):
        (tmp_path / name).write_bytes((file.parent / name).read_bytes())
    return tmp_path / file.name


def broken(book: RuleBook, image_HW3: np.ndarray) -> list[str]:
    return list(broken_rules(book, seen_in(book, toy.ToyFinder()(image_HW3))))


# --- drafting


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
    assert book.order  # both kinds have slots of their own
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


def test_kinds_that_stand_in_for_each_other_and_kinds_that_come_together() -> None:
    """Either a green disc and a green bar, or a blue disc and a blue bar: juice and label."""
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
    for pair in made.together:  # one of each family, of one colour
        labs = [made.parts[name].colour.lab for name in pair.parts]  # type: ignore[union-attr]
        assert np.linalg.norm(np.subtract(*labs)) < 15


def test_what_does_not_recur_is_not_used() -> None:
    images = [toy.board(seed) for seed in range(12)]
    for image_HW3 in images[:4]:
        toy.disc(image_HW3, 62, 20, toy.GREEN, r=5)
    find = toy.ToyFinder()
    made = draft([find(image) for image in images], "board")
    assert len(made.book.parts) == 2
    assert list(made.not_used.values()) == ["found in 4 of 12 images only"]


def test_a_draft_asks_for_enough_images() -> None:
    find = toy.ToyFinder()
    with pytest.raises(UserError, match="3 good images are too few"):
        draft([find(toy.board(seed)) for seed in range(3)], "board")


# --- reading and editing


def test_a_book_survives_being_written_and_read(
    file: Path, drafted: tuple[Draft, list[np.ndarray]]
) -> None:
    loaded = load(file)
    assert loaded.book.parts == drafted[0].book.parts
    assert loaded.digest == digest_of_file(file)
    assert file.with_suffix(".png").stat().st_size > 1000
    assert all(not broken(loaded, toy.board(seed)) for seed in range(100, 110))


def test_renaming_and_correcting(copy: Path) -> None:
    before = digest_of_file(copy)
    text = copy.read_text()
    copy.write_text("# mine\n" + text)
    assert digest_of_file(copy) == before  # a comment says nothing
    copy.write_text(text.replace("part_1:", "disc:").replace("count: 3", "count: [2, 3]"))
    assert digest_of_file(copy) != before
    loaded = load(copy)
    assert loaded.book.parts["disc"].admitted == (2, 3)
    image_HW3 = toy.board(50)
    toy.wipe(image_HW3, *toy.LEFT[1])
    assert broken(loaded, image_HW3) == []
    toy.wipe(image_HW3, *toy.LEFT[0], reach=14)
    assert broken(loaded, image_HW3) == ["disc.count"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("count: 3", "count: [4, 2]", "first number must not be above the second"),
        ("count: 3", "cuont: 3", "did you mean count"),
        ("count: 3", "count: three", "parts.part_1.count"),
        ("examples: 1", "examples: 7", "there are groups 0 to 1, got 7"),
        ("examples: 1", "examples: 0", "examples 0 are part_1 already"),
        ("order: true", "order: true\ntogether: [{name: t, parts: [part_1, part_3]}]",
         "no part is called 'part_3'; did you mean part_"),
        ("order: true", "order: true\ntogether: [{name: order, parts: [part_1, part_2]}]",
         "two rules are called 'order'; rename one"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(copy: Path, old: str, new: str, said: str) -> None:
    text = copy.read_text()
    assert text.count(old) == 1
    copy.write_text(text.replace(old, new))
    line = text[: text.index(old)].count("\n") + 1 + new[: new.rfind("\n") + 1].count("\n")
    with pytest.raises(ManifestError) as caught:
        load(copy)
    assert said in str(caught.value)
    assert any(str(caught.value).startswith(f"{copy}:{k}:") for k in (line, line + 1))


def test_book_and_examples_belong_together(copy: Path) -> None:
    examples = copy.with_suffix(".safetensors")
    examples.write_bytes(examples.read_bytes() + b"\0")
    with pytest.raises(ManifestError, match="copy book and examples together"):
        load(copy)
    examples.unlink()
    with pytest.raises(ManifestError, match="belongs beside the rule book"):
        load(copy)


# --- judging


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


def test_a_removal_that_left_the_part_there_is_refused(book: RuleBook) -> None:
    x, y = toy.LEFT[1]
    verdict = judged(book, "missing", (x, y), lambda i: i.__setitem__((y, x), 128))
    assert (verdict.reason, verdict.rule) == ("breaks_rule_unseen", "part_1.count")


def test_a_removal_that_takes_more_than_it_says_is_refused(book: RuleBook) -> None:
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


def test_a_rule_that_the_source_breaks_counts_for_neither(book: RuleBook) -> None:
    """A disc was not found in the source: its count is blind there, other rules are not."""
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


def test_a_picture_without_any_part_breaks_the_counts(book: RuleBook) -> None:
    empty_HW3 = np.full((128, 128, 3), 128, np.uint8)
    assert broken(book, empty_HW3) == ["part_1.count", "part_2.count"]


def test_the_source_is_looked_at_once(book: RuleBook) -> None:
    find = toy.ToyFinder()
    judge = Judge(book, find)
    source_HW3 = toy.board(77)
    made = a_sample(source_HW3, "missing", (1,), {}, lambda i: toy.wipe(i, *toy.LEFT[1], reach=13))
    for _ in range(3):
        judge.judge(*made[:2], source_HW3, made[2], Verdict(True))
    assert find.calls == 4  # the source once, each sample once


def test_workers_that_share_a_judge_keep_a_source_each(book: RuleBook) -> None:
    find = toy.ToyFinder()
    judge, turns = Judge(book, find), threading.Barrier(2)

    def work(seed: int) -> None:
        source_HW3 = toy.board(seed)
        erase = lambda i: toy.wipe(i, *toy.LEFT[1], reach=13)  # noqa: E731
        made = a_sample(source_HW3, "missing", (1,), {}, erase)
        for _ in range(3):
            turns.wait(timeout=60)  # strictly by turns, the worst case for one shared source
            judge.judge(*made[:2], source_HW3, made[2], Verdict(True))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (77, 78)))
    assert find.calls == 8


# --- parts


def test_a_pile_gives_way_to_the_parts_that_fill_it() -> None:
    masks = np.zeros((4, 20, 40), np.bool_)
    masks[0, 5:15, 5:35] = True  # both together, surest alone
    masks[1, 5:15, 5:19] = True
    masks[2, 5:15, 21:35] = True
    masks[3, 7:10, 7:10] = True  # a shine on one of them
    scores = np.array([0.9, 0.85, 0.85, 0.7], np.float32)
    kept = chosen(ObjectProposals(masks, scores, np.ones((20, 40), np.bool_)))
    assert sorted(mask.sum() for mask in kept) == [140, 140]
    alone = np.array([0.9, 0.62, 0.62, 0.6], np.float32)
    kept = chosen(ObjectProposals(masks, alone, np.ones((20, 40), np.bool_)))
    assert [mask.sum() for mask in kept] == [300]
    none = ObjectProposals(masks[:0], scores[:0], np.ones((20, 40), np.bool_))
    assert chosen(none).shape == (0, 20, 40)


def test_the_frame_undoes_shift_and_turn() -> None:
    frame = ProductFrame(40.0, 60.0, 0.2, 50.0)
    points = np.array([[40.0, 60.0], [10.0, 90.0], [70.5, 3.25]])
    assert np.allclose(frame.outward(frame.inward(points)), points)
    assert np.allclose(frame.inward(points)[0], 0)
    mask_HW = np.zeros((128, 128), np.bool_)
    mask_HW[30:90, 20:110] = True
    box = frame_of(ForegroundMask(mask_HW))
    assert abs(box.angle) < 0.01
    assert abs(box.size - np.sqrt(59 * 89)) < 2
    assert frame_of(ForegroundMask(mask_HW, fallback="none")).size == 128


@pytest.mark.slow
def test_with_the_bundled_models_on_rendered_pins() -> None:
    """Five pins of each colour in five cells each, as the renderer draws them."""
    from benchmarks.rules import measure

    rows = measure("pins", 8, 70_700_000)
    assert [(row.part, row.drafted) for row in rows] == [
        ("pin_blue", (5, 5)), ("pin_red", (5, 5)), ("pin_yellow", (5, 5)),
    ]  # fmt: skip


def test_verdicts_without_a_book_say_nothing_of_rules() -> None:
    from pipeline.dataset.lineage import rules_record

    assert rules_record(Verdict(True, "", {"seam": 1.0})) == {}
    ruled = Verdict(False, "breaks_no_rule", {"rules_broken": 0.0})
    assert rules_record(ruled) == {"rule": "", "broken": []}
    assert replace(ruled, rule="a.count").rule == "a.count"

"""Messages about many files: one line per message, a count, three examples."""

from pipeline.utils.repeated import OnceEach, repeated

EMPTY = "the file has zero bytes; copy it again"


def test_a_single_file_keeps_its_message():
    assert repeated([("a.png", "/data/a.png: damaged; copy it again")]) == [
        "/data/a.png: damaged; copy it again"
    ]
    assert repeated([("a.png", "a link that leads nowhere")]) == [
        "a.png: a link that leads nowhere"
    ]
    assert repeated([]) == []


def test_sixty_files_with_one_message_are_one_line_with_three_examples():
    names = [f"test/crack/{number:03d}.png" for number in range(60)]
    found = repeated((name, f"/data/{name}: {EMPTY}") for name in names)
    assert found == [f"60 files: {EMPTY} ({names[0]}, {names[1]}, {names[2]} and 57 more)"]


def test_the_name_of_the_file_and_numbers_do_not_make_another_message():
    found = repeated(
        (f"cut/{stem}.jpg", f"expected masks/cut/{stem}_mask.png, {size} x 9 px, got none")
        for stem, size in (("001", 12), ("left", 13), ("right", 400))
    )
    assert len(found) == 1
    assert found[0].startswith("3 files: expected masks/cut/001_mask.png, 12 x 9 px")


def test_other_messages_are_other_lines_in_the_order_of_their_first_file():
    problems = [("a", "empty"), ("b", "damaged"), ("c", "empty")]
    assert repeated(problems) == ["2 files: empty (a, c)", "b: damaged"]


def test_a_stream_of_messages_falls_silent_after_three():
    once = OnceEach()
    lines = [once.lines([(f"{number}.png", EMPTY)]) for number in range(5)]
    assert lines == [
        [f"0.png: {EMPTY}"],
        [f"1.png: {EMPTY}"],
        [f"2.png: {EMPTY}; more of these are only counted"],
        [],
        [],
    ]
    assert once.lines([("x.png", "damaged")]) == ["x.png: damaged"]


def test_a_batch_of_many_is_one_line_and_then_silence():
    once = OnceEach()
    (line,) = once.lines([(f"{number}.png", EMPTY) for number in range(9)])
    assert line == f"9 files: {EMPTY} (0.png, 1.png, 2.png and 6 more)"
    assert once.lines([("9.png", EMPTY)]) == []

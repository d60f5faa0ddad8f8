"""Text tables: columns line up, numbers on the right, long paths lose their beginning."""

from pipeline.utils.text_table import table


def test_the_first_column_is_left_aligned_and_the_others_right():
    text = table(("kind", "attempted"), [("missing", 3), ("extra", 12)])
    assert text.splitlines() == [
        "kind     attempted",
        "------------------",
        "missing          3",
        "extra           12",
    ]


def test_the_last_alignment_holds_for_the_columns_after_it():
    assert table(None, [("a", "b", "c"), ("aa", "bb", "cc")], "<") == "a   b   c\naa  bb  cc"
    assert table(None, [("a", 1, 2), ("aa", 10, 20)], "<") == "a   1   2\naa  10  20"


def test_no_line_ends_in_spaces_and_indented_tables_are_ruled_from_the_indent():
    text = table(("name", "note"), [("a", ""), ("b", "x")], "<", indent="  ")
    assert text.splitlines() == ["  name  note", "  ----------", "  a", "  b     x"]


def test_a_width_cuts_the_beginning_of_the_last_column():
    rows = [("weights", "/a/very/long/path/file.pt"), ("other", "-")]
    lines = table(("name", "path"), rows, "<", width=20).splitlines()
    assert max(map(len, lines)) == 20
    assert lines[2] == "weights  …th/file.pt"


def test_no_rows_and_no_head_are_an_empty_text():
    assert table(None, []) == ""

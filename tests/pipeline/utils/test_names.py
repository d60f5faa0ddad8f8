"""Names as text: reversible, encodable by everything, on one line."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.utils.names import is_utf8, path_of, text_of, visible, visible_lines


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"000.png", "000.png"),
        ("瓶子 é.png".encode(), "瓶子 é.png"),
        # 测试 in GBK.
        (b"\xb2\xe2\xca\xd4.png", r"\xb2\xe2\xca\xd4.png"),
        (b"a\nb\x1b[31m.png", r"a\x0ab\x1b[31m.png"),
        (rb"C:\part.png", r"C:\\part.png"),
        (rb"\xb2.png", r"\\xb2.png"),
    ],
)
def test_a_name_becomes_text(name, text):
    assert text_of(os.fsdecode(name)) == text
    assert os.fsencode(path_of(text)) == name


FILE_NAMES = st.binary(min_size=1, max_size=30).filter(
    lambda name: not set(name) & set(b"\0/") and name not in (b".", b"..")
)


@given(FILE_NAMES)
def test_every_name_of_a_file_can_be_stored_and_found_again(name):
    text = text_of(Path(os.fsdecode(name)))
    assert json.loads(json.dumps(text, ensure_ascii=False).encode()) == text
    assert len(text.splitlines()) <= 1 or not text.isprintable()
    assert os.fsencode(path_of(text)) == name
    visible(os.fsdecode(name)).encode()


def test_people_see_what_is_invisible():
    assert visible("d\udcb2\u202e.png") == r"d\xb2\u202e.png"
    assert visible_lines("one\n\x1b[31mtwo") == "one\n\\x1b[31mtwo"


def test_a_name_in_another_encoding_is_recognised():
    assert is_utf8("瓶子")
    assert not is_utf8(os.fsdecode(b"\xb2\xe2"))

"""The id of a sample is read as it is written, and nothing else is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.sample_id import parsed, sample_id


@given(st.text(max_size=20), st.integers(0, 999_999_999), st.integers(0, 999_999_999))
def test_an_id_is_read_as_it_was_written(image: str, number: int, attempt: int) -> None:
    assert parsed(sample_id(image, number, attempt)) == (image, number, attempt)


@pytest.mark.parametrize(
    "text", ["", "a", "a@1", "a@.1", "a@1.x", "a@-1.0", "a@²0.1", "a@1.1234567890"]
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert parsed(text) is None

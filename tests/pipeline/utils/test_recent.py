"""What was made lately is kept, and only so much of it."""

import numpy as np

from pipeline.utils.recent import Recent


def made(calls: list[str], name: str):
    def make() -> tuple[np.ndarray, ...]:
        calls.append(name)
        return (np.full(10, len(calls), np.uint8),)

    return make


def test_the_same_key_is_made_once_and_another_one_again():
    calls, recent = [], Recent()
    first = recent(made(calls, "a"), "a", (1, 2))
    assert recent(made(calls, "a"), "a", (1, 2)) is first
    recent(made(calls, "b"), "a", (1, 3))
    assert calls == ["a", "b"]


def test_what_was_not_asked_for_lately_is_forgotten():
    calls, recent = [], Recent(most=25)
    for name in ("a", "b", "a", "c"):
        recent(made(calls, name), name)
    # Two of ten bytes fit: asked for again, "a" outlived "b".
    recent(made(calls, "a"), "a")
    recent(made(calls, "b"), "b")
    assert calls == ["a", "b", "c", "b"]


def test_what_alone_is_too_much_is_not_kept():
    calls, recent = [], Recent(most=5)
    for _ in range(2):
        assert recent(made(calls, "a"), "a")[0].size == 10
    assert calls == ["a", "a"]

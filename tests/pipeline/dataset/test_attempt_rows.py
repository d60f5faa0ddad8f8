"""Rows that wait for the table of attempts take little memory and come back exactly."""

import math

from pipeline.dataset.attempt_rows import AttemptRows


def of_image(number: int) -> list[dict[str, object]]:
    return [
        {
            "image": f"{number:05d}.png", "number": attempt, "attempt": 0, "kind": "misplaced",
            "seed": 2**64 - 1 - attempt, "accepted": attempt % 3 == 0, "reason": "no_edit",
            "scores": {"delta_e": math.pi * attempt, "ssim": 1 / (1 + number + attempt)},
            "seconds": 0.1 * attempt, "shard": None, "row": None,
        }
        for attempt in range(20)
    ]  # fmt: skip


def test_rows_come_back_as_they_were_and_with_what_became_known_later() -> None:
    rows = AttemptRows()
    expected = []
    for number in range(3):
        rows.extend(of_image(number))
        expected += of_image(number)
    rows.extend([])
    rows.update(41, {"shard": "rejects.h5", "row": 7})
    expected[41] |= {"shard": "rejects.h5", "row": 7}
    assert len(rows) == 60
    # Keys in the same order, and more than once.
    assert [list(row.items()) for row in rows] == [list(row.items()) for row in expected]
    assert list(rows) == expected


def test_a_thousand_images_take_less_than_a_megabyte() -> None:
    rows = AttemptRows()
    for number in range(100):
        rows.extend(of_image(number))
    assert sum(map(len, rows._blocks)) < 100_000

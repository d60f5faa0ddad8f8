"""Scores do not depend on the memory alignment of an image: digests would differ between runs."""

import numpy as np
import pytest

from pipeline.imaging import artifacts

RNG = np.random.default_rng(0)
IMAGE_HW3 = RNG.integers(0, 256, (61, 83, 3), np.uint8)
WHERE_HW = np.zeros((61, 83), np.bool_)
WHERE_HW[20:40, 30:60] = True


def at_every_place(array: np.ndarray):
    """Equal arrays that begin at 64 neighbouring bytes."""
    room = np.empty(array.nbytes + 64, np.uint8)
    for start in range(64):
        moved = room[start : start + array.nbytes].reshape(array.shape)
        moved[...] = array
        yield moved


@pytest.mark.parametrize(
    "score",
    [
        artifacts.gradient,
        lambda image_HW3: artifacts.outline_ratio(image_HW3, WHERE_HW),
        lambda image_HW3: artifacts.noise_ratio(image_HW3, WHERE_HW, WHERE_HW),
        lambda image_HW3: artifacts.clipped_share(image_HW3, WHERE_HW),
    ],
)
def test_a_score_is_the_same_to_the_last_bit(score):
    found = {np.asarray(score(moved)).tobytes() for moved in at_every_place(IMAGE_HW3)}
    assert len(found) == 1

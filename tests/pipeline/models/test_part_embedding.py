"""Embeddings of parts: the same part turned or darkened stays near, another part does not."""

import cv2
import numpy as np
import pytest

from pipeline.models.backbone import small_teacher
from pipeline.models.part_embedding import FACE, Embedder
from pipeline.models.weights import store as weights


@pytest.fixture(scope="module")
def embed() -> Embedder:
    return Embedder(small_teacher(weights.require("bundled-teacher")))


def hammer(colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A T-shaped part on grey, and its mask."""
    image_HW3 = np.full((128, 128, 3), 150, np.uint8)
    mask_HW = np.zeros((128, 128), np.uint8)
    for box in ((40, 30, 88, 50), (58, 50, 70, 100)):
        cv2.rectangle(mask_HW, box[:2], box[2:], 1, -1)
    image_HW3[mask_HW > 0] = colour
    # A bright stripe across the head: a part has some pattern.
    cv2.rectangle(image_HW3, (44, 36), (84, 40), (230, 230, 230), -1)
    return image_HW3, mask_HW > 0


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one[0, :-FACE] - other[0, :-FACE]))


def test_a_turned_or_darkened_part_is_nearer_than_a_part_of_another_colour(embed: Embedder) -> None:
    image_HW3, mask_HW = hammer((170, 60, 50))
    same = embed(image_HW3, mask_HW[None])
    turned = embed(np.rot90(image_HW3).copy(), np.rot90(mask_HW)[None].copy())
    dark = embed((image_HW3 * 0.8).astype(np.uint8), mask_HW[None])
    other = embed(hammer((60, 80, 170))[0], mask_HW[None])
    assert apart(same, turned) < 0.2 * apart(same, other)
    assert apart(same, dark) < 0.5 * apart(same, other)


def test_only_the_face_tells_how_a_part_is_turned(embed: Embedder) -> None:
    image_HW3, mask_HW = hammer((170, 60, 50))
    same = embed(image_HW3, mask_HW[None])[0, -FACE:]
    turned = embed(np.rot90(image_HW3).copy(), np.rot90(mask_HW)[None].copy())[0, -FACE:]
    assert np.linalg.norm(same) == pytest.approx(1, abs=1e-3)
    assert same @ turned < 0.8
    assert same @ np.rot90(turned.reshape(8, 8), -1).ravel() > 0.95


def test_an_image_without_parts_has_no_vectors(embed: Embedder) -> None:
    assert len(embed(np.zeros((64, 64, 3), np.uint8), np.zeros((0, 64, 64), np.bool_))) == 0

"""Backgrounds that repeat themselves are found with their period, and others are refused."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perforated import board, mounted

from pipeline.imaging import repetition
from pipeline.imaging.lattice import lattice_of
from pipeline.imaging.repetition import repeated_background

EVERYWHERE = np.ones((160, 160), np.bool_)


@settings(max_examples=8, deadline=None)
@given(
    period=st.tuples(st.floats(20, 40), st.floats(20, 40)),
    start=st.tuples(st.floats(0, 20), st.floats(0, 20)),
)
def test_a_lattice_is_found_wherever_it_begins(period, start):
    found_T2 = lattice_of(board(period, start=start), EVERYWHERE)
    assert found_T2 is not None
    for vector in ((period[0], 0), (0, period[1])):
        assert np.abs(found_T2 - vector).max(1).min() < 0.5


@pytest.mark.parametrize("period", [(20.5, 20), (27.3, 21.5), (23.5, 22.5)])
def test_a_period_of_half_a_pixel_is_not_taken_for_twice_as_long(period):
    found_T2 = lattice_of(board(period), EVERYWHERE)
    assert found_T2 is not None
    assert np.hypot(*found_T2[0]) == pytest.approx(min(period), abs=0.1)
    for vector in ((period[0], 0), (0, period[1])):
        assert np.abs(found_T2 - vector).max(1).min() < 0.1


def test_ribs_of_a_belt_come_to_lie_on_ribs():
    ribs_HW = 120 + 60 * np.sin(np.arange(160) * 2 * np.pi / 25)[:, None]
    ribs_HW = ribs_HW + np.random.default_rng(3).normal(0, 5, (160, 160))
    found_T2 = lattice_of(np.dstack([ribs_HW.astype(np.uint8)] * 3), EVERYWHERE)
    assert found_T2 is not None
    # Along the ribs nothing tells how far.
    assert np.abs((found_T2[:, 1] + 12.5) % 25 - 12.5).max() < 0.5


def wood(rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(rng.normal(0, 1, (160, 160)), (0, 0), 2.5, sigmaY=40) * 400


def cloth(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 12, (160, 160))


def stains(rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(rng.normal(0, 1, (160, 160)), (0, 0), 8) * 500


def plain(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 1.5, (160, 160))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("texture", [wood, cloth, stains, plain])
def test_what_does_not_repeat_is_refused(texture, seed):
    grey_HW = np.clip(120 + texture(np.random.default_rng(seed)), 0, 255).astype(np.uint8)
    image_HW3 = np.dstack([grey_HW] * 3)
    assert lattice_of(image_HW3, EVERYWHERE) is None
    assert repeated_background(image_HW3, ~EVERYWHERE) is None


def test_what_a_product_covers_is_predicted():
    scene = mounted()
    found = repeated_background(scene.image_HW3, scene.product_HW)
    assert found is not None
    assert found.known_HW[scene.product_HW].mean() > 0.99
    off_HW3 = np.abs(found.image_HW3 - scene.bare_HW3)
    # The board's own noise is 3; a hole in the wrong place would be 100 off.
    assert off_HW3[scene.product_HW].mean() < 4
    assert np.percentile(off_HW3[scene.product_HW], 99) < 25
    # Without its pattern the bare board is even.
    assert found.flattened(scene.bare_HW3).std((0, 1)).max() < 0.3 * scene.bare_HW3.std()


def test_one_copy_of_each_pixel_predicts_nothing():
    # Two equal strips beside the product: each pixel has one copy, and a median needs two.
    strip_hw = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (40, 160)), (0, 0), 1.5) * 200
    grey_HW = np.full((160, 160), 128.0)
    grey_HW[15:55] += strip_hw
    grey_HW[75:115] += strip_hw
    product_HW = EVERYWHERE.copy()
    product_HW[18:52] = product_HW[78:112] = False
    image_HW3 = np.dstack([np.clip(grey_HW, 0, 255).astype(np.uint8)] * 3)
    assert lattice_of(image_HW3, ~product_HW) is not None
    assert repeated_background(image_HW3, product_HW) is None


def test_a_drawn_pattern_without_any_noise_has_that_of_whole_numbers():
    y, x = np.mgrid[:64, :64]
    drawn_HW = np.where((x + 2 * y) % 8 < 4, 40, 180).astype(np.uint8)
    found = repeated_background(np.dstack([drawn_HW] * 3), x + y == 0)
    assert found is not None
    # What is compared with the background is divided by it.
    assert found.noise_HW3.min() >= repetition.ROUNDING


def test_large_images_are_predicted_in_bands_with_the_same_result(monkeypatch):
    scene = mounted()
    whole = repeated_background(scene.image_HW3, scene.product_HW)
    monkeypatch.setattr(repetition, "AT_ONCE", 1 << 20)
    bands = repeated_background(scene.image_HW3, scene.product_HW)
    assert whole is not None
    assert bands is not None
    # Positions are rounded to 1/32 of a pixel.
    assert np.abs(whole.image_HW3 - bands.image_HW3).max() < 3
    assert (whole.known_HW == bands.known_HW).all()

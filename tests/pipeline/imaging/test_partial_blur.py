"""A blur of a part is that of the whole, to the last bit."""

import cv2
import numpy as np
import pytest

from pipeline.imaging.partial_blur import ALIGNED, aligned, blurred_part

RNG = np.random.default_rng(0)
# Sides, of which some are no multiples of a vector, and parts inside, at every edge and everywhere.
SIZES = [(37, 53), (64, 96), (130, 41)]
PARTS = [np.s_[9:20, 11:25], np.s_[0:5, 0:7], np.s_[25:37, 30:41], np.s_[:, :]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("sigma", [2.0, 6.0, 54.0])
def test_a_part_has_the_bits_of_the_whole(size, part, sigma):
    for shape in (size, (*size, 3)):
        image = RNG.normal(0, 20, shape).astype(np.float32)
        expected = cv2.GaussianBlur(image, (0, 0), sigma)[part]
        assert np.array_equal(blurred_part(image, sigma, part), expected)


@pytest.mark.parametrize("rows", [slice(12, 20), slice(0, 3), slice(30, 37)])
def test_rows_of_zeros_may_be_left_out(rows):
    image = np.zeros((37, 53, 3), np.float32)
    image[rows] = RNG.normal(0, 20, image[rows].shape)
    for sigma in (2.0, 18.0):
        expected = cv2.GaussianBlur(image, (0, 0), sigma)[10:25, 5:30]
        assert np.array_equal(blurred_part(image, sigma, np.s_[10:25, 5:30], rows), expected)


def test_other_rows_than_those_named_are_not_read():
    image = np.ones((37, 53), np.float32)
    assert blurred_part(image, 2.0, np.s_[0:5, :], slice(30, 37)).max() == 0


def test_columns_are_widened_to_whole_vectors():
    assert aligned(np.s_[3:7, 17:30], (40, 50)) == np.s_[3:7, ALIGNED : 2 * ALIGNED]
    assert aligned(np.s_[3:7, 40:49], (40, 50)) == np.s_[3:7, 2 * ALIGNED : 50]

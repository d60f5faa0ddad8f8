"""The resizes inside an ONNX file are those of `predict`: Pillow's to the bit, then PyTorch's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.data.resize import resize_images
from detectors.evaluation.onnx_resize import FileResize
from detectors.scoring import stack_images
from pipeline.imaging.decode import resize_image

sides = st.integers(16, 150)


@given(st.tuples(sides, sides), st.integers(16, 100), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_stored_size_gets_the_bytes_of_pillow(given_HW, side, seed):
    image_HW3 = np.random.default_rng(seed).integers(0, 256, (*given_HW, 3), np.uint8)
    theirs = stack_images([resize_image(image_HW3, (side, side))])
    # The detector's size is the stored one, so there is no second resize.
    assert torch.equal(FileResize((side, side), side)(stack_images([image_HW3])), theirs)


@pytest.mark.parametrize("size_HW", [(64, 64), (200, 90), (90, 200), (401, 403), (1600, 40)])
def test_the_detectors_size_differs_by_single_values_at_most(size_HW):
    image_HW3 = np.random.default_rng(0).integers(0, 256, (*size_HW, 3), np.uint8)
    stored = stack_images([resize_image(image_HW3, (80, 112))])
    ours = FileResize((80, 112), 64)(stack_images([image_HW3])).int()
    error = (ours - resize_images(stored, 64).int()).abs()
    assert error.max() <= 1
    assert (error > 0).float().mean() < 1e-3

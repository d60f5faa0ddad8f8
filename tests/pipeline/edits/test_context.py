"""An image's context lives as long as somebody holds it, and no longer."""

import weakref

import numpy as np

from pipeline.edits.context import ImageContext
from pipeline.records import ObjectProposals


def test_it_goes_without_the_garbage_collector() -> None:
    mask_HW = np.zeros((32, 32), np.bool_)
    mask_HW[8:16, 8:16] = True
    image_HW3 = np.where(mask_HW[..., None], np.uint8(200), np.uint8(90)).repeat(3, 2)
    proposals = ObjectProposals(mask_HW[None], np.ones(1, np.float32), mask_HW)
    context = ImageContext(image_HW3, proposals, lambda image, hole, avoid=None: image)
    filled_HW3, _ = context.inpaint(mask_HW)
    np.testing.assert_array_equal(filled_HW3, image_HW3)
    gone = weakref.ref(context)
    del context
    assert gone() is None

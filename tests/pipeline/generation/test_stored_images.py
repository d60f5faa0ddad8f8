"""Images of a version as the run learned from them, and as they were edited."""

from types import SimpleNamespace

import numpy as np

from pipeline.generation.stored_images import StoredImages
from pipeline.records import WHOLE_PART


def test_what_was_found_later_is_left_out_where_the_run_learned_from_an_image() -> None:
    """The first part was cut, and is a piece of its whole outline, the last but one; the last was
    overlooked; the second has a piece of its own."""
    masks_NHW = np.zeros((5, 8, 8), np.bool_)
    for index, mask_HW in enumerate(masks_NHW):
        mask_HW[index] = True
    record = {
        "name": "a.png", "split": "train", "digest": "0" * 64, "asked_again": 2,
        "parents": [3, WHOLE_PART, 1, WHOLE_PART, WHOLE_PART],
    }  # fmt: skip
    shard = SimpleNamespace(
        images=1, image_record=lambda i: record, original=lambda i: np.zeros((8, 8, 3), np.uint8),
        proposals=lambda i: (masks_NHW, np.full(5, 0.8, np.float32)),
        foreground=lambda i: masks_NHW.any(0),
    )  # fmt: skip
    images = StoredImages(SimpleNamespace(shards=[shard]))  # type: ignore[arg-type]
    _, before = images.loader("a.png")()
    assert len(before) == 3
    assert before.parent_N.tolist() == [WHOLE_PART, WHOLE_PART, 1]
    _, after = images.loader("a.png", asked=True)()
    assert np.array_equal(after.masks_NHW, masks_NHW)
    assert after.parent_N.tolist() == record["parents"]

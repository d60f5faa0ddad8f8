"""The outline of a proposal is one of the image, or it cuts through a part."""

import numpy as np
from small_parts import RED, bar, disc, draw

from pipeline.edits.context import ImageContext
from pipeline.edits.plan import plan


def test_half_a_part_is_removed_but_neither_moved_nor_recoloured():
    whole_HW = disc(128, 64, 64, 20)
    image_HW3, whole = draw([whole_HW], [RED])
    _, half = draw([whole_HW & (np.arange(128) < 66)], [RED])
    for proposals, seen in ((whole, True), (half, False)):
        context = ImageContext(image_HW3, proposals)
        assert context.outline_is_seen(0) == seen
        for kind in ("extra", "wrong_size", "wrong_colour"):
            made = [plan(context, np.random.default_rng(seed), kind=kind) for seed in range(4)]
            assert any(made) == seen
        assert plan(context, np.random.default_rng(0), kind="missing") is not None


def test_an_outline_may_be_a_little_off_and_the_frame_may_cut_it():
    image_HW3, near = draw([disc(256, 100, 100, 30), bar(256, 128, 250, 60, 12)], [RED, RED])
    assert ImageContext(image_HW3, near).outline_is_seen(0)
    assert ImageContext(image_HW3, near).outline_is_seen(1)
    _, off = draw([disc(256, 101, 101, 31)], [RED])
    assert ImageContext(image_HW3, off).outline_is_seen(0)

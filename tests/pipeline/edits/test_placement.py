"""What an object may be laid on: a tray, but no other part."""

import numpy as np
from small_parts import BLUE, GREEN, RED, bar, disc, draw

from pipeline.edits.context import ImageContext
from pipeline.edits.placement import MIN_BACKGROUND, TOUCHING, is_free, obstacles, told_by_boxes
from pipeline.edits.plan import plan

NUT, BOLT = disc(128, 24, 24, 9), bar(128, 84, 66, 90, 24)


def test_a_larger_part_is_an_obstacle_unless_parts_lie_on_it():
    image_HW3, proposals = draw([NUT, BOLT], [RED, BLUE])
    bare = ImageContext(image_HW3, proposals)
    assert obstacles(bare, bare.crops[0].area) == [0, 1]
    on_bolt = bare.crops[0].moved(42, 60)
    assert not is_free(bare, on_bolt, (0,))
    # With a washer on it, it is no bolt but a tray.
    masks = [NUT, BOLT, disc(128, 84, 40, 6)]
    image_HW3, proposals = draw(masks, [RED, BLUE, GREEN])
    tray = ImageContext(image_HW3, proposals)
    assert obstacles(tray, tray.crops[0].area) == [0, 2]
    assert is_free(tray, on_bolt, (0,))


def test_a_much_smaller_part_is_not_hidden():
    washer = disc(128, 100, 100, 5)
    image_HW3, proposals = draw([disc(128, 40, 40, 24), washer], [RED, BLUE])
    context = ImageContext(image_HW3, proposals)
    assert not is_free(context, context.crops[0].moved(55, 55), (0,))
    for seed in range(30):
        edit = plan(context, np.random.default_rng(seed), kind="extra")
        if edit is not None and edit.targets == (0,):
            after = context.crops[0].moved(*edit.parameters["offset"]).full((128, 128))
            assert (after & washer).sum() <= TOUCHING * washer.sum()


def test_what_boxes_tell_of_a_place_is_so():
    tray = np.zeros((128, 128), np.bool_)
    tray[10:118, 10:118] = True
    image_HW3, proposals = draw([NUT, BOLT], [RED, BLUE])
    context = ImageContext(image_HW3, proposals)
    crop, corners = context.crops[0], np.random.default_rng(0).integers(1, 108, (200, 2))
    free, off = told_by_boxes(context, crop, corners, tray)
    assert 0 < free.sum() < 200
    assert 0 < off.sum() < 200
    for number, (x, y) in enumerate(corners.tolist()):
        place = crop.moved(x - crop.x, y - crop.y)
        assert is_free(context, place, ()) or not free[number]
        assert place.share_on(tray) < MIN_BACKGROUND or not off[number]

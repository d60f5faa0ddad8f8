"""Boxes of possible parts on synthetic images, and parts of composed photographs found by them."""

import cv2
import numpy as np
import pytest

from pipeline.models.prompts import contrast_hw, part_boxes, standing_out


def disc(centre: tuple[int, int], radius: int = 20) -> np.ndarray:
    return cv2.circle(np.zeros((256, 256), np.uint8), centre, radius, 1, cv2.FILLED) == 1


def grey(*discs: np.ndarray) -> np.ndarray:
    image_HW3 = np.full((256, 256, 3), 180, np.uint8)
    image_HW3[np.any(discs, 0)] = (60, 70, 90)
    return image_HW3


def hit(boxes_P4: np.ndarray, box: tuple[int, int, int, int], within: int = 6) -> bool:
    return bool((np.abs(boxes_P4 - np.array(box)).max(1) <= within).any())


def test_each_part_gets_a_box_though_the_foreground_lacks_one():
    one, two = disc((60, 60)), disc((160, 120))
    contrast = contrast_hw(grey(one, two))
    boxes_P4 = part_boxes(one, contrast, 0.002, 0.2)
    assert hit(boxes_P4, (40, 40, 81, 81))
    assert hit(boxes_P4, (140, 100, 181, 141))
    search_HW = standing_out(contrast, one.shape)
    assert search_HW[two].mean() > 0.9
    assert search_HW[200:, :60].mean() == 0


def test_parts_that_touch_are_boxed_one_by_one():
    pair = disc((80, 100)) | disc((119, 100))
    boxes_P4 = part_boxes(pair, contrast_hw(grey(pair)), 0.002, 0.2)
    assert hit(boxes_P4, (60, 80, 100, 121))
    assert hit(boxes_P4, (99, 80, 140, 121))


def test_a_plain_image_without_foreground_has_no_boxes():
    plain = np.full((128, 256, 3), 90, np.uint8)
    nothing = np.zeros((128, 256), np.bool_)
    assert part_boxes(nothing, contrast_hw(plain), 0.002, 0.2).shape == (0, 4)


@pytest.mark.parametrize("arrangement", ["free", "tray"])
def test_the_parts_of_composed_photographs_are_found(shared, arrangement):
    """Asked with a foreground that holds one part only, as U²-Net's does on such scenes."""
    from benchmarks.real_parts.__main__ import found_N
    from benchmarks.real_parts.scenes import compose
    from pipeline.models import build, device
    from pipeline.models.settings import ProposalSettings
    from pipeline.models.small_sam.build import BUNDLED
    from pipeline.records import ForegroundMask

    propose = build.build_proposals(
        "small", BUNDLED, ProposalSettings(), device.choose("cpu", "fp32")
    )
    found, count = [], 0
    for seed in range(3):
        scene = compose(arrangement, seed, shared / "data" / "mvtec_ad")
        proposed = propose(scene.image_HW3, ForegroundMask(scene.masks_NHW[-1]))
        found += found_N(scene, proposed.masks_NHW[proposed.whole_N]).tolist()
        count += len(proposed)
    assert np.mean(found) >= 0.9
    assert count <= 1.5 * len(found)

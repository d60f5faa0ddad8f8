"""Masks as people save them: alpha, palettes, 16 bits, small values, JPEG; and doubtful ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.imaging.decode import load_mask
from pipeline.imaging.mask_doubts import mask_doubt

MARKED_HW = np.zeros((48, 64), np.bool_)
# Across the blocks of JPEG.
MARKED_HW[5:21, 18:42] = True


def stacked(*bands: np.ndarray | int) -> Image.Image:
    """An image of several bands; a number is an even one."""
    return Image.fromarray(
        np.stack([np.broadcast_to(np.uint8(band), (48, 64)) for band in bands], -1)
    )


def palette(background: int, mark: int, **options: int) -> Image.Image:
    image = Image.fromarray(MARKED_HW.astype(np.uint8)).convert("P")
    image.putpalette([background] * 3 + [mark, 0, 0])
    image.info.update(options)
    return image


WHITE = MARKED_HW.astype(np.uint8) * 255
FORMS = {
    "grey": Image.fromarray(WHITE),
    "0 and 1": Image.fromarray(MARKED_HW.astype(np.uint8)),
    "1 bit": Image.fromarray(MARKED_HW),
    "16 bit": Image.fromarray(MARKED_HW.astype(np.uint16) * 65535),
    "16 bit, small": Image.fromarray(MARKED_HW.astype(np.uint16)),
    "16 bit, 256": Image.fromarray(MARKED_HW.astype(np.uint16) * 300),
    "white, shape in alpha": stacked(255, 255, 255, WHITE),
    "black, shape in alpha": stacked(0, 0, 0, WHITE),
    "grey, shape in alpha": stacked(255, WHITE),
    "red on transparent white": stacked(255, 255 - WHITE, 255 - WHITE, WHITE),
    "white on transparent black": stacked(WHITE, WHITE, WHITE, WHITE),
    "opaque": stacked(WHITE, WHITE, WHITE, 255),
    "all transparent": stacked(WHITE, WHITE, WHITE, 0),
    "dark blue": stacked(0, 0, MARKED_HW),
    "palette": palette(0, 128),
    "palette, transparent background": palette(255, 128, transparency=0),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_mask_marks_the_same_pixels(tmp_path, form):
    path = tmp_path / "mask.png"
    FORMS[form].save(path, **{k: v for k, v in FORMS[form].info.items() if k == "transparency"})
    np.testing.assert_array_equal(load_mask(path) > 0, MARKED_HW)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_a_lossy_mask_keeps_its_area(tmp_path, quality):
    path = tmp_path / "mask.jpg"
    Image.fromarray(WHITE).save(path, quality=quality)
    # What the file itself would mark: a rim of noise around the shape.
    noisy = np.asarray(Image.open(path)) > 0
    assert noisy.sum() > 1.1 * MARKED_HW.sum()
    np.testing.assert_array_equal(load_mask(path), WHITE)
    Image.fromarray(WHITE * 0).save(path, quality=quality)
    assert not load_mask(path).any()


def test_smooth_edges_are_cut_in_the_middle_and_labels_are_not(tmp_path):
    path = tmp_path / "mask.png"
    soft = Image.fromarray(WHITE).resize((640, 480), Image.Resampling.BILINEAR)
    soft.save(path)
    large_HW = load_mask(path)
    assert set(np.unique(large_HW)) == {0, 255}
    assert np.count_nonzero(large_HW) == pytest.approx(100 * MARKED_HW.sum(), rel=0.02)
    # Defect types are small or large numbers, and stay what they are.
    labels_HW = np.where(MARKED_HW, np.arange(64, dtype=np.uint8)[None] % 3 + 247, 0)
    Image.fromarray(labels_HW.astype(np.uint8)).save(path)
    np.testing.assert_array_equal(load_mask(path), labels_HW)
    soft.save(path)
    np.testing.assert_array_equal(load_mask(path, labels=True), np.asarray(soft))


def test_a_label_in_alpha_keeps_its_value(tmp_path: Path):
    path = tmp_path / "mask.png"
    stacked(249, WHITE).save(path)
    assert set(np.unique(load_mask(path, labels=True))) == {0, 249}


@pytest.mark.parametrize(
    ("mask_HW", "reason", "share"),
    [
        (MARKED_HW, "", 0.125),
        (MARKED_HW & False, "the mask is empty", 0),
        (MARKED_HW | True, "the mask is full", 1),
        (~MARKED_HW, "the mask looks inverted: it marks the border of the image", 0.875),
    ],
)
def test_implausible_masks_are_questioned_with_their_share(mask_HW, reason, share):
    doubt = mask_doubt("cut/000.png", mask_HW)
    assert (doubt.reason if doubt else "") == reason
    if doubt:
        assert doubt.share == share
        assert str(doubt).startswith(f"cut/000.png: {reason} ({share:.1%} of the image")


def test_half_of_an_image_is_plausible_and_most_of_it_is_not():
    for rows, reason in ((24, ""), (40, "the mask marks most of the image")):
        mask_HW = np.zeros((48, 64), np.bool_)
        mask_HW[:rows] = True
        doubt = mask_doubt("0.png", mask_HW)
        assert (doubt.reason if doubt else "") == reason

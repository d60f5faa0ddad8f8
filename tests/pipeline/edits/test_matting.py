"""Alpha of objects whose true alpha is known: drawn large and reduced, as a camera would.

Shapes: H, W image; 3 colour (RGB).
"""

import cv2
import numpy as np
import pytest

from pipeline.edits.compositing.cutout import cut_out
from pipeline.edits.compositing.matting import alpha_matte
from pipeline.imaging.masks import MaskCrop, dilated, disc

SIZE, OVER = 72, 4
BROWN, GREY, CREAM = (120, 80, 45), (75, 78, 72), (225, 210, 170)


def drawn(radius: float, size: int = SIZE) -> np.ndarray:
    """How much a disc in the middle covers each pixel, (H, W) in [0, 1]."""
    at = (np.arange(size * OVER) + 0.5) / OVER - size / 2
    inside = np.hypot(at[:, None], at[None]) < radius
    return cv2.resize(inside.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)


def textured(colour: tuple[int, int, int], size: int = SIZE, contrast: float = 6) -> np.ndarray:
    rng = np.random.default_rng(1)
    grain_HW = cv2.GaussianBlur(rng.normal(0, 1, (size, size)), (0, 0), size / SIZE)
    grain_HW *= contrast / grain_HW.std()
    return np.array(colour) + grain_HW[..., None]


def over(image_HW3: np.ndarray, alpha_HW: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return image_HW3 + alpha_HW[..., None] * (np.array(colour) - image_HW3)


def screw(size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A grey disc with a bright rim on wood, uint8, and its alpha."""
    scale = size / SIZE
    alpha_HW = drawn(20 * scale, size)
    image_HW3 = over(textured(BROWN, size), alpha_HW, CREAM)
    image_HW3 = over(image_HW3, drawn(18 * scale, size), GREY)
    return np.clip(image_HW3, 0, 255).astype(np.uint8), alpha_HW


def off_by(alpha_HW: np.ndarray, pixels: int) -> np.ndarray:
    mask_HW = alpha_HW > 0.5
    if pixels >= 0:
        return dilated(mask_HW, pixels)
    return cv2.erode(mask_HW.astype(np.uint8), disc(-pixels)) > 0


def radius_of(alpha_HW: np.ndarray) -> float:
    return float(np.sqrt(alpha_HW.sum() / np.pi))


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_bright_rim_belongs_to_the_object_wherever_the_proposal_ends(off: int):
    image_HW3, true_HW = screw()
    alpha_HW = alpha_matte(image_HW3.astype(np.float32), off_by(true_HW, off), band=2)
    assert radius_of(alpha_HW) == pytest.approx(20, abs=0.5)
    near_HW = dilated(true_HW > 0, 3) & (drawn(16) == 0)
    assert np.abs(alpha_HW - true_HW)[near_HW].mean() < 0.08


def test_a_rim_keeps_its_colour_when_it_is_cut_out():
    image_HW3, true_HW = screw()
    cutout = cut_out(image_HW3, MaskCrop.of(true_HW > 0.5), band=2, feather=3)
    from_x, from_y = -cutout.x, -cutout.y
    rim_HW = (true_HW > 0.6) & (drawn(18.7) == 0)
    ys, xs = np.nonzero(rim_HW)
    colours = cutout.pixels_hw3[ys + from_y, xs + from_x]
    # No wood: the object's outermost pixels are as bright as the rim is.
    assert np.abs(colours.mean(0) - CREAM).max() < 12
    assert cutout.cover_hw[ys + from_y, xs + from_x].mean() > 0.75


@pytest.mark.parametrize("size", [2 * SIZE, 4 * SIZE])
def test_larger_images_are_matted_as_well(size: int):
    image_HW3, true_HW = screw(size)
    band = 2 * size // SIZE
    mask_HW = off_by(true_HW, band // 2)
    alpha_HW = alpha_matte(image_HW3.astype(np.float32), mask_HW, band, feather=3 * size // SIZE)
    assert radius_of(alpha_HW) == pytest.approx(20 * size / SIZE, abs=0.5 * size / SIZE)
    # As sharp as the image: within a pixel and a half of the outline everything is decided.
    soft_HW = (alpha_HW > 0.1) & (alpha_HW < 0.9)
    assert soft_HW.sum() < 3 * 2 * np.pi * 20 * size / SIZE


def test_an_outline_is_even_on_a_coarse_background():
    true_HW = drawn(20)
    image_HW3 = over(textured(BROWN, contrast=14), true_HW, (60, 90, 140))
    alpha_HW = alpha_matte(image_HW3.astype(np.float32), true_HW > 0.5, band=2)
    (outline,), _ = cv2.findContours(
        (cv2.resize(alpha_HW, None, fx=8, fy=8) > 0.5).astype(np.uint8),
        cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE,
    )  # fmt: skip
    radii = np.hypot(*(outline[:, 0].T / 8 + 1 / 16 - SIZE / 2))
    assert radii.std() < 0.25


def test_without_contrast_the_proposal_decides():
    image_HW3 = textured(BROWN).astype(np.float32)
    mask_HW = drawn(20) > 0.5
    alpha_HW = alpha_matte(image_HW3, mask_HW, band=2)
    assert radius_of(alpha_HW) == pytest.approx(20, abs=0.3)
    softer_HW = alpha_matte(image_HW3, mask_HW, band=2, feather=9)
    soft = [((one > 0.1) & (one < 0.9)).sum() for one in (alpha_HW, softer_HW)]
    assert soft[1] > 2 * soft[0]


@pytest.mark.parametrize(("sigma", "widest"), [(0.3, 1.5), (2.0, 5.5)])
def test_an_edge_is_as_soft_as_the_photograph(sigma: float, widest: float):
    true_HW = cv2.GaussianBlur(drawn(20), (0, 0), sigma)
    image_HW3 = over(textured(BROWN, contrast=2), true_HW, (60, 90, 140))
    alpha_HW = alpha_matte(image_HW3.astype(np.float32), true_HW > 0.5, band=4)
    assert np.abs(alpha_HW - true_HW)[dilated(true_HW > 0.5, 4)].mean() < 0.03
    soft_HW = (alpha_HW > 0.1) & (alpha_HW < 0.9)
    assert widest / 2 < soft_HW.sum() / (2 * np.pi * 20) < widest


def test_what_stays_in_its_place_has_the_alpha_of_its_pixels():
    """The steps of a hard outline are no fault when an object is recoloured where it is."""
    mask_HW = drawn(20) > 0.5
    image_HW3 = np.where(mask_HW[..., None], (40, 70, 200), (128, 128, 128)).astype(np.float32)
    assert alpha_matte(image_HW3, mask_HW, band=2)[mask_HW].min() < 0.8
    told_HW = alpha_matte(image_HW3, mask_HW, band=2, even=False)
    assert np.abs(told_HW - mask_HW)[dilated(mask_HW, 3)].max() < 0.25


def test_objects_at_the_frame_and_masks_without_background_have_an_alpha():
    image_HW3, true_HW = screw()
    half_HW = (true_HW > 0.5)[:, SIZE // 2 :]
    alpha_HW = alpha_matte(image_HW3[:, SIZE // 2 :].astype(np.float32), half_HW, band=2)
    assert np.isfinite(alpha_HW).all()
    assert alpha_HW[SIZE // 2 - 10 : SIZE // 2 + 10, 1].min() > 0.95
    whole_HW = alpha_matte(image_HW3.astype(np.float32), np.ones((SIZE, SIZE), np.bool_), band=2)
    assert whole_HW[2:-2, 2:-2].min() > 0.99
    assert not alpha_matte(image_HW3.astype(np.float32), np.zeros_like(half_HW), band=2).any()

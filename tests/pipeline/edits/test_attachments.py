"""What is attached to a part goes with it: legs beside its mask, and the shadow that it casts."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipeline.edits import context as contexts
from pipeline.edits.apply import LEFT_BEHIND, apply, as_planned
from pipeline.edits.compositing.cutout import Cutout, cut_out, reshaped
from pipeline.edits.compositing.matting import alpha_matte
from pipeline.edits.compositing.shadows import shadow_around
from pipeline.edits.context import ImageContext
from pipeline.edits.donors import Donors, KnownPieces
from pipeline.edits.left_behind import left_behind
from pipeline.edits.placement import is_free
from pipeline.edits.plan import plan
from pipeline.gate.judge import judge
from pipeline.imaging.masks import MaskCrop, dilated, scaling
from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.records import WHOLE_PART, WHOLE_PRODUCT, Edit, ObjectProposals

SIZE = 128
CLOTH = np.array([150.0, 140.0, 120.0])
BODY = np.s_[50:80, 46:76]
# Three bright legs of a body, of which the proposal knows nothing.
LEGS = (np.s_[80:96, 50:53], np.s_[80:98, 60:63], np.s_[80:95, 70:73])


def cloth(seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 3, (SIZE, SIZE, 3))
    return CLOTH * np.linspace(0.9, 1.1, SIZE)[:, None, None] + noise


def rectangle(at: tuple[slice, slice]) -> np.ndarray:
    mask_HW = np.zeros((SIZE, SIZE), np.bool_)
    mask_HW[at] = True
    return mask_HW


def legs() -> np.ndarray:
    return np.logical_or.reduce([rectangle(leg) for leg in LEGS])


def part(image_HW3: np.ndarray, with_legs: bool = True) -> np.ndarray:
    image_HW3 = image_HW3.copy()
    image_HW3[BODY] = (25, 22, 28)
    if with_legs:
        image_HW3[legs()] = (235, 235, 240)
    return np.clip(image_HW3, 0, 255).astype(np.uint8)


def proposals(*masks_HW: np.ndarray) -> ObjectProposals:
    masks_NHW = np.stack(masks_HW)
    return ObjectProposals(masks_NHW, np.full(len(masks_NHW), 0.9, np.float32), masks_NHW.any(0))


def context(image_HW3: np.ndarray, *more_HW: np.ndarray) -> ImageContext:
    found = proposals(rectangle(BODY), *more_HW)
    return ImageContext(image_HW3, found, OpenCvInpainter("telea"))


def shadowed() -> np.ndarray:
    """A body without legs, whose soft shadow falls to the right; red light remains in it."""
    distance = np.arange(SIZE) - 76.0
    fall = np.where(distance >= 0, np.exp(-((distance / 6) ** 2)), 0)
    image_HW3 = cloth()
    image_HW3[50:80] *= 1 - fall[:, None] * np.array([0.25, 0.4, 0.5])
    return part(image_HW3, with_legs=False)


def missing(made: ImageContext, target: int = 0) -> Edit:
    for seed in range(20):
        edit = plan(made, np.random.default_rng(seed), kind="missing")
        if edit is not None and edit.targets == (target,):
            return edit
    raise AssertionError("no removal of that part")


def test_the_legs_of_a_removed_body_go_with_it():
    made = context(part(cloth()))
    sample = apply(missing(made), made)
    there = sample.pixels_HW3[dilated(legs(), 1)].astype(float)
    assert np.abs(there - cloth()[dilated(legs(), 1)]).mean() < 12
    assert sample.object_HW[legs()].mean() > 0.9
    assert sample.edit.parameters[LEFT_BEHIND] == 0


def test_the_legs_of_a_moved_body_move_with_it():
    image_HW3 = part(cloth())
    made = context(image_HW3)
    for seed in range(30):
        edit = plan(made, np.random.default_rng(seed), kind="misplaced")
        if edit is not None:
            break
    assert edit is not None
    dx, dy = edit.parameters["offset"]
    after_HW3 = apply(edit, made).pixels_HW3.astype(float)
    moved = np.roll(legs(), (dy, dx), (0, 1))
    # As bright as they were: legs are no half-transparent pieces of the dark body.
    assert after_HW3[moved].mean() > 0.9 * image_HW3[legs()].mean()
    assert np.abs(after_HW3[legs()] - cloth()[legs()]).mean() < 12


def test_a_stripe_of_the_background_that_touches_a_part_stays():
    striped = cloth()
    striped[:, 58:64] *= 0.4
    made = context(part(striped, with_legs=False))
    assert not made.attached[0].pieces_hw.any()


def test_another_part_that_touches_is_no_piece_of_it():
    other = np.s_[80:92, 50:60]
    image_HW3 = part(cloth(), with_legs=False)
    image_HW3[other] = (200, 40, 40)
    alone, known = context(image_HW3), context(image_HW3, rectangle(other))
    assert alone.proposals.masks_NHW[0][other].any()
    assert not known.proposals.masks_NHW[0][other].any()


def test_a_shadow_is_light_and_no_piece_and_goes_with_the_part():
    made = context(shadowed())
    attached = made.attached[0]
    assert not attached.pieces_hw.any()
    right = rectangle(np.s_[54:76, 77:82])
    assert made.light_of([0])[right].mean() > 0.9
    after_HW3 = apply(missing(made), made).pixels_HW3.astype(float)
    assert np.abs(after_HW3[right] - cloth()[right]).mean() < 8


def in_a_tray() -> np.ndarray:
    """A part in a plain compartment with dark walls; its soft shadow falls down to the right."""
    tray_HW = np.full((SIZE, SIZE), 205.0, np.float32)
    tray_HW[20:110, 95:98] = tray_HW[107:110, 20:98] = 140
    away_HW = cv2.GaussianBlur(rectangle(np.s_[54:84, 50:80]).astype(np.float32), (0, 0), 4)
    noise = np.random.default_rng(0).normal(0, 1.5, (SIZE, SIZE, 3))
    tray_HW = cv2.GaussianBlur(tray_HW, (0, 0), 1) * (1 - 0.4 * away_HW)
    return part(tray_HW[..., None] + noise, with_legs=False)


def test_the_last_of_a_shadow_goes_with_it_and_the_wall_of_the_compartment_stays():
    made = context(in_a_tray())
    light_HW = made.light_of([0])
    # 5 % darker, and 1 %.
    assert light_HW[60:80, 83:86].mean() > 0.9
    assert not light_HW[60:80, 93:].any()
    assert not light_HW[104:].any()


def test_a_part_of_another_size_has_a_shadow_as_broad_as_before():
    image_HW3 = in_a_tray()
    made = context(image_HW3)
    clean_HW3 = np.full((SIZE, SIZE, 3), 205.0, np.float32)
    small_HW, light_HW = rectangle(np.s_[57:73, 53:69]), made.light_of([0])
    shade_HW = shadow_around(
        image_HW3.astype(np.float32), clean_HW3, rectangle(BODY), small_HW, light_HW, 2
    )
    # As dark 6 pixels from the outline as it was there, and not at all on the other side.
    assert abs(shade_HW[60:70, 74].mean() - image_HW3[58:72, 81].mean() / 205) < 0.05
    assert shade_HW[60:70, 74].mean() < 0.93
    assert shade_HW[60:70, 47].mean() > 0.98


def test_a_grey_part_is_cut_out_without_its_shadow():
    """In colour the shadow lies between part and background, and may be as dark as the part."""
    mask_HW = rectangle(np.s_[30:60, 30:60])
    shade_HW = cv2.GaussianBlur(np.roll(mask_HW, (3, 3), (0, 1)).astype(np.float32), (0, 0), 3)
    image_HW3 = np.repeat(205 * (1 - 0.3 * shade_HW)[..., None], 3, 2)
    image_HW3[mask_HW] = 150
    alpha_HW = alpha_matte(image_HW3.astype(np.float32), mask_HW, band=2)
    assert alpha_HW[35:55, 57].min() == 1
    assert alpha_HW[35:55, 61].max() < 0.25


def test_a_neighbour_that_nobody_proposed_is_no_shadow():
    """A dark washer in the shadow's reach: its hole would be filled, and half of its ring."""
    image_HW3 = cv2.GaussianBlur(shadowed(), (0, 0), 1)
    ring_HW = np.hypot(*(np.mgrid[:SIZE, :SIZE] - np.array([66.0, 96.0])[:, None, None]))
    ring_HW = (ring_HW <= 12) & (ring_HW >= 5)
    image_HW3[ring_HW] = (95, 90, 80)
    made = context(image_HW3)
    light_HW = made.light_of([0])
    assert light_HW[rectangle(np.s_[54:76, 77:81])].mean() > 0.9
    assert not light_HW[:, 90:].any()


def test_a_part_that_is_put_back_has_the_shadow_that_it_had():
    image_HW3 = shadowed()
    made = context(image_HW3)
    edit = plan(made, np.random.default_rng(0), kind="control_noop")
    assert edit is not None
    after_HW3 = apply(edit, made).pixels_HW3.astype(float)
    near = rectangle(np.s_[54:76, 78:84])
    # Per channel: a shadow is not a grey veil.
    shade, before = after_HW3[near].mean(0), image_HW3[near].mean(0)
    assert np.abs(shade - before).max() < 8


def test_a_crumb_beside_a_part_goes_with_it_and_is_not_copied():
    image_HW3, crumb = part(cloth(), with_legs=False), rectangle(np.s_[58:68, 79:84])
    image_HW3[crumb] = (60, 45, 30)
    made = context(image_HW3)
    assert made.light_of([0])[crumb].all()
    edits = (plan(made, np.random.default_rng(seed), kind="extra") for seed in range(20))
    edit = next(edit for edit in edits if edit is not None)
    copied = np.roll(crumb, edit.parameters["offset"][::-1], (0, 1))
    assert apply(edit, made).change_HW[copied].mean() < 0.1
    assert apply(missing(made), made).change_HW[crumb].all()


def test_what_stays_beside_the_hole_is_noticed_and_rejected():
    image_HW3 = part(cloth())
    hole_HW = dilated(rectangle(BODY), 2)
    after_HW3 = np.where(hole_HW[..., None], cloth(1), image_HW3).clip(0, 255).astype(np.uint8)
    nothing = np.zeros_like(hole_HW)
    before_and_after, body_HW = (image_HW3, after_HW3), rectangle(BODY)
    left = left_behind(before_and_after, body_HW, hole_HW, nothing, nothing, nothing)
    assert left > 0.05
    # Known parts may stay, and a clean removal leaves nothing.
    assert (
        left_behind(before_and_after, body_HW, hole_HW, dilated(legs(), 1), nothing, nothing) == 0
    )
    clean_HW3 = np.clip(cloth(), 0, 255).astype(np.uint8)
    assert left_behind((image_HW3, clean_HW3), body_HW, hole_HW, nothing, nothing, nothing) == 0
    made = context(image_HW3)
    sample = apply(missing(made), made)
    # The only part of its scene, as if there were others.
    for value, reason in ((0.0, ""), (left, "left_behind")):
        parameters = {**sample.edit.parameters, "foreground_share": 0.2, LEFT_BEHIND: value}
        judged = replace(sample, edit=replace(sample.edit, parameters=parameters))
        assert judge(judged, image_HW3).reason == reason


def test_the_rest_of_a_rod_is_noticed_and_a_stripe_below_it_is_not():
    """Both run on; only one of them continues what was removed."""
    rod, removed = np.s_[:, 60:66], rectangle(np.s_[40:90, 60:66])
    for colour, noticed in (((25, 25, 28), True), ((90, 60, 40), False)):
        image_HW3 = np.clip(cloth(), 0, 255).astype(np.uint8)
        image_HW3[rod] = colour
        image_HW3[removed] = (25, 25, 28)
        hole_HW = dilated(removed, 2)
        after_HW3 = np.where(hole_HW[..., None], cloth(1), image_HW3).clip(0, 255).astype(np.uint8)
        nothing = np.zeros_like(hole_HW)
        left = left_behind((image_HW3, after_HW3), removed, hole_HW, nothing, nothing, nothing)
        assert (left > 0.004) == noticed


def test_the_spared_outline_of_a_part_beside_is_no_remnant_unless_the_hole_covers_more_of_it():
    # A rim that was spared beside the hole: that of a brown neighbour, or more of the body itself.
    hole_HW, rim_HW = rectangle(np.s_[48:82, 44:78]), rectangle(np.s_[52:78, 78:82])
    for colour, noticed in (((120, 60, 30), False), ((25, 22, 28), True)):
        image_HW3 = part(cloth(), with_legs=False)
        image_HW3[rectangle(np.s_[50:80, 46:78])] = (25, 22, 28)
        image_HW3[rim_HW] = colour
        after_HW3 = np.where(hole_HW[..., None], cloth(1), image_HW3).clip(0, 255).astype(np.uint8)
        nothing = np.zeros_like(hole_HW)
        images = image_HW3, after_HW3
        left = left_behind(images, rectangle(BODY), hole_HW, nothing, nothing, rim_HW)
        assert (left > 0.004) == noticed
        # Where nobody lies beside it, it is one in either case.
        assert left_behind(images, rectangle(BODY), hole_HW, nothing, nothing, nothing) > 0.004


def test_a_hole_that_cuts_a_board_is_noticed_and_one_in_a_soft_stain_is_not():
    """Both have little of the surrounding background on their rim; only a board has edges there."""
    stripes_HW = np.zeros((SIZE, SIZE), np.float32)
    for start in range(44, 80, 9):
        stripes_HW[40:90, start : start + 5] = 1
    stain_HW = cv2.GaussianBlur(rectangle(np.s_[40:90, 44:80]).astype(np.float32), (0, 0), 7)
    removed_HW, nothing = rectangle(np.s_[54:76, 52:72]), np.zeros((SIZE, SIZE), np.bool_)
    for dark_HW, noticed in ((stripes_HW, True), (stain_HW, False)):
        wood_HW3 = cv2.GaussianBlur(cloth(), (0, 0), 1)
        image_HW3 = np.clip(wood_HW3 * (1 - 0.5 * dark_HW[..., None]), 0, 255).astype(np.uint8)
        images = (image_HW3, image_HW3)
        left = left_behind(images, removed_HW, dilated(removed_HW, 2), nothing, nothing, nothing)
        assert (left > 0.004) == noticed


def test_what_applying_recorded_is_no_part_of_the_plan():
    made = context(part(cloth()))
    edit = missing(made)
    assert as_planned(apply(edit, made).edit) == edit


def test_a_product_shrinks_together_with_its_parts():
    product, inner = rectangle(np.s_[20:108, 20:108]), rectangle(np.s_[50:78, 50:78])
    parents = np.array([WHOLE_PRODUCT, WHOLE_PART], np.int32)
    masks_NHW, scores_N = np.stack([product, inner]), np.full(2, 0.9, np.float32)
    found = ObjectProposals(masks_NHW, scores_N, product, parent_N=parents)
    made = ImageContext(part(cloth()), found)
    after = MaskCrop.of(rectangle(np.s_[40:88, 40:88]))
    assert is_free(made, after, (0,))
    assert not is_free(made, after, ())


@pytest.mark.parametrize("level", [WHOLE_PART, WHOLE_PRODUCT])
def test_a_donor_brings_its_legs_along(level: int):
    found = replace(proposals(rectangle(BODY)), parent_N=np.array([level], np.int32))
    image_HW3 = part(cloth())
    donors = Donors.of({"donor": lambda: (image_HW3, found)}, {"donor": "d" * 64})
    made = ImageContext(part(cloth(1), with_legs=False), found, donors=donors)
    crop = made.donor_crop(donors.objects[0])
    assert crop.full((SIZE, SIZE))[legs()].mean() > 0.9


def test_what_was_found_of_a_donor_is_known_when_it_is_edited_itself(monkeypatch):
    found, image_HW3 = proposals(rectangle(BODY)), part(cloth())
    known = KnownPieces()
    donors = Donors.of(
        {"donor": lambda: (image_HW3, found)}, {"donor": "d" * 64}, pieces={"donor": known}
    )
    other = ImageContext(part(cloth(1), with_legs=False), found, donors=donors)
    ref = donors.objects[0]
    crop, seen = other.donor_crop(ref), other.outline_is_seen(ref)
    assert known.repeats is False
    # Whoever is asked second, nobody looks for a pattern or an outline again.
    monkeypatch.setattr(contexts, "repeated_background", None)
    monkeypatch.setattr(contexts, "outline_is_seen", None)
    itself = ImageContext(image_HW3, found, known=known)
    assert itself.outline_is_seen(0) == seen
    assert np.array_equal(itself.crops[0].mask_hw, crop.mask_hw)
    # And the other way round: its own edits tell what it brings along as a donor.
    monkeypatch.setattr(contexts, "Surroundings", None)
    again = Donors.of({"donor": lambda: (image_HW3, found)}, pieces={"donor": itself.known})
    empty = KnownPieces(repeats=False)
    third = ImageContext(part(cloth(1), with_legs=False), found, donors=again, known=empty)
    assert np.array_equal(third.donor_crop(again.objects[0]).mask_hw, crop.mask_hw)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_thin_pieces_keep_their_own_colour_when_cut_out(width: int):
    image_HW3 = part(cloth(), with_legs=False)
    leg = np.s_[80:96, 60 : 60 + width]
    image_HW3[leg] = (235, 235, 240)
    mask_HW = rectangle(BODY) | rectangle(leg)
    cutout = cut_out(image_HW3, MaskCrop.of(mask_HW), band=2, feather=3)
    at = np.s_[84 - cutout.y : 94 - cutout.y, 60 - cutout.x : 60 + width - cutout.x]
    assert cutout.pixels_hw3[at].min() > 220
    assert cutout.cover_hw[at].mean() > 0.7


@pytest.mark.parametrize("width", [2, 3, 4])
def test_a_thin_lead_that_shrinks_neither_fades_nor_takes_the_colour_beside_it(width: int):
    lead = np.s_[8:32, 18 : 18 + width]
    cover_hw, pixels_hw3 = np.zeros((40, 40), np.float32), np.full((40, 40, 3), 30, np.float32)
    cover_hw[lead], pixels_hw3[lead] = 1, 230
    lead_cutout = Cutout(pixels_hw3, cover_hw, cover_hw >= 0.5, 0, 0)
    after_hw3 = np.full((40, 40, 3), 120, np.float32)
    reshaped(lead_cutout, scaling(0.5), np.zeros(3), None).paste(after_hw3)
    # A quarter of its light, on a quarter of its area.
    assert (after_hw3 - 120).sum() == pytest.approx(3 * 110 * 24 * width / 4, rel=0.04)
    assert after_hw3.min() > 118

"""Objects wrong in orientation, size, colour, type or order, against measured ground truth."""

from dataclasses import replace

import numpy as np
import pytest
from skimage.color import deltaE_cie76, rgb2lab
from skimage.measure import label, regionprops
from small_parts import BLUE, GREEN, RED, YELLOW, bar, disc, draw, kit, kit_donors

from pipeline.edits.apply import apply
from pipeline.edits.compositing.recolor import recoloured
from pipeline.edits.context import ImageContext
from pipeline.edits.donors import NO_DONORS, Donors
from pipeline.edits.plan import plan
from pipeline.edits.presets import kinds_of
from pipeline.edits.settings import EditSettings
from pipeline.errors import RecordError
from pipeline.gate.judge import judge
from pipeline.imaging.masks import MaskCrop, rotation, scaling, warped
from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.records import WHOLE_PART, ObjectProposals, Sample

TELEA = OpenCvInpainter("telea")


def generated(kind: str, image, proposals, seed: int = 0, donors: Donors = NO_DONORS) -> Sample:
    """The first sample of a kind that can be planned, from a seed on."""
    context = ImageContext(image, proposals, TELEA, donors=donors)
    for number in range(seed, seed + 20):
        edit = plan(context, np.random.default_rng(number), kind=kind)
        if edit is not None:
            return apply(edit, context)
    raise AssertionError(f"no {kind} in 20 seeds")


def coloured(image_HW3: np.ndarray) -> np.ndarray:
    """Pixels that are object and not grey background, found by colour alone."""
    return np.ptp(image_HW3.astype(int), axis=2) > 60


def screw_image(degrees: float = 0) -> tuple[np.ndarray, ObjectProposals]:
    return draw([bar(128, 64, 64, 50, 9, degrees)], [YELLOW])


@pytest.mark.parametrize("seed", range(0, 60, 20))
def test_a_rotated_object_points_where_the_edit_says(seed):
    image, proposals = screw_image()
    sample = generated("wrong_orientation", image, proposals, seed)
    if sample.edit.parameters["mirror"]:
        pytest.skip("a mirrored object was drawn")
    found = max(regionprops(label(coloured(sample.pixels_HW3))), key=lambda region: region.area)
    # scikit-image measures from the row axis, anticlockwise in image coordinates
    degrees = (90 - np.rad2deg(found.orientation)) % 180
    turned = sample.edit.parameters["turn"] % 180
    assert abs((degrees - turned + 90) % 180 - 90) < 3
    assert found.area == pytest.approx(coloured(image).sum(), rel=0.08)


@pytest.mark.parametrize("seed", range(0, 100, 20))
def test_the_area_of_a_scaled_object_grows_with_the_square_of_its_scale(seed):
    image, proposals = draw([disc(128, 64, 64, 16)], [RED])
    sample = generated("wrong_size", image, proposals, seed)
    scale = sample.edit.parameters["scale"]
    assert sample.edit.parameters["along"] is None
    assert scale < 0.76 or scale > 1.29
    share = coloured(sample.pixels_HW3).sum() / coloured(image).sum()
    assert share == pytest.approx(scale**2, rel=0.06)


def test_a_slender_object_becomes_longer_or_shorter_and_no_wider():
    rod_HW = np.zeros((128, 128), np.bool_)
    rod_HW[60:67, 44:84] = True
    image, proposals = draw([rod_HW], [BLUE])
    sample = generated("wrong_size", image, proposals)
    rows = np.flatnonzero(coloured(sample.pixels_HW3).any(1))
    columns = np.flatnonzero(coloured(sample.pixels_HW3).any(0))
    assert np.ptp(rows) + 1 == pytest.approx(7, abs=1)
    assert np.ptp(columns) + 1 == pytest.approx(40 * sample.edit.parameters["scale"], abs=2)


@pytest.mark.parametrize("kind", ["wrong_orientation", "wrong_size"])
def test_a_resampled_object_keeps_its_sensor_noise(kind):
    image, proposals = draw([bar(128, 64, 64, 60, 22)], [YELLOW])
    before = noise_of(image, proposals.masks_NHW[0])
    for seed in range(0, 80, 20):
        sample = generated(kind, image, proposals, seed)
        after = noise_of(sample.pixels_HW3, coloured(sample.pixels_HW3))
        assert 0.75 * before < after < 1.35 * before, sample.edit


def noise_of(image_HW3: np.ndarray, where_HW: np.ndarray) -> float:
    """Mean second difference along rows inside an object: noise without shading and outlines."""
    steps = np.abs(np.diff(image_HW3.astype(float), n=2, axis=1))
    inside = steps[where_HW[:, 2:] & where_HW[:, 1:-1] & where_HW[:, :-2]]
    return float(inside[inside < 20].mean())


def test_objects_that_are_round_or_vary_in_orientation_are_never_rotated():
    image, proposals = draw([disc(128, 40, 40, 14), disc(128, 88, 88, 14)], [RED, RED])
    loose, loosely = draw([bar(128, 40, 64, 44, 8, 10), bar(128, 90, 64, 44, 8, 70)], [RED, RED])
    for seed in range(12):
        for scene, parts in ((image, proposals), (loose, loosely)):
            context = ImageContext(scene, parts)
            assert plan(context, np.random.default_rng(seed), kind="wrong_orientation") is None


def shaded(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The image with the object lit from above, like a ball."""
    y = np.linspace(1.0, 0.35, np.ptp(np.nonzero(where)[0]) + 1)
    soft = image.astype(float)
    rows = np.nonzero(where)[0]
    soft[where] *= y[rows - rows.min()][:, None]
    return np.clip(soft, 0, 255).astype(np.uint8)


def test_a_round_fruit_lit_from_one_side_is_not_rotated_but_a_round_label_is():
    """Shading upside down is no logical anomaly; a pattern upside down is one."""
    ball = disc(128, 64, 64, 24)
    fruit, proposals = draw([ball], [(240, 150, 30)])
    label = fruit.copy()
    rows, columns = np.mgrid[:128, :128]
    label[ball & (rows < 60) & (columns < 70)] = (30, 60, 200)
    turned = {"fruit": 0, "label": 0}
    for seed in range(10):
        for name, image in (("fruit", shaded(fruit, ball)), ("label", shaded(label, ball))):
            context = ImageContext(image, proposals)
            edit = plan(context, np.random.default_rng(seed), kind="wrong_orientation")
            turned[name] += edit is not None
    assert turned == {"fruit": 0, "label": 10}


def test_whether_orientation_varies_depends_on_the_donors():
    image, proposals = screw_image(0)
    same = Donors.of({"a": lambda: screw_image(2)}, {"a": "a" * 64})
    other = Donors.of({"b": lambda: screw_image(60)}, {"b": "b" * 64})
    contexts = [ImageContext(image, proposals, donors=donors) for donors in (same, other)]
    assert [context.orientation_varies(0) for context in contexts] == [False, True]


def test_an_object_is_not_rotated_when_a_donor_shows_it_in_another_rotation():
    image, proposals = screw_image(0)
    same = Donors.of({"a": lambda: screw_image(2)}, {"a": "a" * 64})
    other = Donors.of({"b": lambda: screw_image(60)}, {"b": "b" * 64})
    kind = "wrong_orientation"
    assert generated(kind, image, proposals, donors=same).edit.kind == kind
    with pytest.raises(AssertionError, match="no wrong_orientation"):
        generated(kind, *screw_image(0), donors=other)


def test_a_recoloured_object_has_the_colour_of_another_one_and_keeps_its_shading():
    image, proposals = kit()
    for seed in range(12):
        sample = generated("wrong_colour", image, proposals, seed)
        target, like = sample.edit.targets[0], sample.edit.parameters["like"]
        inside = proposals.masks_NHW[target]
        lab = rgb2lab(sample.pixels_HW3)
        before, after = rgb2lab(image)[inside], lab[inside]
        wanted = rgb2lab(image)[proposals.masks_NHW[like]].mean(0)
        assert np.linalg.norm(after.mean(0) - wanted) < 0.5 * np.linalg.norm(
            before.mean(0) - wanted
        )
        assert deltaE_cie76(before, after).mean() > 10
        # Left dark, right light.
        assert np.corrcoef(before[:, 0], after[:, 0])[0, 1] > 0.8


def test_a_highlight_stays_white_and_grey_becomes_colourful():
    image, proposals = draw([disc(128, 64, 64, 20)], [(100, 100, 100)])
    image[60:64, 60:64] = 255
    sample = generated("wrong_colour", image, proposals)
    assert "hue" in sample.edit.parameters
    assert (sample.pixels_HW3[61:63, 61:63] > 225).all()
    assert np.ptp(sample.pixels_HW3[70:76, 60:70].mean((0, 1))) > 30


def test_bright_pieces_of_a_dark_object_do_not_become_one_white_area():
    greys = np.full((64, 64), 25, np.float32)
    greys[:, 48:] = np.linspace(90, 170, 64)[:, None]
    lit = recoloured(np.repeat(greys[..., None], 3, 2), np.ones((64, 64), bool), lab=(60, 20, 20))
    leg = rgb2lab(lit[4:-4, 52:60] / 255)[..., 0].mean(1)
    assert (np.diff(leg) > 0).all()
    assert np.ptp(leg) > 8
    assert leg.max() < 97


def test_a_copper_ring_on_a_grey_part_stays_warm_when_the_part_is_tinted():
    """The hue of a grey is arbitrary: a turn from bluish grey to red would make copper green."""
    part = np.full((64, 64, 3), (62, 66, 76), np.float32)
    part[20:24] = (150, 100, 70)
    red = recoloured(part, np.ones((64, 64), bool), lab=(40, 40, 25))
    a, b = rgb2lab(red[21:23, 8:-8] / 255)[..., 1:].mean((0, 1))
    assert -15 < np.degrees(np.arctan2(b, a)) < 75
    assert rgb2lab(red[40:60] / 255)[..., 1].mean() > 20


def test_an_object_of_the_wrong_type_comes_from_a_donor_or_another_place():
    image, proposals = kit()
    donors = kit_donors()
    sources = set()
    for seed in range(30):
        sample = generated("wrong_type", image, proposals, seed, donors)
        parameters, target = sample.edit.parameters, sample.edit.targets[0]
        if "donor" in parameters:
            donor_image = kit(50 + int(parameters["donor"]["image"][-5]))[0]
            part = parameters["donor"]["proposal"]
        else:
            donor_image, part = image, parameters["part"]
        sources.add("donor" in parameters)
        colour = np.median(donor_image[proposals.masks_NHW[part]], axis=0)
        there = proposals.masks_NHW[target] & np.roll(
            proposals.masks_NHW[part], parameters["offset"][::-1], (0, 1)
        )
        np.testing.assert_allclose(np.median(sample.pixels_HW3[there], axis=0), colour, atol=14)
        assert part != target
    assert sources == {True, False}


def test_half_a_part_is_no_other_type():
    image, proposals = kit(0)
    # All but the first are pieces of it.
    parents_N = np.where(np.arange(len(proposals)) == 0, WHOLE_PART, 0).astype(np.int32)
    context = ImageContext(image, replace(proposals, parent_N=parents_N), TELEA)
    assert not any(
        plan(context, np.random.default_rng(seed), kind="wrong_type") for seed in range(10)
    )
    whole = ImageContext(image, proposals, TELEA)
    assert plan(whole, np.random.default_rng(0), kind="wrong_type")


def test_a_donor_that_is_gone_is_an_error_that_names_it():
    image, proposals = kit()
    donors = kit_donors()
    for seed in range(40):
        sample = generated("wrong_type", image, proposals, seed, donors)
        if "donor" in sample.edit.parameters:
            break
    with pytest.raises(RecordError, match=r"train/good/[01]\.png"):
        apply(sample.edit, ImageContext(image, proposals, TELEA))
    others = Donors.of({f"train/good/{n}.png": screw_image for n in range(2)})
    with pytest.raises(RecordError, match="not the one that the edit pasted"):
        apply(sample.edit, ImageContext(image, proposals, TELEA, donors=others))


def test_a_filler_gets_a_prompt_of_the_list_and_only_its_hole_is_used():
    image, proposals = kit()
    prompts = []

    def fill(draw, hole, prompt, seed, mode):
        prompts.append((prompt, mode))
        return np.full_like(draw, 7)

    paper = EditSettings(preset="paper", prompts=("a cork", "a coin"))
    context = ImageContext(image, proposals, TELEA, fill)
    edit = plan(context, np.random.default_rng(0), paper, "wrong_type")
    sample = apply(edit, context)
    assert prompts[0][0] in paper.prompts
    assert prompts[0][1] == "fill"
    assert (sample.pixels_HW3[sample.change_HW] == 7).all()
    with pytest.raises(RecordError, match="there is no filler"):
        apply(edit, ImageContext(image, proposals, TELEA))
    turns = kinds_of(paper, fills=True)
    assert (turns.count("missing"), turns.count("wrong_type")) == (7, 3)


def test_a_wrong_order_moves_every_object_to_the_place_of_the_next():
    image, proposals = kit()
    sample = generated("wrong_order", image, proposals)
    ring = sample.edit.targets
    assert len(ring) >= 3
    for here, there in zip(ring, ring[1:] + ring[:1], strict=True):
        was = np.median(image[proposals.masks_NHW[here]], axis=0)
        middle = MaskCrop.of(proposals.masks_NHW[there]).centre
        x, y = int(middle[0]), int(middle[1])
        now = np.median(sample.pixels_HW3[y - 2 : y + 3, x - 2 : x + 3], axis=(0, 1))
        np.testing.assert_allclose(now, was, atol=25)


@pytest.mark.parametrize("kind", ["swapped", "wrong_order", "wrong_type"])
def test_objects_that_look_alike_are_not_exchanged(kind):
    masks = [disc(128, 30, 30, 12), disc(128, 30, 96, 12), disc(128, 94, 60, 12)]
    image, proposals = draw(masks, [GREEN] * 3)
    for seed in range(10):
        context = ImageContext(image, proposals)
        assert plan(context, np.random.default_rng(seed), kind=kind) is None


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_quarter_turns_move_whole_pixels(degrees, mirror):
    rng = np.random.default_rng(0)
    patch = rng.random((7, 10, 3)).astype(np.float32)
    expected = np.rot90(patch[:, ::-1] if mirror else patch, -degrees // 90)
    assert np.array_equal(warped(patch, rotation(degrees, mirror)), expected)


def test_a_warped_mask_keeps_its_centre():
    crop = MaskCrop.of(bar(128, 60, 70, 40, 8))
    for matrix in (rotation(45), scaling(1.5), scaling(0.6, along=30)):
        after = crop.warped(matrix)
        assert np.allclose(after.centre, crop.centre, atol=3)
        assert after.area == pytest.approx(crop.area * abs(np.linalg.det(matrix)), rel=0.1)


def test_with_ground_prompts_a_control_keeps_the_product_and_replaces_everything_around_it():
    image, proposals = kit()
    prompts = []

    def fill(draw, keep, prompt, seed, mode):
        prompts.append((prompt, mode))
        return np.where(keep[..., None], draw, 7).astype(np.uint8)

    chosen = EditSettings(ground_prompts=("grey felt", "a steel table"))
    context = ImageContext(image, proposals, TELEA, fill)
    edit = plan(context, np.random.default_rng(0), chosen, "control_background")
    sample = apply(edit, context)
    assert prompts[0][0] in chosen.ground_prompts
    assert prompts[0][1] == "replace"
    assert sample.label == 0
    product = proposals.foreground_HW | proposals.masks_NHW.any(0)
    assert not (sample.change_HW & product).any()
    assert (sample.pixels_HW3[sample.change_HW] == 7).all()
    assert judge(sample, image).reason not in ("visible_control", "implausible")

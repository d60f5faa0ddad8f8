"""Planning and compositing: what a plan promises, and that nothing else in the image changes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_parts import kit, kit_donors

from pipeline.edits.apply import apply
from pipeline.edits.context import ImageContext
from pipeline.edits.placement import MAX_OVERLAP, MIN_BACKGROUND
from pipeline.edits.plan import plan
from pipeline.edits.presets import kinds_of
from pipeline.edits.registry import EDITS, edit_kind
from pipeline.edits.settings import EditSettings
from pipeline.errors import RecordError
from pipeline.gate.judge import judge
from pipeline.imaging.masks import shifted
from pipeline.kinds import KINDS, names
from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.records import Edit, ObjectProposals

TELEA = OpenCvInpainter("telea")
SETTINGS = EditSettings()


def tray(seed: int = 0, size: int = 96) -> tuple[np.ndarray, ObjectProposals]:
    """A grey tray with a red, a green and a blue disc and sensor noise, and its true proposals."""
    rng = np.random.default_rng(seed)
    image_HW3 = np.full((size, size, 3), 128.0)
    yy, xx = np.mgrid[:size, :size]
    masks, places = [], [(24, 24), (24, 70), (70, 30)]
    for colour, (y, x) in zip(np.eye(3) * 200, places, strict=True):
        mask_HW = (yy - y) ** 2 + (xx - x) ** 2 < 81
        image_HW3[mask_HW] = colour
        masks.append(mask_HW)
    image_HW3 += rng.normal(0, 2, image_HW3.shape)
    foreground_HW = np.zeros((size, size), np.bool_)
    foreground_HW[4:-4, 4:-4] = True
    proposals = ObjectProposals(
        np.stack(masks), np.array([0.9, 0.8, 0.7], np.float32), foreground_HW
    )
    return np.clip(image_HW3, 0, 255).astype(np.uint8), proposals


def reds(image_HW3: np.ndarray) -> int:
    pixels = image_HW3.astype(int)
    return int(((pixels[..., 0] > 150) & (pixels[..., 1] < 90)).sum())


def only(proposals: ObjectProposals, index: int) -> ObjectProposals:
    """The same scene where just one object was found."""
    return ObjectProposals(
        proposals.masks_NHW[index : index + 1],
        proposals.scores_N[index : index + 1],
        proposals.foreground_HW,
    )


def test_the_five_lines():
    image, proposals = tray()
    context = ImageContext(image, proposals, TELEA)
    edit = plan(context, np.random.default_rng(1))
    sample = apply(edit, context)
    verdict = judge(sample, image)
    assert verdict.accepted, verdict
    assert sample.label == 1


@pytest.mark.parametrize(
    ("kind", "share"), [("missing", 0.0), ("extra", 2.0), ("misplaced", 1.0), ("control_noop", 1.0)]
)
def test_an_edit_does_what_its_name_says(kind, share):
    image, proposals = tray()
    proposals = only(proposals, 0)
    context = ImageContext(image, proposals, TELEA)
    sample = apply(plan(context, np.random.default_rng(3), kind=kind), context)
    assert reds(sample.pixels_HW3) == pytest.approx(share * reds(image), abs=0.15 * reds(image))
    assert sample.label == (0 if kind == "control_noop" else 1)


def test_swapped_objects_change_places():
    image, proposals = tray()
    context = ImageContext(image, proposals, TELEA)
    edit = plan(context, np.random.default_rng(0), kind="swapped")
    sample = apply(edit, context)
    first, second = (proposals.masks_NHW[t] for t in edit.targets)
    before = image[first].mean(0), image[second].mean(0)
    after = sample.pixels_HW3[first].mean(0), sample.pixels_HW3[second].mean(0)
    np.testing.assert_allclose(after[0], before[1], atol=12)
    np.testing.assert_allclose(after[1], before[0], atol=12)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32),
    dilation=st.integers(0, 9),
    feather=st.integers(0, 7),
    noise=st.booleans(),
)
def test_outside_the_change_mask_every_byte_is_the_source(kind, seed, dilation, feather, noise):
    image, proposals = kit(seed % 5)
    donors = kit_donors()
    chosen = EditSettings(dilation=dilation, feather=feather, match_noise=noise)
    context = ImageContext(image, proposals, donors=donors)
    edit = plan(context, np.random.default_rng(seed), chosen, kind)
    if edit is None:
        return
    alters_everything = lambda draw, hole, avoid: 255 - draw  # noqa: E731  (alters every pixel)
    x0, y0, x1, y1 = edit.parameters["region"]
    for inpaint in (TELEA, alters_everything):
        sample = apply(edit, ImageContext(image, proposals, inpaint, donors=donors))
        outside = ~sample.change_HW
        assert np.array_equal(sample.pixels_HW3[outside], image[outside])
        assert sample.change_HW.any()
        # Nothing changes beyond the region that the plan names.
        outside[y0:y1, x0:x1] = True
        assert outside.all()


@settings(max_examples=50, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32))
def test_an_edit_survives_json_and_gives_the_same_pixels_again(kind, seed):
    image, proposals = kit()
    context = ImageContext(image, proposals, TELEA, donors=kit_donors())
    anew = ImageContext(image.copy(), proposals, TELEA, donors=kit_donors())
    edit = plan(context, np.random.default_rng(seed), kind=kind)
    assert plan(anew, np.random.default_rng(seed), kind=kind) == edit
    if edit is None:
        return
    again = Edit.from_json(json.loads(json.dumps(edit.to_json())))
    assert again.to_json() == edit.to_json()
    first, second = apply(edit, context), apply(again, anew)
    assert np.array_equal(first.pixels_HW3, second.pixels_HW3)
    assert np.array_equal(first.change_HW, second.change_HW)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_combined_edit_is_two_kinds_that_do_not_touch(seed):
    image, proposals = kit()
    context = ImageContext(image, proposals, TELEA)
    edit = plan(context, np.random.default_rng(seed), kind="combined")
    if edit is None:
        return
    first, second = edit.parts
    assert first.kind != second.kind
    assert not set(first.targets) & set(second.targets)
    assert edit.targets == first.targets + second.targets
    both = apply(edit, context)
    alone = [apply(part, context) for part in edit.parts]
    assert not (alone[0].change_HW & alone[1].change_HW).any()
    assert np.array_equal(both.change_HW, alone[0].change_HW | alone[1].change_HW)
    for sample in alone:
        changed = sample.change_HW
        assert np.array_equal(both.pixels_HW3[changed], sample.pixels_HW3[changed])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), dilation=st.integers(0, 6))
def test_reinpainted_background_holds_no_object_and_is_labelled_normal(seed, dilation):
    image, proposals = kit()
    context = ImageContext(image, proposals, TELEA)
    chosen = EditSettings(dilation=dilation)
    edit = plan(context, np.random.default_rng(seed), chosen, "control_background")
    sample = apply(edit, context)
    assert sample.label == 0
    assert edit.targets == ()
    assert sample.object_HW.sum() in proposals.masks_NHW.sum((1, 2))
    assert not (sample.object_HW & proposals.masks_NHW.any(0)).any()


def test_without_bare_background_there_is_no_background_control():
    everywhere = np.ones((1, 64, 64), np.bool_)
    full = ObjectProposals(everywhere, np.ones(1, np.float32), everywhere[0])
    context = ImageContext(np.zeros((64, 64, 3), np.uint8), full)
    assert plan(context, np.random.default_rng(0), kind="control_background") is None


def test_every_kind_can_be_planned_on_a_kit():
    context = ImageContext(*kit())
    for kind in KINDS:
        found = (plan(context, np.random.default_rng(seed), kind=kind) for seed in range(20))
        assert any(found), kind
    assert kinds_of(SETTINGS) == tuple(KINDS[:9])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), stays=st.booleans())
def test_a_moved_object_stays_whole_on_its_background_and_off_the_others(seed, stays):
    image, proposals = tray()
    kind = "extra" if stays else "misplaced"
    edit = plan(ImageContext(image, proposals), np.random.default_rng(seed), kind=kind)
    if edit is None:
        return
    target = edit.targets[0]
    there = shifted(proposals.masks_NHW[target], *edit.parameters["offset"])
    area = proposals.masks_NHW[target].sum()
    assert there.sum() == area
    assert (there & proposals.foreground_HW).sum() >= MIN_BACKGROUND * area
    others = np.delete(proposals.masks_NHW, target, 0).any(0)
    assert (there & others).sum() <= MAX_OVERLAP * area


def test_a_truncated_object_is_never_moved():
    image, proposals = tray()
    truncated_HW = np.zeros_like(proposals.masks_NHW[0])
    truncated_HW[:12, 30:50] = True
    alone = ObjectProposals(truncated_HW[None], np.ones(1, np.float32), np.ones_like(truncated_HW))
    context, rng = ImageContext(image, alone), np.random.default_rng(0)
    assert plan(context, rng, kind="extra") is None
    assert plan(context, rng, kind="missing") is not None


def test_without_objects_there_is_no_edit():
    image, proposals = tray()
    nothing = ObjectProposals(
        proposals.masks_NHW[:0], proposals.scores_N[:0], proposals.foreground_HW
    )
    assert plan(ImageContext(image, nothing), np.random.default_rng(0)) is None


def test_an_unknown_kind_is_an_error_never_silence():
    context = ImageContext(*tray())
    with pytest.raises(RecordError, match=r"kind must be one of .*'mislaid'"):
        plan(context, np.random.default_rng(0), kind="mislaid")
    with pytest.raises(RecordError, match="implements 'mislaid'"):
        edit_kind("mislaid")
    assert set(EDITS) == set(names(lambda kind: not kind.composite))


def test_the_paper_preset_only_removes():
    context, paper = ImageContext(*tray()), EditSettings(preset="paper")
    kinds = {plan(context, np.random.default_rng(seed), paper).kind for seed in range(20)}
    assert kinds == {"missing"}


@given(st.integers(-100, 100), st.integers(-100, 100))
def test_shifting_there_and_back_loses_only_what_left_the_frame(dx, dy):
    draw = np.arange(40 * 30).reshape(40, 30) + 1
    there = shifted(draw, dx, dy)
    back = shifted(there, -dx, -dy)
    kept = back > 0
    assert np.array_equal(back[kept], draw[kept])
    assert kept.sum() == max(0, 30 - abs(dx)) * max(0, 40 - abs(dy))

"""Edits and compositing: what a plan promises, and that nothing else in the picture changes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import compose, edits, gate
from pipeline.inpaint import OpenCvInpainter
from pipeline.records import KINDS, Edit, ObjectProposals
from pipeline.settings import EditSettings

TELEA = OpenCvInpainter("telea")
SETTINGS = EditSettings()


def tray(seed: int = 0, size: int = 96) -> tuple[np.ndarray, ObjectProposals]:
    """A grey tray with a red, a green and a blue disc, grain included, and its true proposals."""
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
    edit = edits.plan(proposals, np.random.default_rng(1), SETTINGS)
    sample = compose.apply(edit, image, proposals, TELEA)
    verdict = gate.judge(sample, image)
    assert verdict.accepted, verdict
    assert sample.label == 1


@pytest.mark.parametrize(
    ("kind", "share"), [("missing", 0.0), ("extra", 2.0), ("misplaced", 1.0), ("control_noop", 1.0)]
)
def test_an_edit_does_what_its_name_says(kind, share):
    image, proposals = tray()
    proposals = only(proposals, 0)
    edit = edits.plan(proposals, np.random.default_rng(3), SETTINGS, kind)
    sample = compose.apply(edit, image, proposals, TELEA)
    assert reds(sample.pixels_HW3) == pytest.approx(share * reds(image), abs=0.15 * reds(image))
    assert sample.label == (0 if kind == "control_noop" else 1)


def test_swapped_objects_change_places():
    image, proposals = tray()
    edit = edits.plan(proposals, np.random.default_rng(0), SETTINGS, "swapped")
    sample = compose.apply(edit, image, proposals, TELEA)
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
    image, proposals = tray(seed % 5)
    chosen = EditSettings(dilation=dilation, feather=feather, match_noise=noise)
    edit = edits.plan(proposals, np.random.default_rng(seed), chosen, kind)
    if edit is None:
        return
    vandal = lambda picture, hole: 255 - picture  # noqa: E731  (alters all it gets hold of)
    for inpaint in (TELEA, vandal):
        sample = compose.apply(edit, image, proposals, inpaint)
        outside = ~sample.change_HW
        assert np.array_equal(sample.pixels_HW3[outside], image[outside])
        assert sample.change_HW.any()


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32))
def test_an_edit_survives_json_and_gives_the_same_pixels_again(kind, seed):
    image, proposals = tray()
    edit = edits.plan(proposals, np.random.default_rng(seed), SETTINGS, kind)
    if edit is None:
        return
    again = Edit.from_json(json.loads(json.dumps(edit.to_json())))
    assert again == edit
    first = compose.apply(edit, image, proposals, TELEA)
    second = compose.apply(again, image, proposals, TELEA)
    assert np.array_equal(first.pixels_HW3, second.pixels_HW3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), stays=st.booleans())
def test_a_moved_object_stays_whole_on_its_ground_and_off_the_others(seed, stays):
    _, proposals = tray()
    kind = "extra" if stays else "misplaced"
    edit = edits.plan(proposals, np.random.default_rng(seed), SETTINGS, kind)
    if edit is None:
        return
    target = edit.targets[0]
    there = edits.shifted(proposals.masks_NHW[target], *edit.parameters["offset"])
    area = proposals.masks_NHW[target].sum()
    assert there.sum() == area
    assert (there & proposals.foreground_HW).sum() >= edits.MIN_GROUND * area
    others = np.delete(proposals.masks_NHW, target, 0).any(0)
    assert (there & others).sum() <= edits.MAX_OVERLAP * area


def test_an_object_that_the_frame_cuts_is_never_moved():
    _, proposals = tray()
    cut_HW = np.zeros_like(proposals.masks_NHW[0])
    cut_HW[:12, 30:50] = True
    alone = ObjectProposals(cut_HW[None], np.ones(1, np.float32), np.ones_like(cut_HW))
    rng = np.random.default_rng(0)
    assert edits.plan(alone, rng, SETTINGS, "extra") is None
    assert edits.plan(alone, rng, SETTINGS, "missing") is not None


def test_nothing_to_edit_gives_no_edit():
    _image, proposals = tray()
    nothing = ObjectProposals(
        proposals.masks_NHW[:0], proposals.scores_N[:0], proposals.foreground_HW
    )
    assert edits.plan(nothing, np.random.default_rng(0), SETTINGS) is None


def test_the_paper_preset_only_removes():
    _, proposals = tray()
    paper = EditSettings(preset="paper")
    kinds = {edits.plan(proposals, np.random.default_rng(s), paper).kind for s in range(20)}
    assert kinds == {"missing"}


@given(st.integers(-100, 100), st.integers(-100, 100))
def test_shifting_there_and_back_loses_only_what_left_the_frame(dx, dy):
    picture = np.arange(40 * 30).reshape(40, 30) + 1
    there = edits.shifted(picture, dx, dy)
    back = edits.shifted(there, -dx, -dy)
    kept = back > 0
    assert np.array_equal(back[kept], picture[kept])
    assert kept.sum() == max(0, 30 - abs(dx)) * max(0, 40 - abs(dy))

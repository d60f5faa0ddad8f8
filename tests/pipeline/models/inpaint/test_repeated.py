"""Where the background repeats itself, a hole is filled with what the pattern shows there."""

import numpy as np
import pytest
from perforated import board, mounted

from pipeline.edits.context import ImageContext
from pipeline.edits.plan import plan
from pipeline.imaging.masks import dilated
from pipeline.imaging.repetition import repeated_background
from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.models.inpaint.candidates import CandidateInpainter
from pipeline.models.inpaint.repeated import REPEATED, RepeatedInpainter
from pipeline.records import WHOLE_PRODUCT, ObjectProposals

SCENE = mounted()
HOLE_HW = dilated(SCENE.product_HW, 3)


@pytest.fixture(scope="module")
def repeated() -> RepeatedInpainter:
    background = repeated_background(SCENE.image_HW3, SCENE.product_HW)
    assert background is not None
    return RepeatedInpainter(background, SCENE.product_HW)


def context_of(image_HW3: np.ndarray, product_HW: np.ndarray = SCENE.product_HW) -> ImageContext:
    proposals = ObjectProposals(
        product_HW[None], np.ones(1, np.float32), product_HW,
        parent_N=np.array([WHOLE_PRODUCT], np.int32),
    )  # fmt: skip
    telea = CandidateInpainter({"telea": OpenCvInpainter("telea")})
    return ImageContext(image_HW3, proposals, telea)


def test_the_bare_board_comes_back(repeated):
    def off(filled_HW3: np.ndarray) -> float:
        return np.abs(filled_HW3.astype(int) - SCENE.bare_HW3)[HOLE_HW].mean()

    filled_HW3 = repeated(SCENE.image_HW3, HOLE_HW)
    assert off(filled_HW3) < 5 < off(OpenCvInpainter("telea")(SCENE.image_HW3, HOLE_HW)) / 3
    assert (filled_HW3[~HOLE_HW] == SCENE.image_HW3[~HOLE_HW]).all()
    again_HW3 = repeated(SCENE.image_HW3, HOLE_HW)
    assert again_HW3.tobytes() == filled_HW3.tobytes()


def test_along_its_rim_a_fill_is_as_dark_as_what_it_continues(repeated):
    image_HW3 = SCENE.image_HW3.copy()
    # One hole of the board is brighter than the others, and its right half is to be filled.
    image_HW3[86:96, 4:14] += 25
    half_HW = np.zeros_like(HOLE_HW)
    half_HW[84:98, 9:18] = True
    filled_HW3 = repeated(image_HW3, half_HW).astype(int)
    assert abs(filled_HW3[88:94, 10].mean() - filled_HW3[88:94, 7].mean()) < 10


def test_it_is_the_first_candidate_beside_the_product_and_none_on_it():
    context = context_of(SCENE.image_HW3)
    on_product_HW = np.zeros_like(HOLE_HW)
    on_product_HW[45:60, 70:85] = True
    context.inpaint.distance = lambda filled_HW3, hole_HW: 0.0
    _, beside = context.inpaint(HOLE_HW)
    _, inside = context.inpaint(on_product_HW)
    assert beside is not None
    assert inside is not None
    assert (beside.inpainter, inside.inpainter) == (REPEATED, "telea")


def test_a_product_is_removed_only_where_what_it_covers_is_known():
    rng = np.random.default_rng(0)
    edit = plan(context_of(SCENE.image_HW3), rng, kind="missing")
    assert edit is not None
    assert edit.parameters["whole_product"]
    plain_HW3 = np.full_like(SCENE.image_HW3, 140)
    plain_HW3[SCENE.product_HW] = 30
    assert plan(context_of(plain_HW3), rng, kind="missing") is None
    # All copies near the middle of a large product before a fine mesh are covered as well.
    mesh_HW3, large_HW = board((14, 14)), np.zeros_like(SCENE.product_HW)
    large_HW[24:136, 24:136] = True
    mesh_HW3[large_HW] = (70, 90, 160)
    context = context_of(mesh_HW3, large_HW)
    assert context.background is not None
    assert plan(context, rng, kind="missing") is None


def test_a_mounted_product_is_shrunk_but_neither_enlarged_nor_recoloured():
    # Its outline is seen before holes and copper alike.
    context = context_of(mounted((70, 90, 160)).image_HW3)
    rngs = [np.random.default_rng(seed) for seed in range(4)]
    sizes = [plan(context, rng, kind="wrong_size") for rng in rngs]
    assert all(edit is not None and edit.parameters["scale"] < 1 for edit in sizes)
    assert plan(context, rngs[0], kind="wrong_colour") is None

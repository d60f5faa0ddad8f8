"""What may not be copied into a hole, and how an applied edit records what filled it."""

import json

import numpy as np
from small_parts import kit

from pipeline.edits.apply import apply, as_planned
from pipeline.edits.context import ImageContext
from pipeline.edits.fill_sources import not_background
from pipeline.edits.plan import plan
from pipeline.imaging.masks import disjoint, enclosing_box
from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.models.inpaint.candidates import CandidateInpainter
from pipeline.records import Edit, bounding_box

CANDIDATES = CandidateInpainter({name: OpenCvInpainter(name) for name in ("telea", "ns")})


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask_HW = np.zeros((256, 256), np.bool_)
    mask_HW[y0:y1, x0:x1] = True
    return mask_HW


def avoided(hole_HW, foreground_HW, *masks):
    return not_background(hole_HW, bounding_box(hole_HW), foreground_HW, masks)


def test_beside_the_product_foreground_and_parts_are_avoided_with_their_halo():
    hole_HW, product_HW, part_HW = box(20, 20, 60, 60), box(100, 20, 140, 60), box(20, 150, 40, 170)
    avoid_HW = avoided(hole_HW, box(24, 24, 56, 56) | product_HW, part_HW)
    assert avoid_HW[product_HW].all()
    assert avoid_HW[part_HW].all()
    assert avoid_HW[40, 97]  # three pixels beside the product
    assert not avoid_HW[40, 80]
    assert not avoid_HW[hole_HW].any()


def test_a_window_tells_what_the_whole_image_tells_there():
    hole_HW, foreground_HW = box(40, 40, 70, 70), box(30, 30, 80, 80)
    # One part touches the window, and of the other only its halo lies inside.
    parts = [box(60, 90, 90, 110), box(102, 40, 130, 60)]
    for product_HW in (foreground_HW, box(0, 200, 20, 220)):
        whole_HW = avoided(hole_HW, product_HW, *parts)
        near = np.s_[20:100, 20:100]
        found_hw = not_background(hole_HW, (40, 40, 70, 70), product_HW, parts, near)
        assert found_hw.shape == (80, 80)
        assert np.array_equal(found_hw, whole_HW[near])


def test_on_the_product_the_product_is_the_source_and_the_rest_is_not():
    hole_HW, product_HW, part_HW = box(90, 90, 120, 120), box(40, 40, 200, 200), box(50, 50, 70, 70)
    avoid_HW = avoided(hole_HW, product_HW, part_HW)
    assert avoid_HW[~product_HW].all()
    assert avoid_HW[part_HW].all()
    assert not avoid_HW[150, 150]


def test_what_surrounds_the_hole_is_no_part_to_avoid():
    hole_HW, product_HW = box(90, 90, 110, 110), box(10, 10, 246, 246)
    compartment_HW = box(60, 60, 140, 140)
    assert not avoided(hole_HW, product_HW, compartment_HW, box(92, 92, 108, 108))[70, 70]


def test_an_applied_edit_names_inpainter_candidates_and_distances_and_is_repeated_from_them():
    image_HW3, proposals = kit()
    context = ImageContext(image_HW3, proposals, CANDIDATES)
    context.inpaint.distance = lambda filled_HW3, hole_HW: float(filled_HW3[hole_HW].std())
    edit = plan(context, np.random.default_rng(0), kind="missing")
    assert edit is not None
    sample = apply(edit, context)
    (fill,) = sample.edit.parameters["fills"]
    assert set(fill["distances"]) == {"telea", "ns"}
    assert fill["distances"][fill["inpainter"]] == min(fill["distances"].values())
    assert as_planned(sample.edit) == edit
    # From the record alone, without anything to compare with.
    recorded = Edit.from_json(json.loads(json.dumps(sample.edit.to_json())))
    again = apply(recorded, ImageContext(image_HW3, proposals, CANDIDATES))
    assert again.edit.to_json() == sample.edit.to_json()
    assert np.array_equal(again.pixels_HW3, sample.pixels_HW3)


def test_both_edits_of_a_combined_sample_record_their_fills():
    image_HW3, proposals = kit()
    context = ImageContext(image_HW3, proposals, CANDIDATES)
    context.inpaint.distance = lambda filled_HW3, hole_HW: float(filled_HW3[hole_HW].std())
    removed = [plan(context, np.random.default_rng(seed), kind="missing") for seed in range(12)]
    pair = next(
        (one, other)
        for one in removed
        for other in removed
        if one and other and disjoint(one.parameters["region"], other.parameters["region"])
    )
    parameters = {
        "edits": [part.to_json() for part in pair],
        "region": list(enclosing_box([part.parameters["region"] for part in pair], 0, (256, 256))),
    }
    edit = Edit("combined", pair[0].targets + pair[1].targets, parameters, seed=0)
    sample = apply(edit, context)
    assert all(len(part.parameters["fills"]) == 1 for part in sample.edit.parts)
    assert as_planned(sample.edit).to_json() == edit.to_json()

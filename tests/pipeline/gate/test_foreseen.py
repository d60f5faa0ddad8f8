"""Duplicates foreseen from the plan are those that the gate finds in the pixels."""

import pytest
from small_parts import RED, disc, draw

from pipeline.edits.apply import apply
from pipeline.edits.context import ImageContext
from pipeline.gate.foreseen import foreseen_duplicate
from pipeline.gate.judge import judge
from pipeline.gate.settings import GateSettings
from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.records import Edit

SHARED = {"dilation": 4, "feather": 3, "match_noise": False, "region": [4, 4, 124, 124]}


@pytest.fixture(scope="module")
def context():
    image_HW3, proposals = draw([disc(128, 64, 64, 24)], [RED])
    return ImageContext(image_HW3, proposals, OpenCvInpainter("telea"))


@pytest.mark.parametrize(
    ("kind", "before", "now", "same"),
    [
        ("wrong_size", {"scale": 0.6, "along": None}, {"scale": 0.61, "along": None}, True),
        ("wrong_size", {"scale": 0.5, "along": None}, {"scale": 0.75, "along": None}, False),
        ("wrong_size", {"scale": 1.4, "along": None}, {"scale": 1.41, "along": None}, True),
        ("wrong_size", {"scale": 0.6, "along": None}, {"scale": 1.4, "along": None}, False),
        ("misplaced", {"offset": [20, 0]}, {"offset": [21, 0]}, True),
        ("misplaced", {"offset": [20, 0]}, {"offset": [-20, 0]}, False),
    ],
)
def test_the_plan_tells_what_the_pixels_tell(context, kind, before, now, same):
    first, second = (Edit(kind, (0,), SHARED | one, seed=1) for one in (before, now))
    most_iou = GateSettings().max_duplicate_iou
    assert foreseen_duplicate(context, second, [first], most_iou) == same
    verdict = judge(apply(second, context), context.image_HW3, None, [apply(first, context)])
    assert (verdict.scores["duplicate_iou"] > most_iou) == same


def test_only_the_same_kind_of_edit_of_the_same_object_counts(context):
    edit = Edit("wrong_size", (0,), SHARED | {"scale": 0.6, "along": None}, seed=1)
    moved = Edit("misplaced", (0,), SHARED | {"offset": [20, 0]}, seed=1)
    assert not foreseen_duplicate(context, edit, [moved], 0.9)
    # What a colour or another part looks like, only the pixels show.
    red = Edit("wrong_colour", (0,), SHARED | {"hue": 60}, seed=1)
    assert not foreseen_duplicate(context, red, [red], 0.9)
    assert not foreseen_duplicate(context, edit, [], 0.9)

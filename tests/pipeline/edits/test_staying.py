"""What stays beside a part: broad things, the walls of its compartment, but not its shadow."""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.edits.background_colour import lab_of
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.staying import broad_things, on_lines
from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.records import Edit, ObjectProposals

SIZE, PX = 128, 0.5
PART_HW = np.hypot(*(np.mgrid[:SIZE, :SIZE] - 64)) <= 18


def in_compartment(wall: int = 3, gap: int = 4) -> np.ndarray:
    """A dark part with a soft shadow to the lower right, `gap` px above a wall of a bright tray."""
    tray_HW = np.full((SIZE, SIZE), 205.0, np.float32)
    tray_HW[83 + gap : 83 + gap + wall] = 130
    tray_HW = cv2.GaussianBlur(tray_HW, (0, 0), 0.8)
    shade_HW = cv2.GaussianBlur(np.roll(PART_HW, (4, 4), (0, 1)).astype(np.float32), (0, 0), 3)
    tray_HW *= 1 - 0.3 * shade_HW
    tray_HW += np.random.default_rng(0).normal(0, 1, tray_HW.shape)
    image_HW3 = np.repeat(tray_HW[..., None], 3, 2)
    image_HW3[PART_HW] = (60, 40, 30)
    return image_HW3.clip(0, 255).astype(np.uint8)


def seen(image_HW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lab_HW3 = cv2.GaussianBlur(lab_of(image_HW3), (0, 0), 0.5)
    return on_lines(lab_HW3, PART_HW, np.ones_like(PART_HW), PX)


def test_a_thin_wall_stays_and_the_shadow_before_it_does_not():
    shown_HW, past_HW = seen(in_compartment())
    assert shown_HW[88, 10:118].mean() > 0.8
    assert not shown_HW[:80].any()
    assert not past_HW[:80].any()
    assert past_HW[88:].all()


def test_nothing_stays_where_no_line_runs_on():
    shown_HW, past_HW = seen(in_compartment(wall=0))
    assert not shown_HW.any()
    assert not past_HW.any()


@dataclass
class Unfilled:
    """The image as it is, in place of an inpainter."""

    image_HW3: np.ndarray

    def __call__(self, hole_HW):
        return self.image_HW3

    def recent(self, make, *key):
        return make()


def test_the_hole_of_a_removal_ends_at_the_wall():
    image_HW3 = in_compartment()
    found = ObjectProposals(PART_HW[None], np.full(1, 0.9, np.float32), PART_HW)
    made = ImageContext(image_HW3, found, OpenCvInpainter("telea"))
    edit = Edit("missing", (0,), {"dilation": 4, "feather": 3, "match_noise": False}, seed=0)
    light_HW = made.light_of([0])
    beside = light_HW, light_HW, made.stays_beside([0])
    canvas = Canvas(image_HW3, edit, made.proposals.masks_NHW, Unfilled(image_HW3), *beside)
    canvas.remove_object(PART_HW)
    hole_HW = canvas.hole_HW()
    assert hole_HW[PART_HW].all()
    # Its shadow goes with it.
    assert hole_HW[80:83, 70:76].mean() > 0.8
    assert not hole_HW[87:].any()


def test_a_broad_thing_stays_and_what_is_narrow_does_not():
    image_HW3 = np.full((SIZE, SIZE, 3), 205, np.uint8)
    image_HW3[PART_HW] = 30
    image_HW3[82:, 40:90] = 90
    image_HW3[62:66, :47] = 90
    lab_HW3 = lab_of(image_HW3)
    residual_HW3 = lab_HW3 - lab_HW3[0, 0]
    found = residual_HW3, np.linalg.norm(residual_HW3, axis=2)
    distance_HW = cv2.distanceTransform((~PART_HW).astype(np.uint8), cv2.DIST_L2, 5)
    stays_HW = broad_things(found, distance_HW, ~PART_HW, reach=20.0, px=PX)
    assert stays_HW[90:100, 50:80].all()
    assert not stays_HW[62:66, 20:46].any()

"""Parts from another photograph, in the light of the one that they are pasted into."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_parts import BLUE, RED, YELLOW, disc, draw

from pipeline.edits.apply import apply
from pipeline.edits.compositing.light import Light
from pipeline.edits.context import ImageContext
from pipeline.edits.donor_light import BENT, CAST, EXPOSURE, light_for
from pipeline.edits.donors import Donors
from pipeline.edits.plan import plan
from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.records import ObjectProposals

WARM = Light((1.15, 1.0, 0.9), 1.15)
# A kind is what the vector says.
KINDS = SimpleNamespace(recognise=lambda vectors_NC: vectors_NC[:, 0].astype(np.int32))


def parts(
    kinds: tuple[int, ...], seed: int, ground: int = 128
) -> tuple[np.ndarray, ObjectProposals]:
    """Discs whose colours are those of their kinds, on a sheet of any grey."""
    middles = ((28, 28), (28, 96), (96, 28))[: len(kinds)]
    discs = [disc(128, *middle, 12) for middle in middles]
    image_HW3, proposals = draw(discs, [(RED, YELLOW, BLUE)[kind] for kind in kinds], seed)
    image_HW3[~proposals.masks_NHW.any(0)] = ground
    return image_HW3, replace(proposals, vectors_NC=np.array([kinds], np.float32).T)


def context_with(donor: tuple[np.ndarray, ObjectProposals], *kinds: int, category: str = ""):
    """The image of some kinds, and a reference to the donor's first object."""
    named = {"donor": category} if category else {}
    donors = Donors.of({"donor": lambda: donor}, categories=named)
    context = ImageContext(*parts(kinds, seed=1), donors=donors, part_kinds=KINDS)  # type: ignore[arg-type]
    return context, (donors.objects or donors.other_products)[0]


def in_light(light: Light, image_HW3: np.ndarray) -> np.ndarray:
    return np.rint(light.on(image_HW3.astype(np.float32))).astype(np.uint8)


@pytest.mark.parametrize("kinds", [(0, 1, 2), (1, 2)])
def test_parts_of_equal_kinds_tell_the_light_whatever_they_lie_on(kinds: tuple[int, ...]) -> None:
    """Also where the pasted part's own kind is not in the image."""
    image_HW3, proposals = parts((0, 1, 2), seed=2, ground=60)
    context, ref = context_with((in_light(WARM, image_HW3), proposals), *kinds)
    light = light_for(context, ref)
    assert light is not None
    mask_HW = proposals.masks_NHW[ref.proposal]
    donor_R3 = in_light(WARM, image_HW3)[mask_HW].astype(np.float32)
    truth_3 = image_HW3[mask_HW].mean(0)
    assert np.abs(donor_R3.mean(0) - truth_3).max() > 12
    assert np.abs(light.on(donor_R3).mean(0) - truth_3).max() < 5


def test_equal_light_changes_nothing() -> None:
    light = light_for(*context_with(parts((0, 1, 2), seed=2, ground=60), 0, 1, 2))
    assert light is not None
    levels_3 = np.full((1, 3), 90, np.float32)
    assert light.on(levels_3) == pytest.approx(levels_3, abs=2)


def test_no_light_makes_a_part_another_colour() -> None:
    """What was taken for one kind is red here and yellow there."""
    image_HW3, proposals = parts((1,), seed=2)
    donor = image_HW3, replace(proposals, vectors_NC=np.zeros((1, 1), np.float32))
    light = light_for(*context_with(donor, 0))
    assert light is not None
    at_grey_3 = np.log(light.on(np.full((1, 3), 128, np.float32))[0] / 128)
    assert np.ptp(at_grey_3) <= 2 * CAST + 0.01
    assert abs(at_grey_3.mean()) <= EXPOSURE + BENT


def test_nothing_is_known_of_another_product_nor_without_a_common_kind() -> None:
    donor = parts((0, 1), seed=2)
    assert light_for(*context_with(donor, 2)) is None
    assert light_for(*context_with(donor, 0, 1, category="nuts")) is None


def test_a_part_is_pasted_in_the_light_that_the_plan_recorded() -> None:
    donors = Donors.of({"donor": lambda: parts((0, 1, 2), seed=2)})
    context = ImageContext(*parts((0, 1, 2), seed=1), OpenCvInpainter("telea"), donors=donors)
    edits = (plan(context, np.random.default_rng(seed), kind="wrong_type") for seed in range(20))
    edit = next(edit for edit in edits if edit is not None and "donor" in edit.parameters)
    lit = replace(edit, parameters={**edit.parameters, "light": WARM.to_json()})
    before, after = (apply(one, context).pixels_HW3.astype(np.float32) for one in (edit, lit))
    # The middle of the pasted part, where no background is mixed in.
    x, y = (round(side) for side in context.crops[edit.targets[0]].centre)
    inside = np.s_[y - 3 : y + 4, x - 3 : x + 4]
    assert np.abs(after[inside] - WARM.on(before[inside])).max() <= 1
    assert np.abs(after[inside] - before[inside]).max() > 5

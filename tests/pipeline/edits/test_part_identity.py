"""Plans that would be no anomaly: equal parts, usual places, unknown parts, the product itself."""

from dataclasses import replace

import dim_caps
import numpy as np
import pytest
from small_parts import BLUE, GREEN, RED, disc, draw

from pipeline.edits import part_identity
from pipeline.edits.context import ImageContext
from pipeline.edits.donors import Donors
from pipeline.edits.part_identity import can_be_cut_out, objection, worth_editing
from pipeline.edits.plan import plan
from pipeline.models.part_embedding import FACE, PLAIN
from pipeline.part_kinds import kinds as part_kinds
from pipeline.part_kinds.kinds import Observed
from pipeline.records import WHOLE_PART, WHOLE_PRODUCT, Edit, ObjectProposals

LENGTH = PLAIN + 20
# Kinds by vector: two nuts that differ in light only, a bolt, and something never seen before.
NUT, BOLT, UNKNOWN = np.random.default_rng(5).normal(0, 4, (3, LENGTH))
PLACES = {"nut": (0.2, 0.2), "bolt": (0.8, 0.8)}


def vectors(*kinds: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(len(kinds))
    noise = rng.normal(0, 0.5, (len(kinds), LENGTH))
    return np.hstack([np.stack(kinds) + noise, np.zeros((len(kinds), FACE))]).astype(np.float32)


def studied(places: dict[str, tuple[float, float]] | None) -> part_kinds.PartKinds:
    """A category with one nut and one bolt an image; with `None` they lie anywhere."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(40):
        drawn = rng.uniform(0.1, 0.9, (2, 2))
        fixed = np.array(list((places or PLACES).values())) + rng.normal(0, 0.01, (2, 2))
        noise = rng.normal(0, 0.5, (2, LENGTH))
        both = np.hstack([np.stack([NUT, BOLT]) + noise, np.zeros((2, FACE))])
        images.append(Observed(both.astype(np.float32), drawn if places is None else fixed))
    found = part_kinds.learn(images)
    assert found is not None
    return found


def scene(*kinds: np.ndarray) -> tuple[np.ndarray, ObjectProposals]:
    """Two or three discs on grey; what they are is told by their vectors alone."""
    middles = ((26, 26), (102, 102), (102, 26))[: len(kinds)]
    discs = [disc(128, x, y, 12) for x, y in middles]
    image, proposals = draw(discs, [RED, BLUE, RED][: len(kinds)])
    return image, replace(proposals, vectors_NC=vectors(*kinds))


def context_of(*kinds: np.ndarray, places: dict[str, tuple[float, float]] | None = PLACES):
    image, proposals = scene(*kinds)
    return ImageContext(image, proposals, part_kinds=studied(places))


def planned(context: ImageContext, kind: str) -> list[Edit]:
    found = [plan(context, np.random.default_rng(seed), kind=kind) for seed in range(20)]
    return [edit for edit in found if edit is not None]


def test_different_kinds_at_their_places_are_exchanged() -> None:
    context = context_of(NUT, BOLT)
    edits = planned(context, "swapped")
    assert edits
    assert not any(objection(context, edit) for edit in edits)


@pytest.mark.parametrize("kind", ["swapped", "wrong_type"])
def test_equal_parts_that_look_different_are_not_exchanged(kind: str) -> None:
    """One is red and one is blue, as under other light; by their kind they are equal."""
    without = ImageContext(*scene(NUT, NUT))
    assert planned(without, kind)
    assert not planned(context_of(NUT, NUT), kind)
    edit = planned(without, "swapped")[0]
    assert objection(context_of(NUT, NUT), edit) == part_identity.SAME_KIND


@pytest.mark.parametrize("kind", ["swapped", "misplaced"])
def test_parts_that_lie_anywhere_are_never_in_a_wrong_place(kind: str) -> None:
    assert not planned(context_of(NUT, BOLT, places=None), kind)
    edit = planned(ImageContext(*scene(NUT, BOLT)), kind)[0]
    assert objection(context_of(NUT, BOLT, places=None), edit) == part_identity.USUAL_PLACE


@pytest.mark.parametrize(
    "kind", ["swapped", "wrong_order", "wrong_type", "misplaced", "wrong_orientation"]
)
def test_with_too_few_normals_to_know_kinds_and_places_nothing_is_exchanged(kind: str) -> None:
    """Three screws under different light would be different kinds, and any place a wrong one."""
    context = ImageContext(*scene(NUT, BOLT, NUT), studied=True)
    assert not planned(context, kind)
    assert planned(context, "missing")


def test_a_part_moves_only_to_where_good_images_do_not_show_it() -> None:
    context = context_of(NUT, BOLT)
    for edit in planned(context, "misplaced"):
        target = edit.targets[0]
        x, y = context.crops[target].moved(*edit.parameters["offset"]).centre
        own = np.array(list(PLACES.values())[target])
        assert np.linalg.norm(np.array([x, y]) / 128 - own) > 24 / 128


def test_known_parts_are_preferred_and_unknown_ones_are_refused() -> None:
    context = context_of(NUT, BOLT, UNKNOWN)
    assert {edit.targets[0] for edit in planned(context, "missing")} == {0, 1}
    unknown = Edit("missing", (2,), {}, seed=0)
    assert objection(context, unknown) == part_identity.UNSURE_KIND


def test_the_product_itself_is_edited_but_never_removed() -> None:
    image, proposals = draw([disc(128, 64, 64, 40)], [RED])
    product = replace(proposals, parent_N=np.array([WHOLE_PRODUCT], np.int32))
    context = ImageContext(image, product)
    assert not planned(context, "missing")
    resized = planned(context, "wrong_size")
    assert resized
    assert all(edit.parameters["whole_product"] for edit in resized)


def test_nothing_is_laid_over_a_part_that_nobody_recognised() -> None:
    """A blue disc without a proposal lies in the image."""
    image, proposals = scene(NUT, BOLT)
    hidden, _ = draw([disc(128, 64, 64, 30)], [BLUE])
    image[hidden[..., 2] > 150] = BLUE
    context = ImageContext(image, proposals, part_kinds=studied(PLACES))
    unseen_HW = disc(128, 64, 64, 30)
    for edit in planned(context, "extra"):
        after = context.crops[edit.targets[0]].moved(*edit.parameters["offset"])
        assert after.share_on(unseen_HW) <= 1 - part_identity.BARE


def other_category(vector: np.ndarray, second_at: int = 40, level: int = 0) -> Donors:
    """A green disc on the photograph of another category, and a part of it that is no product."""
    masks = [disc(128, 40, 40, 13), disc(128, second_at, second_at, 4)]
    image, proposals = draw(masks, [GREEN, RED])
    parent_N = np.array([WHOLE_PRODUCT, level], np.int32)
    shown = replace(proposals, vectors_NC=vectors(vector, vector), parent_N=parent_N)
    return Donors.of(
        {"caps/000.png": lambda: (image, shown)},
        {"caps/000.png": "ab" * 32},
        {"caps/000.png": "caps"},
    )


def test_where_a_category_has_one_type_only_another_categorys_product_is_the_wrong_one() -> None:
    context = context_of(NUT, NUT)
    assert not planned(context, "wrong_type")
    context.donors = other_category(UNKNOWN)
    edits = planned(context, "wrong_type")
    assert edits
    assert {edit.parameters["donor"]["category"] for edit in edits} == {"caps"}
    # The product, never a piece of it.
    assert {edit.parameters["donor"]["proposal"] for edit in edits} == {0}
    assert not any(objection(context, edit) for edit in edits)


def test_a_product_amid_holes_of_a_board_is_not_given_to_others() -> None:
    context = context_of(NUT, NUT)
    context.donors = other_category(UNKNOWN, 70, WHOLE_PART)
    assert not planned(context, "wrong_type")


def test_the_same_product_in_another_category_is_no_wrong_type() -> None:
    context = context_of(NUT, NUT)
    context.donors = other_category(NUT)
    assert not planned(context, "wrong_type")


def test_parts_of_the_own_category_come_first() -> None:
    """So plans without such a donor are the same with it."""
    context = context_of(NUT, BOLT)
    before = planned(context, "wrong_type")
    context.donors = other_category(UNKNOWN)
    assert planned(context, "wrong_type") == before


def test_parts_of_the_product_come_before_what_lies_beside_it() -> None:
    """A part mounted on a board: the holes of the board recur, too."""
    masks = [disc(128, 40, 40, 30), disc(128, 40, 40, 9), disc(128, 100, 100, 9)]
    image, proposals = draw(masks, [RED, BLUE, BLUE])
    parent_N = np.array([WHOLE_PRODUCT, WHOLE_PART, WHOLE_PART], np.int32)
    on_board = replace(proposals, vectors_NC=vectors(UNKNOWN, NUT, BOLT), parent_N=parent_N)
    context = ImageContext(image, on_board, part_kinds=studied(PLACES))
    assert {edit.targets[0] for edit in planned(context, "missing")} == {1}
    # With a known product it is edited, too, and the hole only where nothing else is known.
    context = ImageContext(
        image,
        replace(on_board, vectors_NC=vectors(NUT, UNKNOWN, BOLT)),
        part_kinds=studied(PLACES),
    )
    assert {edit.targets[0] for edit in planned(context, "wrong_colour")} == {0}


def test_a_product_amid_holes_of_its_board_is_left_alone() -> None:
    """Some of the holes touch it, and its mask took them along: only its parts are edited.

    They lie anywhere: where they repeat themselves, what the product covers would be known.
    """
    places = ((28, 32), (66, 28), (101, 36), (38, 102), (58, 98), (95, 90))
    holes = [disc(128, y, x, 5) for y, x in places]
    product, label = disc(128, 64, 64, 28), disc(128, 64, 64, 8)
    image, _ = draw([product, *holes, label], [GREEN, *[BLUE] * 6, RED])
    _, proposals = draw([label, *holes, product], [RED, *[BLUE] * 6, GREEN])
    parents = np.full(8, WHOLE_PART, np.int32)
    parents[7] = WHOLE_PRODUCT

    def board(number: int, holes: int) -> Observed:
        rng = np.random.default_rng(number)
        kinds = np.stack([BOLT, *[NUT] * holes, UNKNOWN]) + rng.normal(0, 0.5, (holes + 2, LENGTH))
        found = np.hstack([kinds, np.zeros((holes + 2, FACE))]).astype(np.float32)
        beside = np.array([False, *[True] * holes, False])
        return Observed(found, rng.random((holes + 2, 2)), beside, product=True)

    for count, targets in ((6, {0}), (1, {0, 7})):
        kept = np.r_[0 : count + 1, 7]
        known = ObjectProposals(
            proposals.masks_NHW[kept], proposals.scores_N[kept], product,
            parent_N=parents[kept], vectors_NC=board(99, count).vectors_NC,
        )  # fmt: skip
        kinds = part_kinds.learn([board(number, count) for number in range(20)])
        context = ImageContext(image, known, part_kinds=kinds)
        found = part_identity.worth_editing(context)
        assert {int(kept[index]) for index in found} == targets
        # Nothing tells what lies behind the label either: it is recoloured, but not removed.
        assert bool(planned(context, "missing")) == (count == 1)
        assert planned(context, "wrong_colour")


def test_a_part_that_goes_on_where_its_mask_ends_is_removed_but_never_cut_out() -> None:
    kinds = dim_caps.learned([0.95, 0.8, 0.85])
    image, cut = dim_caps.picture(), dim_caps.found(dim_caps.CUT, dim_caps.BAR)
    whole = dim_caps.found(dim_caps.WHOLE, dim_caps.BAR)
    donors = Donors.of({"cut": lambda: (image, cut), "whole": lambda: (image, whole)})
    context = ImageContext(image, cut, donors=donors, part_kinds=kinds)
    assert worth_editing(context) == [0, 1]
    assert worth_editing(context, movable=True) == [1]
    assert worth_editing(context, outlined=True) == [1]
    answers = {(ref.image, ref.proposal): can_be_cut_out(context, ref) for ref in donors.objects}
    assert answers == {
        ("cut", 0): False, ("cut", 1): True, ("whole", 0): True, ("whole", 1): True
    }  # fmt: skip
    # Without kinds nothing tells that the inner ring is not all.
    assert can_be_cut_out(ImageContext(image, cut), 0)

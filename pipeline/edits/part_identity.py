"""What an edit must respect so that the result is an anomaly: kinds, places, turns and sizes.

An exchange of two equal screws, a nut of the same kind in a nut's place, or a part moved to where
good images show it as well are no anomalies. The part kinds of the category
(`part_kinds.kinds.PartKinds`) decide; without them (a few images, or the preset `paper`) the
comparison of appearances in `context.py` stands alone.

Planners ask `worth_editing`, `differ` and the others while they choose; `objection` judges a plan
before any pixel is made.

Shapes: N objects of an image; H, W image; h, w window; 3 colour (CIELAB).
"""

from functools import partial
from itertools import combinations

import cv2
import numpy as np

from pipeline.edits.background_colour import lab_of
from pipeline.edits.context import ImageContext
from pipeline.edits.donors import DonorRef
from pipeline.imaging.masks import MaskCrop, distance_from, scaling
from pipeline.imaging.surroundings import RING
from pipeline.kinds import kind_of
from pipeline.part_kinds.kinds import UNSURE, PartKinds
from pipeline.part_kinds.whole_outlines import is_cut
from pipeline.records import Edit

# Reasons to reject a plan; part of the dataset format, explained in docs/gate.md.
UNSURE_KIND = "unsure_kind"
SAME_KIND = "same_kind"
USUAL_PLACE = "usual_place"
USUAL_TURN = "usual_turn"
USUAL_SIZE = "usual_size"

# Smallest move of a whole product to another place, as a share of its longest side; for a part it
# is the whole side, because parts of a kind may lie side by side.
PRODUCT_MOVE = 0.1
# A product with fewer parts of known kinds is edited as a whole, too: a bottle's mouth is not all
# that can be wrong with it.
FEW_PARTS = 3
# So many things of the background lie at most that multiple of their own size from a product that
# is mounted on it.
AMID, NEAR = 2, 1.5
# CIELAB distance up to which a pixel looks like the surroundings of the object, and the share of a
# destination that must look so.
ALIKE = 14.0
BARE = 0.75
# Percentiles of the surroundings' colours that count as usual: the ring may touch a neighbour.
USUAL = (10, 90)


def kind_of_object(context: ImageContext, source: int | DonorRef) -> int:
    """The part kind of an object of this image or of a donor; UNSURE without part kinds."""
    if context.part_kinds is None:
        return UNSURE
    if isinstance(source, int):
        return int(kinds_of_objects(context, context.part_kinds)[source])
    return int(kinds_of_objects(context, context.part_kinds, source.image)[source.proposal])


def kinds_of_objects(context: ImageContext, kinds: PartKinds, donor: str = "") -> np.ndarray:
    """Which of the context's part kinds the objects of its image are, (N,), or of a donor's."""

    def recognised() -> np.ndarray:
        proposals = context.donors.proposals_of(donor) if donor else context.proposals
        if proposals.vectors_NC is None:
            return np.full(len(proposals), UNSURE, np.int32)
        return kinds.recognise(proposals.vectors_NC)

    return context.cached(recognised, "part kinds", donor)


def can_be_cut_out(context: ImageContext, source: int | DonorRef) -> bool:
    """True when the outline of an object, of this image or of a donor, is one of the image, and
    that of the whole part as far as its kind tells."""
    if not context.outline_is_seen(source):
        return False
    kinds = context.part_kinds
    if kinds is None or (isinstance(source, DonorRef) and source.category):
        return True
    kind = kind_of_object(context, source)
    known, number = context.known_of(source)
    if number not in known.cut:
        if isinstance(source, int):
            image_HW3, mask_HW = context.image_HW3, context.proposals.masks_NHW[source]
        else:
            image_HW3, mask_HW = context.donors.image_and_mask(source)
        known.cut[number] = is_cut(kinds, kind, image_HW3, mask_HW)
    return not known.cut[number]


def worth_editing(
    context: ImageContext,
    *,
    movable: bool = False,
    outlined: bool = False,
    uncovers: bool = False,
) -> list[int]:
    """Objects worth editing, best level only: whole parts, else the product itself, else what is no
    part of the product (the holes of the board that it is mounted on); first those of a known kind.

    A product with few known parts, or on a background that repeats itself, counts as one of them.
    `outlined` leaves out objects of which the proposal shows a piece only (`can_be_cut_out`), and
    `movable` those as well as objects that the image's edge cuts off. `uncovers` is for edits that
    show what lies behind the object.
    """
    # Every plan asks, and only the image and the part kinds decide.
    return list(
        context.cached(
            partial(_worth_editing, context, movable, outlined, uncovers),
            "worth editing", context.part_kinds, movable, outlined, uncovers,
        )
    )  # fmt: skip


def _worth_editing(
    context: ImageContext, movable: bool, outlined: bool, uncovers: bool
) -> list[int]:
    found = context.movable() if movable else list(range(len(context)))
    if movable or outlined:
        found = [index for index in found if can_be_cut_out(context, index)]
    # Pieces of parts never: without a cap the part is broken, which is no logical anomaly.
    whole = [index for index in found if context.is_whole(index)]
    product = [index for index in found if context.is_product(index)]
    beside = [index for index in whole if _is_incidental(context, index)]
    levels = [[index for index in whole if index not in beside], product, beside]
    if context.cached(lambda: _is_mounted(context), "mounted"):
        levels = [] if uncovers else levels[:1]
    if context.part_kinds is not None:
        known = [
            [index for index in level if kind_of_object(context, index) != UNSURE]
            for level in levels
        ]
        if len(known) > 1 and (len(known[0]) < FEW_PARTS or context.background is not None):
            known[0] += known[1]
        levels = known + levels
    return next(filter(None, levels), [])


def _is_mounted(context: ImageContext) -> bool:
    """True for a product amid things of its background, as a part on a board with holes.

    Where they touch it nobody tells them from it: whoever cuts it out or recolours it takes some
    along, and nothing tells which of them it covers.
    """
    kinds, proposals = context.part_kinds, context.proposals
    # What repeats itself is told from the product, and mostly known where that covers it.
    if context.background is not None:
        return False
    if kinds is None or not proposals.product_N.any():
        return False
    away_HW = distance_from(context.union(proposals.product_N))
    near = [
        index
        for index in np.flatnonzero(proposals.whole_N).tolist()
        if kinds.is_incidental(kind_of_object(context, index))
        and away_HW[proposals.masks_NHW[index]].min() <= NEAR * np.sqrt(context.areas_N[index])
    ]
    return len(near) >= AMID


def _is_incidental(context: ImageContext, index: int) -> bool:
    """True for an object beside the product, or of a kind that is no part of it."""
    beside_N = context.cached(lambda: context.proposals.beside_N, "beside")
    kinds = context.part_kinds
    return bool(beside_N[index]) or (
        kinds is not None and kinds.is_incidental(kind_of_object(context, index))
    )


def _too_few(context: ImageContext) -> bool:
    """True where the category was studied, but too few normals tell which parts recur, and where.

    Then nothing is sure: equal parts under another light differ as much as others do. Where nobody
    studied it, as under the preset `paper`, edits are what their plan says.
    """
    return context.studied and context.part_kinds is None


def differ(context: ImageContext, one: int | DonorRef, other: int | DonorRef) -> bool:
    """True when two objects are surely of different kinds.

    `other` may be of another category, whose kinds nobody knows: it must be far from those of
    `one`, in case both categories show the same product.
    """
    kinds, elsewhere = context.part_kinds, isinstance(other, DonorRef) and bool(other.category)
    if kinds is None:
        return elsewhere or not _too_few(context)
    if isinstance(other, DonorRef) and elsewhere:
        vectors_NC = context.donors.proposals_of(other.image).vectors_NC
        kind = kind_of_object(context, one)
        return vectors_NC is not None and kinds.unlike(vectors_NC[other.proposal], kind)
    return kinds.differ(kind_of_object(context, one), kind_of_object(context, other))


def unusual_place(context: ImageContext, target: int, after: MaskCrop) -> bool:
    """True when no good image shows the target's kind there.

    False for a kind that lies anywhere in good images: no place is wrong for it.
    """
    kinds = context.part_kinds
    if kinds is None:
        return not _too_few(context)
    if not has_own_places(context, target, after):
        return False
    height, width = context.size_HW
    x, y = after.centre
    kind, extent = kind_of_object(context, target), _extent(context, target, after)
    return not kinds.seen_near(kind, (x / width, y / height), extent)


def has_own_places(context: ImageContext, target: int, after: MaskCrop) -> bool:
    """True when good images show the target's kind at certain places only, wherever its outline
    `after` lies."""
    kinds = context.part_kinds
    if kinds is None:
        return not _too_few(context)
    kind, extent = kind_of_object(context, target), _extent(context, target, after)
    # Many destinations are tried, and the places of a kind are the same for all of them.
    return context.cached(lambda: kinds.has_own_places(kind, extent), "own places", kind, extent)


def _extent(context: ImageContext, target: int, after: MaskCrop) -> float:
    """The longest side of an outline as a share of the image's."""
    height, width = context.size_HW
    extent = max(after.mask_hw.shape[0] / height, after.mask_hw.shape[1] / width)
    # A product that is always at one place is visibly off after a smaller move.
    return extent * PRODUCT_MOVE if context.is_product(target) else extent


def turn_means_something(context: ImageContext, target: int) -> bool:
    """True when good images show the target's kind in one rotation only."""
    kinds = context.part_kinds
    if kinds is None:
        return not _too_few(context)
    return kinds.turn_is_fixed(kind_of_object(context, target))


def unusual_size(context: ImageContext, target: int, area: float) -> bool:
    """True when no good image shows the target's kind with that area (pixels)."""
    kinds = context.part_kinds
    if kinds is None:
        return True
    height, width = context.size_HW
    return kinds.unusual_size(
        kind_of_object(context, target), float(np.sqrt(area / (height * width)))
    )


def bare(context: ImageContext, target: int, after: MaskCrop) -> bool:
    """True when a destination looks like what surrounds the target: nothing unknown lies there.

    A part that neither foreground nor proposals found would otherwise be covered. Always True
    without part kinds.
    """
    if context.part_kinds is None:
        return True
    low_3, high_3 = context.cached(
        lambda: _colours_around(context, target), "colours around", target
    )
    x0, y0, x1, y1 = after.box_4
    lab_hw3 = lab_of(context.flat_HW3[y0:y1, x0:x1])
    # The object's own pixels become free when it moves, and an overlap is checked elsewhere.
    outside_hw = after.mask_hw & ~context.proposals.masks_NHW[target, y0:y1, x0:x1]
    if not outside_hw.any():
        return True
    pixels = lab_hw3[outside_hw]
    beyond = np.maximum(low_3 - pixels, pixels - high_3).clip(0)
    return float((np.linalg.norm(beyond, axis=1) <= ALIKE).mean()) >= BARE


def objection(context: ImageContext, edit: Edit) -> str:
    """Why a planned edit would be no anomaly, as a rejection reason; empty when it is one."""
    if context.part_kinds is None or edit.is_control:
        return ""
    return next(filter(None, (_objection(context, part) for part in edit.parts)), "")


def _objection(context: ImageContext, edit: Edit) -> str:
    row, parameters = kind_of(edit.kind), edit.parameters
    if any(kind_of_object(context, target) == UNSURE for target in edit.targets):
        return UNSURE_KIND
    if row.exchanges and not all(differ(context, *pair) for pair in combinations(edit.targets, 2)):
        return SAME_KIND
    if row.exchanges and not any(
        unusual_place(context, target, context.crops[target].moved(*map(int, offset)))
        for target, offset in zip(edit.targets, exchange_offsets(edit), strict=True)
    ):
        return USUAL_PLACE
    source = _source(edit)
    if source is not None:
        other_category = isinstance(source, DonorRef) and source.category
        if not other_category and kind_of_object(context, source) == UNSURE:
            return UNSURE_KIND
        if not differ(context, edit.targets[0], source):
            return SAME_KIND
    target, crop = edit.targets[0], context.crops[edit.targets[0]]
    if row.relocates:
        dx, dy = map(int, parameters["offset"])
        if not unusual_place(context, target, crop.moved(dx, dy)):
            return USUAL_PLACE
    if "turn" in parameters and not turn_means_something(context, target):
        return USUAL_TURN
    if "scale" in parameters:
        after = crop.warped(scaling(parameters["scale"], parameters["along"]))
        if not unusual_size(context, target, after.area):
            return USUAL_SIZE
    return ""


def exchange_offsets(edit: Edit) -> list[tuple[int, int]]:
    """The offset (x, y) of each target: `offsets`, or for a pair one `offset`, there and back."""
    dx, dy = edit.parameters.get("offset", (0, 0))
    return edit.parameters.get("offsets") or [(dx, dy), (-dx, -dy)]


def _source(edit: Edit) -> int | DonorRef | None:
    """The object that the edit puts into its target's place, if it is one."""
    if "donor" in edit.parameters:
        return DonorRef.from_json(edit.parameters["donor"])
    part = edit.parameters.get("part")
    return None if part is None else int(part)


def _colours_around(context: ImageContext, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The usual CIELAB colours in a ring around the target, lowest and highest, two of (3,)."""
    crop = context.crops[target]
    x0, y0, x1, y1 = crop.box_4
    near = np.s_[max(0, y0 - 2 * RING) : y1 + 2 * RING, max(0, x0 - 2 * RING) : x1 + 2 * RING]
    mask_hw = context.proposals.masks_NHW[target][near].astype(np.uint8)
    # Not the pixels next to the object: its soft edge and contact shadow lie there.
    inner_hw, outer_hw = (
        cv2.dilate(mask_hw, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
        for reach in (3, 2 * RING)
    )
    ring_hw = outer_hw & ~inner_hw & ~context.objects_HW()[near]
    if not ring_hw.any():
        ring_hw = outer_hw & ~inner_hw
    if not ring_hw.any():
        return np.full(3, -np.inf), np.full(3, np.inf)
    low_3, high_3 = np.percentile(lab_of(context.flat_HW3[near])[ring_hw], USUAL, axis=0)
    return low_3, high_3

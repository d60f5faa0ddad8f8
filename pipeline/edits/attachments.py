"""What belongs to a part beside its mask: attached pieces, and the light that it changes around it.

A proposal may end where the part does not: the body of a transistor without its legs. And a part
darkens what it lies on. Whoever removes or moves a part must take both along. The surroundings,
farther out than that, tell what is background: a smooth colour (a plane and slow deviations from
it) and its spread. What differs from it and is connected to the mask is attached. Pieces end nearby
and stick out; a stripe of the background runs on.

Shapes: H, W image; h, w window around the part; 3 colour (CIELAB, float32); R pixels of a region.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from pipeline.edits.background_colour import deviation, gradient, lab_of
from pipeline.edits.contested import Claim, claim_of, share_of, union_of
from pipeline.edits.fill_sources import lies_on_product, not_background
from pipeline.edits.staying import broad_things, on_lines
from pipeline.edits.things import (
    ENOUGH,
    FINE,
    FINE_SPREAD,
    NEXT,
    OFF,
    UNLIKE,
    around,
    is_thing,
    reached_from,
    things,
    touching,
)
from pipeline.imaging.masks import MaskCrop, dilated, disjoint, opened
from pipeline.imaging.near_region import mean_near
from pipeline.imaging.region_values import labels_in, percentile, with_labels
from pipeline.imaging.surroundings import ring_around, surrounds
from pipeline.records import ObjectProposals, bounding_box
from pipeline.settings import pixels_at

# How far changed light is followed, in pixels at 256: shadows, and the bright rim of a soft edge.
SHADOW_REACH, RIM_REACH = 24, 6
# Largest area of a piece, of a remnant, and of all changed light, as shares of the part's own.
MOST_PIECE, MOST_REMNANT, MOST_LIGHT = 0.3, 0.1, 1.5
# Pixels at 256 by which a removal dilates, as `edits.dilation` does by default, and how often what
# would still touch the hole then is added to it.
HOLE, ROUNDS = 4, 2
# A piece sticks out at least that far, in pixels at 256 and as a share of where it is attached.
STICKS_OUT, SLENDER = 3.0, 0.6
# Distance from the background, in spreads, beyond which light is changed.
LIT = 3.5
# Smoothing in pixels at 256 before changes of light are looked for.
COARSE = 2.0
# CIELAB spread (L, a, b) below which the light of a background counts as even.
COARSE_SPREAD = np.array([1.5, 1.0, 1.0], np.float32)
# A shadow fades as long as lightness rises away from the part: per pixel at 256, at least that
# much and that multiple of what is usual (percentile) in the surroundings; and so far at most, and
# where it is no brighter than the background and so much (CIELAB).
RISES, RISES_MORE, USUAL_RISE, FADES, BRIGHTER = 0.35, 2.0, 40, 10, 3.0
# Pixels at 256 beside something brighter that blurs with it.
FOOT = 3.0
# Arms of changed light are lines of the background, such as the edge of a tray, up to twice that
# broad: a share of the root of the part's area, and at least so many pixels at 256. Shadows are
# about as broad as what casts them.
ARM, LEAST_ARM = 0.08, 2
# Edges that are no shadow's: at least that steep (CIELAB per pixel at 256), that much steeper than
# the percentile of the background's own, and that long (pixels at 256).
EDGE, SHARPER, USUAL, LONG = 3.0, 2.5, 75, 8
# Share of a region's rim with such edges below which it ends softly.
SOFTLY = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Attached:
    """Pieces that belong to the part, the light that it changes, and things beside it that no
    proposal shows and that stay: what a leg is mounted on. (h, w) bool in the window `near` (rows,
    columns); none covers the part's mask. `remnants_hw` are small things that the light contains,
    stubs of the part. `undecided` where a piece may be another part's."""

    near: tuple[slice, slice]
    pieces_hw: np.ndarray
    light_hw: np.ndarray
    stays_hw: np.ndarray
    remnants_hw: np.ndarray
    undecided: bool

    def all_light(self) -> "Attached":
        """The same with the pieces among the light: removed with the part, and moved as its shadow
        at most. There is no doubt about them where outlines are exact."""
        light_hw, none_hw = self.light_hw | self.pieces_hw, np.zeros_like(self.pieces_hw)
        return replace(self, pieces_hw=none_hw, light_hw=light_hw, undecided=False)

    def pieces(self) -> MaskCrop | None:
        """The pieces in the image; None where there are none."""
        return _in_image(self.near, self.pieces_hw)


def with_attachments(
    image_HW3: np.ndarray, proposals: ObjectProposals
) -> tuple[ObjectProposals, dict[int, Attached]]:
    """The proposals with the pieces that belong to them, and what is attached to each, by index.

    Only whole parts and the product itself grow; pieces of them are never edited.
    """
    surroundings = Surroundings(image_HW3, proposals)
    answers = {index: surroundings.attached(index) for index in surroundings.parts}
    found = {index: attached for index, attached in answers.items() if attached is not None}
    grown = {index: attached for index, attached in found.items() if attached.pieces_hw.any()}
    if grown:
        masks_NHW = proposals.masks_NHW.copy()
        for index, attached in grown.items():
            masks_NHW[(index, *attached.near)] |= attached.pieces_hw
        proposals = replace(proposals, masks_NHW=masks_NHW)
    return proposals, found


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What is seen around one part in the window `near`; arrays are (h, w) bool.

    `distance_hw` is float32 pixels from the part, `reach` how far pieces may reach. `free_hw` is
    where they may lie, `far_hw` what tells the background, and `fine` the `deviation` from it.
    `claims` are pieces that other parts may claim as well, `pieces_hw` those that are its own.
    """

    near: tuple[slice, slice]
    reach: float
    mask_hw: np.ndarray
    distance_hw: np.ndarray
    free_hw: np.ndarray
    far_hw: np.ndarray
    fine: tuple[np.ndarray, np.ndarray]
    stays_hw: np.ndarray
    claims: tuple[Claim, ...]
    # Known when the claims of all parts around were compared.
    pieces_hw: np.ndarray
    undecided: bool = False


class Surroundings:
    """One image (H, W, 3) uint8 with its proposals, prepared to ask for each of its `parts` (also
    the product); without `light`, which takes less memory, for their `pieces` alone."""

    def __init__(self, image_HW3: np.ndarray, proposals: ObjectProposals, light: bool = True):
        self._proposals, self._size_HW = proposals, image_HW3.shape[:2]
        self.parts = np.flatnonzero(proposals.whole_N | proposals.product_N).tolist()
        # Of the image in CIELAB only blurs are kept: each takes 12 bytes per pixel.
        lab_HW3 = lab_of(image_HW3)
        self._fine_HW3 = cv2.GaussianBlur(lab_HW3, (0, 0), self._px(FINE))
        self._coarse_HW3 = cv2.GaussianBlur(lab_HW3, (0, 0), self._px(COARSE)) if light else None
        self._boxes_N4 = proposals.boxes_N4
        self._looks: dict[int, _Look | None] = {}

    def _px(self, length_256: float) -> float:
        return pixels_at(length_256, (self._size_HW[0], self._size_HW[1]))

    def attached(self, index: int) -> Attached | None:
        """What is attached to a whole part; None where its surroundings do not tell."""
        look = self._settled(index)
        if look is None:
            return None
        light_hw = self._light(look)
        remnants_hw = self._remnants(look, light_hw)
        light_hw |= remnants_hw
        pieces_hw = look.pieces_hw
        light_hw, stays_hw = light_hw & ~pieces_hw, look.stays_hw & ~pieces_hw
        return Attached(look.near, pieces_hw, light_hw, stays_hw, remnants_hw, look.undecided)

    def pieces(self, index: int) -> MaskCrop | None:
        """Only the pieces that belong to a whole part; None where there are none."""
        look = self._settled(index)
        return None if look is None else _in_image(look.near, look.pieces_hw)

    def _settled(self, index: int) -> "_Look | None":
        """What is seen around a part, with its own pieces; those of others stay."""
        look = self._look(index)
        if look is None:
            return None
        share = share_of(index, self._near, self._claims)
        pieces_hw = union_of(share.own, self._size_HW)[look.near] & ~look.mask_hw
        if pieces_hw.any():
            # The strip between mask and piece, where the outline may be off.
            off = self._px(OFF)
            bridge_hw = dilated(pieces_hw, round(off) + 1) & (look.distance_hw <= off + 1)
            pieces_hw |= bridge_hw & ~look.mask_hw & (look.fine[1] > UNLIKE)
        stays_hw = union_of(share.others, self._size_HW)[look.near] & ~pieces_hw
        free_hw, stays_hw = look.free_hw & ~dilated(stays_hw, 1), look.stays_hw | stays_hw
        return replace(
            look, free_hw=free_hw, stays_hw=stays_hw, pieces_hw=pieces_hw, undecided=share.undecided
        )

    def _claims(self, index: int) -> tuple[Claim, ...]:
        look = self._look(index)
        return () if look is None else look.claims

    def _near(self, index: int) -> list[int]:
        """Other parts whose pieces may reach a part."""
        box_4, reached = self._boxes_N4[index].tolist(), self._reached.items()
        return [part for part, its in reached if part != index and not disjoint(its, box_4)]

    @cached_property
    def _reached(self) -> dict[int, list[float]]:
        """The box in which the pieces of each part may lie."""
        masks_NHW, more = self._proposals.masks_NHW, 2 * self._px(OFF) + NEXT
        return {i: reached_from(masks_NHW[i], self._boxes_N4[i], more) for i in self.parts}

    def _look(self, index: int) -> "_Look | None":
        """What is seen around a part; None where that does not tell what the background is."""
        if index not in self._looks:
            self._looks[index] = self._looked(index)
        return self._looks[index]

    def _looked(self, index: int) -> "_Look | None":
        masks_NHW = self._proposals.masks_NHW
        mask_HW, box_4 = masks_NHW[index], bounding_box(masks_NHW[index])
        near, reach, distance_hw = around(mask_HW, box_4)
        off = self._px(OFF)
        beside = self._beside(index, box_4)
        others_hw = np.zeros(distance_hw.shape, np.bool_)
        for other in beside:
            others_hw |= masks_NHW[other][near]
        others_hw = dilated(others_hw & ~mask_HW[near], round(off)) & (distance_hw > off)
        unlike_hw = not_background(
            mask_HW, box_4, self._proposals.foreground_HW, list(masks_NHW), near
        )
        far_hw = (distance_hw > reach) & (distance_hw <= 2 * reach) & ~others_hw & ~unlike_hw
        if np.count_nonzero(far_hw) < ENOUGH:
            return None
        # Only on its own kind of background: what is beside the product belongs to no label on it.
        free_hw = (distance_hw > 0) & ~others_hw
        if lies_on_product(mask_HW, box_4, self._proposals.foreground_HW):
            free_hw &= self._proposals.foreground_HW[near]
        fine = deviation(self._fine_HW3[near], far_hw, FINE_SPREAD)
        mask_hw = mask_HW[near]
        stays_hw = broad_things(fine, distance_hw, free_hw, reach, self._px(1))
        shown_hw, past_hw = on_lines(self._fine_HW3[near], mask_hw, ~others_hw, self._px(1))
        stays_hw |= shown_hw
        free_hw &= ~stays_hw
        # Walls would hide how even the light is between them.
        inside_hw = far_hw & ~past_hw
        if np.count_nonzero(inside_hw) >= ENOUGH:
            far_hw = inside_hw
        claims = tuple(
            claim_of(piece_hw, near, self._fine_HW3, distance_hw, masks_NHW, beside, off)
            for piece_hw in self._pieces(near, fine, mask_hw, distance_hw, free_hw, reach)
        )
        none_hw = np.zeros_like(mask_hw)
        if self._coarse_HW3 is None:
            # Only light asks for the differences themselves.
            fine = none_hw[:0], fine[1]
        return _Look(
            near, reach, mask_hw, distance_hw, free_hw, far_hw, fine, stays_hw, claims, none_hw
        )

    def _beside(self, index: int, box_4: tuple[int, int, int, int]) -> list[int]:
        """Other whole parts, without those that the part lies on."""
        masks_NHW = self._proposals.masks_NHW
        ring = ring_around(masks_NHW[index], box_4)
        return [
            other
            for other in np.flatnonzero(self._proposals.whole_N).tolist()
            if other != index and not surrounds(masks_NHW[other], ring)
        ]

    def _pieces(
        self,
        near: tuple[slice, slice],
        fine: tuple[np.ndarray, np.ndarray],
        mask_hw: np.ndarray,
        distance_hw: np.ndarray,
        free_hw: np.ndarray,
        reach: float,
    ) -> Iterator[np.ndarray]:
        """Pieces that touch the mask, end within `reach` pixels and stick out, (h, w) bool."""
        lab_hw3 = self._fine_HW3[near]
        residual_hw3, spreads_hw = fine
        off = self._px(OFF)
        unlike_hw = (spreads_hw > UNLIKE) & free_hw
        for piece_hw in touching(unlike_hw, distance_hw, off, reach):
            attached = np.count_nonzero(piece_hw & (distance_hw <= off + NEXT))
            sticks_out = float(distance_hw[piece_hw].max()) - off
            if sticks_out < max(self._px(STICKS_OUT), SLENDER * attached):
                continue
            if np.count_nonzero(piece_hw) > MOST_PIECE * np.count_nonzero(mask_hw):
                continue
            if is_thing(piece_hw, residual_hw3, spreads_hw, lab_hw3, distance_hw > off):
                yield piece_hw

    def _remnants(self, look: "_Look", light_hw: np.ndarray) -> np.ndarray:
        """Small things that the hole of a removal would cut or touch, (h, w) bool."""
        lab_hw3 = self._fine_HW3[look.near]
        remnants_hw = np.zeros_like(look.mask_hw)
        most = MOST_REMNANT * np.count_nonzero(look.mask_hw)
        own_hw = dilated(look.mask_hw | look.pieces_hw, round(self._px(HOLE)))
        for _ in range(ROUNDS):
            before = np.count_nonzero(remnants_hw)
            hole_hw = own_hw | dilated(light_hw | remnants_hw, 1)
            for thing_hw in things(lab_hw3, look.fine, hole_hw, look.free_hw, look.reach):
                # What is longer is no stub of the part, but the wall of its compartment.
                longest = max(np.ptp(places) for places in np.nonzero(thing_hw))
                if np.count_nonzero(thing_hw) <= most and longest <= look.reach:
                    remnants_hw |= thing_hw
            # With the same hole the next round finds the same.
            if np.count_nonzero(remnants_hw) == before:
                break
        return remnants_hw

    def _light(self, look: "_Look") -> np.ndarray:
        """Where the part changes the light, connected to its mask; (h, w) bool."""
        mask_hw, distance_hw, free_hw = look.mask_hw, look.distance_hw, look.free_hw
        assert self._coarse_HW3 is not None
        coarse_hw3 = self._coarse_HW3[look.near]
        residual_hw3, spreads_hw = deviation(coarse_hw3, look.far_hw, COARSE_SPREAD)
        lighter_hw = np.ascontiguousarray(residual_hw3[..., 0])
        # Shadows are darker and may be long. What is brighter is the blurred rim of the part, or a
        # bright patch of the background, which is nobody's.
        shadow_hw = (lighter_hw < 0) & (distance_hw <= self._px(SHADOW_REACH))
        rim_hw = distance_hw <= self._px(RIM_REACH)
        lit_hw = (spreads_hw > LIT) & free_hw & (distance_hw <= look.reach) & (shadow_hw | rim_hw)
        lit_hw = connected(lit_hw, mask_hw)
        # Shadows are soft. An edge farther out is that of a neighbour which nobody proposed.
        edges_hw = self._edges(look.near, mask_hw | look.pieces_hw, look.far_hw)
        without_hw = connected(lit_hw & ~edges_hw, mask_hw)
        count, labels_hw = cv2.connectedComponents((lit_hw & ~without_hw).astype(np.uint8))
        for number in range(1, count):
            # Unless what lies behind it ends softly, as a shadow does.
            behind_hw = labels_hw == number
            ends_hw = dilated(behind_hw, 1) & ~lit_hw & ~mask_hw
            if not ends_hw.any() or edges_hw[ends_hw].mean() < SOFTLY:
                without_hw |= behind_hw
        # No shadow is brighter than the background, which is not known exactly; nor does one end
        # beside something bright: that is the foot of a wall.
        bright_hw = dilated(lighter_hw >= BRIGHTER, round(self._px(FOOT)))
        dark_hw = free_hw & ~edges_hw & ~bright_hw
        faded_hw = self._faded(look, without_hw, dark_hw)
        most = MOST_LIGHT * np.count_nonzero(mask_hw)
        # Of slender parts the shadow is larger than they are.
        around = np.count_nonzero((distance_hw > 0) & (distance_hw <= self._px(FADES)))
        if np.count_nonzero(faded_hw) <= max(most, around):
            return faded_hw
        return without_hw if np.count_nonzero(without_hw) <= most else without_hw & rim_hw

    def _faded(self, look: "_Look", lit_hw: np.ndarray, dark_hw: np.ndarray) -> np.ndarray:
        """Changed light with the last of its shadow, which a hole would cut through, (h, w) bool.

        Where a shadow ends abruptly an edge of a few grey levels is seen.
        """
        mask_hw, distance_hw = look.mask_hw, look.distance_hw
        # Without the part, whose own outline is blurred as well.
        outside_hw = distance_hw > self._px(OFF)
        lightness_hw1 = np.ascontiguousarray(self._fine_HW3[look.near][..., :1])
        lightness_hw = mean_near(lightness_hw1, outside_hw, self._px(COARSE))[0][..., 0]
        steps = [
            cv2.Sobel(one_hw, cv2.CV_32F, *axis, scale=1 / 8)
            for one_hw in (lightness_hw, distance_hw)
            for axis in ((1, 0), (0, 1))
        ]
        rises_hw = (steps[0] * steps[2] + steps[1] * steps[3]) * self._px(1)
        usual = percentile(np.abs(rises_hw[look.far_hw]), USUAL_RISE)
        fading_hw = (rises_hw > max(RISES, RISES_MORE * usual)) & dark_hw
        # Next to the outline nothing is told, and all of it goes in any case.
        seed_hw = (distance_hw <= self._px(HOLE)) | lit_hw
        fading_hw &= dilated(seed_hw, round(self._px(FADES)))
        fading_hw &= distance_hw <= self._px(SHADOW_REACH)
        arm = max(self._px(LEAST_ARM), ARM * float(np.sqrt(np.count_nonzero(mask_hw))))
        shaded_hw = seed_hw | fading_hw
        broad_hw = opened(shaded_hw, round(arm))
        # Legs are slender, and so are their shadows.
        broad_hw |= shaded_hw & dilated(mask_hw | look.pieces_hw, round(self._px(RIM_REACH)))
        return connected(broad_hw & ~mask_hw, mask_hw)

    def _edges(
        self, near: tuple[slice, slice], part_hw: np.ndarray, far_hw: np.ndarray
    ) -> np.ndarray:
        """Long edges away from the part, sharper than those of the background, (h, w) bool."""
        step_hw = gradient(self._fine_HW3[near]) * self._px(1)
        least = max(EDGE, SHARPER * percentile(step_hw[far_hw], USUAL))
        # Next to the part it may be that of its own side.
        edges_hw = (step_hw >= least) & ~dilated(part_hw, round(self._px(RIM_REACH)))
        _, labels_hw, stats, _ = cv2.connectedComponentsWithStats(edges_hw.astype(np.uint8))
        extents = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(1)
        long = np.flatnonzero(extents >= self._px(LONG))
        return dilated(with_labels(labels_hw, long[long > 0]), 1)


def connected(region_hw: np.ndarray, mask_hw: np.ndarray) -> np.ndarray:
    """The pixels of a region that are connected to a mask, (h, w) bool."""
    _, labels_hw = cv2.connectedComponents((region_hw | mask_hw).astype(np.uint8))
    found_hw: np.ndarray = region_hw & with_labels(labels_hw, labels_in(labels_hw, mask_hw))
    return found_hw


def _in_image(near: tuple[slice, slice], pieces_hw: np.ndarray) -> MaskCrop | None:
    """A mask of a window in the image's coordinates; None where it is empty."""
    if not pieces_hw.any():
        return None
    rows, columns = near
    return MaskCrop.of(pieces_hw).moved(columns.start, rows.start)

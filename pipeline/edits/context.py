"""One image and everything that edits of it need: objects, background, donors, inpainter, memo.

    context = ImageContext(image, proposals, models.inpaint)

It is built once per image and passed on explicitly. An image is edited many times, so everything
that is computed about it is kept: outlines, neighbours, appearance, cutouts, inpainted holes.

Shapes: H, W image; h, w crop; 3 colour (RGB, uint8); N objects (proposals).
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from pipeline.edits.appearance import (
    OTHER_COLOUR,
    SIMILAR_AREA,
    Thumbnail,
    cell_size,
    same_but_turned,
    same_kind,
    thumbnail_of,
)
from pipeline.edits.attachments import Attached, Surroundings, with_attachments
from pipeline.edits.compositing.cutout import Cutout, cut_out
from pipeline.edits.donors import NO_DONORS, DonorRef, Donors, KnownPieces
from pipeline.edits.fill_sources import EVERYWHERE, lies_on_product, not_background
from pipeline.edits.outlines import outline_is_seen
from pipeline.edits.parts_beside import OUTLINE, parts_beside, spared
from pipeline.errors import RecordError
from pipeline.imaging.masks import MaskCrop, dilated
from pipeline.imaging.repetition import RepeatedBackground, repeated_background
from pipeline.models.inpaint.base import Filler, FillMode, Inpainter
from pipeline.models.inpaint.candidates import CandidateInpainter
from pipeline.models.inpaint.memo import MemoInpainter
from pipeline.models.inpaint.repeated import KNOWN, REPEATED, RepeatedInpainter
from pipeline.part_kinds.kinds import PartKinds
from pipeline.records import Edit, ObjectProposals, bounding_box, expect_image
from pipeline.settings import pixels_at

Answer = TypeVar("Answer")
# Donors whose surroundings are kept: as many as an image has of its own category.
ASKED_AT_ONCE = 2


def _no_inpainter(
    image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
) -> np.ndarray:
    raise RecordError("this edit needs an inpainter, and the context has none; pass one to it")


@dataclass(slots=True, eq=False, weakref_slot=True)
class ImageContext:
    """One image (H, W, 3) uint8 RGB with its proposals; not to be shared between threads.

    `proposals` grow by what is attached to whole parts and was left out, see `attachments`; not
    on a background that repeats itself.
    `inpainter` fills holes, `fill` generates from a prompt (None without a diffusion model), and
    `donors` hold objects of other images, and `part_kinds` tell equal parts from different ones.
    Planning alone needs none of them. `inpaint` works as long as the context exists.

    RecordError when image and foreground differ in size.
    """

    image_HW3: np.ndarray
    proposals: ObjectProposals
    inpainter: Inpainter = _no_inpainter
    fill: Filler | None = None
    donors: Donors = NO_DONORS
    # None where nothing is known to recur, or where nobody `studied` the category.
    part_kinds: PartKinds | None = None
    studied: bool = False
    # What was found of this image before, as a donor; what is found now is added.
    known: KnownPieces = field(default_factory=KnownPieces)
    # What the background repeats, or None.
    background: RepeatedBackground | None = field(init=False)
    # What is attached to whole parts, by index.
    attached: dict[int, Attached] = field(init=False)
    # Mask crops and areas (pixels) of the objects, in the order of the proposals.
    crops: list[MaskCrop] = field(init=False)
    areas_N: np.ndarray = field(init=False)
    # (hole_HW bool) -> image_HW3, and which candidate filled it: each hole is filled only once.
    inpaint: MemoInpainter = field(init=False)
    _cache: dict[tuple[Any, ...], Any] = field(init=False, default_factory=dict)
    _asked: dict[str, Surroundings] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        expect_image("image_HW3", self.image_HW3)
        if self.image_HW3.shape[:2] != self.proposals.foreground_HW.shape:
            raise RecordError(
                f"the image is {self.image_HW3.shape[:2]}, its foreground is "
                f"{self.proposals.foreground_HW.shape}"
            )
        self.background = None
        if self.known.repeats is not False:
            self.background = repeated_background(self.image_HW3, self.proposals.foreground_HW)
            self.known.repeats = self.background is not None
        grown, self.attached = with_attachments(self.flat_HW3, self.proposals)
        if self.background is None:
            self.proposals = grown
            pieces = {index: one.pieces() for index, one in self.attached.items()}
            asked = np.flatnonzero(grown.whole_N | grown.product_N).tolist()
            self.known.by_proposal |= {index: pieces.get(index) for index in asked}
        else:
            # Outlines are exact there. What else is unlike the pattern goes, and is not pasted.
            self.attached = {index: one.all_light() for index, one in self.attached.items()}
            if isinstance(self.inpainter, CandidateInpainter):
                # First: where the pattern is known nothing needs to be invented.
                repeated = RepeatedInpainter(self.background, self.proposals.foreground_HW)
                known = {REPEATED: repeated, **self.inpainter.inpainters}
                self.inpainter = CandidateInpainter(known)
        self.crops = [MaskCrop.of(mask_HW) for mask_HW in self.proposals.masks_NHW]
        self.areas_N = np.array([crop.area for crop in self.crops], np.int64)
        # Weakly: holding each other, both would keep their images until the garbage collector runs.
        context = weakref.proxy(self)
        self.inpaint = MemoInpainter(
            self.inpainter, self.image_HW3, lambda hole_HW: context.not_background(hole_HW)
        )

    @property
    def size_HW(self) -> tuple[int, int]:
        height, width = self.proposals.foreground_HW.shape
        return height, width

    def flattened(self, image_HW3: np.ndarray, near: tuple[slice, slice]) -> np.ndarray:
        """The image, or an edited one, without its background's pattern in the window `near`."""
        return image_HW3 if self.background is None else self.background.flattened(image_HW3, near)

    @property
    def flat_HW3(self) -> np.ndarray:
        """The image itself without that pattern, uint8; do not modify it."""
        return self.cached(lambda: self.flattened(self.image_HW3, EVERYWHERE), "flat")

    def __len__(self) -> int:
        """The number of objects."""
        return len(self.crops)

    def cached(self, make: Callable[[], Answer], *key: Any) -> Answer:
        """The result of `make()`, computed once per `key` and kept."""
        if key not in self._cache:
            self._cache[key] = make()
        answer: Answer = self._cache[key]
        return answer

    def is_whole(self, index: int) -> bool:
        """True for a whole part: neither a piece of another object nor the product itself."""
        return bool(self.proposals.whole_N[index])

    def is_product(self, index: int) -> bool:
        """True for the object that is the product itself."""
        return bool(self.proposals.product_N[index])

    def is_known_behind(self, index: int) -> bool:
        """True where the background repeats itself, and copies show what an object covers."""
        if self.background is None:
            return False
        # In the middle of a large object before a fine mesh, no copy is near enough.
        known_HW, mask_HW = self.background.known_HW, self.proposals.masks_NHW[index]
        return bool(known_HW[mask_HW].mean() >= KNOWN)

    def movable(self) -> list[int]:
        """Objects inside the image's edges; moving a truncated one would show its cut edge."""
        return [i for i, crop in enumerate(self.crops) if crop.inside_frame(self.size_HW)]

    def known_of(self, source: int | DonorRef) -> tuple[KnownPieces, int]:
        """What was found of an object's image, by whoever asked first, and its number there."""
        if isinstance(source, int):
            return self.known, source
        return self.donors.pieces_of(source.image), source.proposal

    def outline_is_seen(self, source: int | DonorRef) -> bool:
        """True when the outline of an object, of this image or of a donor, is one of the image."""
        known, number = self.known_of(source)
        if number not in known.outlines:
            if isinstance(source, int):
                image_HW3, mask_HW = self.image_HW3, self.proposals.masks_NHW[source]
            else:
                image_HW3 = self.donors.image_and_mask(source)[0]
                mask_HW = self.donor_crop(source).full(self.donors.size_HW(source))
            known.outlines[number] = outline_is_seen(image_HW3, mask_HW)
        return known.outlines[number]

    def objects_HW(self) -> np.ndarray:
        """The union of all objects on the product, (H, W) bool; do not modify it."""
        return self.cached(lambda: self.union(~self.proposals.product_N), "objects")

    def union(self, objects: Sequence[int] | np.ndarray) -> np.ndarray:
        """The union of some objects, (H, W) bool; `objects` are indices, or a bool array (N,)."""
        chosen = np.flatnonzero(objects) if isinstance(objects, np.ndarray) else objects
        union_HW = np.zeros(self.size_HW, np.bool_)
        # One by one: selecting several would copy them.
        for index in chosen:
            union_HW |= self.proposals.masks_NHW[index]
        return union_HW

    def light_of(self, targets: Sequence[int], *, remnants: bool = True) -> np.ndarray:
        """Where some objects change the light around them, (H, W) bool; with `remnants` also small
        things in it, which go with an object that is removed and appear nowhere else."""
        light_HW = np.zeros(self.size_HW, np.bool_)
        for one in (self.attached[target] for target in targets if target in self.attached):
            light_HW[one.near] |= one.light_hw if remnants else one.light_hw & ~one.remnants_hw
        return light_HW

    def stays_beside(self, targets: Sequence[int]) -> np.ndarray:
        """What no hole of some objects may cut into, (H, W) bool: the parts beside them, and things
        that no proposal shows and no edit of them removes; do not modify it."""
        return self.inpaint.recent(lambda: (self._stays_beside(targets),), "stays", *targets)[0]

    def _stays_beside(self, targets: Sequence[int]) -> np.ndarray:
        mine_HW, beside = self.union(targets), parts_beside(self.proposals, targets)
        remnants_HW, stays_HW = np.zeros((2, *self.size_HW), np.bool_)
        for attached in (self.attached[target] for target in targets if target in self.attached):
            remnants_HW[attached.near] |= attached.remnants_hw
            stays_HW[attached.near] |= attached.stays_hw
        # The outline itself may be off, and what it misses of the object must go.
        stays_HW &= ~dilated(mine_HW, round(pixels_at(OUTLINE, self.size_HW)))
        return (stays_HW | spared(mine_HW, remnants_HW, self.union(beside))) & ~mine_HW

    def light_margin(self, targets: Sequence[int]) -> int:
        """How many pixels the light around some objects reaches beyond their boxes."""
        return max(
            (self.cached(partial(self._light_margin, one), "light margin", one) for one in targets),
            default=0,
        )

    def _light_margin(self, target: int) -> int:
        light_HW = self.light_of([target])
        if not light_HW.any():
            return 0
        box, inner = bounding_box(light_HW), self.crops[target].box_4
        before = max(inner[0] - box[0], inner[1] - box[1])
        return max(0, before, box[2] - inner[2], box[3] - inner[3])

    def background_of(self, target: int) -> np.ndarray:
        """Where the target may be placed: on the foreground if the foreground surrounds it, else
        beside it; its own pixels always count. (H, W) bool; do not modify it."""
        return self.cached(lambda: self._background_of(target), "background", target)

    def _background_of(self, target: int) -> np.ndarray:
        mask_HW, foreground_HW = self.proposals.masks_NHW[target], self.proposals.foreground_HW
        on_product = lies_on_product(mask_HW, self.crops[target].box_4, foreground_HW)
        return (foreground_HW if on_product else ~foreground_HW) | mask_HW

    def not_background(self, hole_HW: np.ndarray) -> np.ndarray:
        """What an inpainter must not copy into a hole, (H, W) bool; see `fill_sources`.

        It depends on the hole alone and not on the edit: a hole is filled once for all edits.
        """
        return not_background(
            hole_HW,
            bounding_box(hole_HW),
            self.proposals.foreground_HW,
            list(self.proposals.masks_NHW),
        )

    def thumbnail(self, index: int, cell: int) -> Thumbnail:
        """An object's thumbnail with cells of `cell` pixels."""
        return self.cached(
            lambda: thumbnail_of(self.crops[index], self.image_HW3, cell), "thumbnail", index, cell
        )

    def own_thumbnail(self, index: int) -> Thumbnail:
        """An object's thumbnail with the cell size that suits its own size."""
        return self.thumbnail(index, cell_size(self.crops[index]))

    def colour(self, index: int) -> np.ndarray:
        """The mean CIELAB colour of an object, (3,) float32."""
        return self.own_thumbnail(index).mean_3

    def same_object_kind(self, first: int, second: int) -> bool:
        """True when two objects look like one kind in some rotation of the second."""
        cell = cell_size(self.crops[first])
        return self.cached(
            lambda: same_kind(self.thumbnail(first, cell), self.thumbnail(second, cell)),
            "alike", first, second,
        )  # fmt: skip

    def differs_from_donor(self, target: int, ref: DonorRef, *, in_colour: bool) -> bool:
        """True when a donor object is of another kind than the target.

        With `in_colour` it must also differ clearly in colour.
        """
        mine = self.own_thumbnail(target)
        theirs = self.donor_thumbnail(ref, cell_size(self.crops[target]))
        if in_colour and not _other_colour(mine, theirs):
            return False
        return not self.cached(lambda: same_kind(theirs, mine), "alike", target, ref)

    def differ_in_colour(self, first: int, second: int) -> bool:
        """True when two objects differ clearly in colour."""
        return self.cached(
            lambda: _other_colour(self.own_thumbnail(first), self.own_thumbnail(second)),
            "other colour", min(first, second), max(first, second),
        )  # fmt: skip

    def orientation_varies(self, target: int) -> bool:
        """True when this image or a donor shows an object of the target's kind in another rotation.

        Then its orientation carries no meaning, as for walnuts on a tray, and rotating it would be
        no anomaly. What counts as one kind: see `appearance.same_but_turned`.
        """
        # Own objects first; donors are loaded only if these do not decide.
        return self.cached(lambda: self._rotated_here(target), "rotated", target) or any(
            self.cached(partial(self._rotated_in_donor, target, ref), "rotated", target, ref)
            for ref in self.donors.objects
            if self._of_like_size(target, ref.area)
        )

    def _rotated_here(self, target: int) -> bool:
        cell = cell_size(self.crops[target])
        mine = self.own_thumbnail(target)
        return any(
            same_but_turned(mine, self.thumbnail(index, cell))
            for index, area in enumerate(self.areas_N.tolist())
            if index != target and self._of_like_size(target, area)
        )

    def _rotated_in_donor(self, target: int, ref: DonorRef) -> bool:
        cell = cell_size(self.crops[target])
        return same_but_turned(self.own_thumbnail(target), self.donor_thumbnail(ref, cell))

    def _of_like_size(self, target: int, area: int) -> bool:
        mine = int(self.areas_N[target])
        return max(mine, area) <= SIMILAR_AREA * min(mine, area)

    def donor_thumbnail(self, ref: DonorRef, cell: int) -> Thumbnail:
        """The thumbnail of a donor object with cells of `cell` pixels."""
        return self.cached(
            lambda: thumbnail_of(self.donor_crop(ref), self.donors.image_and_mask(ref)[0], cell),
            "donor thumbnail", ref, cell,
        )  # fmt: skip

    def donor_crop(self, ref: DonorRef) -> MaskCrop:
        """The mask crop of a donor object with its pieces, in the donor's coordinates."""
        return self.cached(partial(self._donor_crop, ref), "donor crop", ref)

    def _donor_crop(self, ref: DonorRef) -> MaskCrop:
        image_HW3, mask_HW = self.donors.image_and_mask(ref)
        known = self.donors.pieces_of(ref.image)
        if ref.proposal not in known.by_proposal:
            known.by_proposal[ref.proposal] = self._donor_pieces(ref, image_HW3, known)
        pieces = known.by_proposal[ref.proposal]
        return MaskCrop.of(mask_HW if pieces is None else mask_HW | pieces.full(mask_HW.shape))

    def _donor_pieces(
        self, ref: DonorRef, image_HW3: np.ndarray, known: KnownPieces
    ) -> MaskCrop | None:
        proposals = self.donors.proposals_of(ref.image)
        # As in `with_attachments`: the product itself may have legs, too.
        if not (proposals.whole_N[ref.proposal] or proposals.product_N[ref.proposal]):
            return None
        if known.repeats is None:
            background = repeated_background(image_HW3, proposals.foreground_HW)
            known.repeats = background is not None
        # Outlines are exact where the background repeats itself.
        if known.repeats:
            return None
        if ref.image not in self._asked:
            # Of few donors at a time: their blurred images take 12 bytes per pixel.
            while len(self._asked) >= ASKED_AT_ONCE:
                del self._asked[next(iter(self._asked))]
            self._asked[ref.image] = Surroundings(image_HW3, proposals, light=False)
        return self._asked[ref.image].pieces(ref.proposal)

    def cutout(self, source: int | DonorRef, band: int, feather: int) -> Cutout:
        """An object of this image or of a donor, without its background.

        `band` and `feather` are pixels, see `matting.alpha_matte`. RecordError when the donor is
        not at hand, however often it was cut out before.
        """
        if isinstance(source, int):
            image_HW3, crop = self.image_HW3, self.crops[source]
        else:
            # Look the donor up even if its cutout is cached: a missing donor must be an error.
            image_HW3, crop = self.donors.image_and_mask(source)[0], self.donor_crop(source)
        return self.cached(
            lambda: cut_out(image_HW3, crop, band, feather), "cutout", source, band, feather
        )

    def filled_by_prompt(self, edit: Edit, mask_HW: np.ndarray, mode: FillMode) -> np.ndarray:
        """The filler's image (H, W, 3) uint8 for the edit's prompt; RecordError without a filler.

        `mode` says whether the mask is filled ("fill") or kept ("replace").
        """
        prompt = edit.parameters["prompt"]
        if self.fill is None:
            raise RecordError(
                f"the edit needs a filler for the prompt {prompt!r}, and there is no filler; set "
                "models.fill to the one that the edit was made with"
            )
        return self.fill(self.image_HW3, mask_HW, prompt, edit.seed, mode)


def _other_colour(one: Thumbnail, other: Thumbnail) -> bool:
    """True when the dominant colours of two objects clearly differ."""
    return float(np.linalg.norm(one.dominant_3 - other.dominant_3)) >= OTHER_COLOUR

"""One image and everything that edits of it need: objects, background, donors, inpainter, memo.

    context = ImageContext(image, proposals, models.inpaint)

It is built once per image and passed on. An image is planned for and edited many times, so whatever
was found out about it is kept: outlines, neighbours, appearance, cutouts, inpainted holes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np

from pipeline.edits.appearance import (
    OTHER_COLOUR,
    SIMILAR_AREA,
    Thumbnail,
    cell_of,
    same_but_turned,
    same_kind,
    thumbnail_of,
)
from pipeline.edits.compositing.cutout import Cutout, lifted
from pipeline.edits.donors import NO_DONORS, DonorRef, Donors
from pipeline.errors import RecordError
from pipeline.imaging.masks import MaskCrop, apart
from pipeline.models.inpaint.base import Filler, FillMode, Inpainter
from pipeline.models.inpaint.memo import MemoInpainter
from pipeline.records import Edit, ObjectProposals, expect_image

Answer = TypeVar("Answer")

# Width in pixels of the ring that tells on which kind of background an object lies.
RING = 5


def _no_inpainter(image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    raise RecordError("this edit inpaints and there is no inpainter; give the context one")


@dataclass(slots=True, eq=False)
class ImageContext:
    """One image (H, W, 3) uint8 RGB with its proposals; not to be shared between threads.

    `inpainter` fills holes, `fill` paints from a prompt (None without a diffusion model), `donors`
    offer objects of other images. Planning alone needs none of them.
    """

    image_HW3: np.ndarray
    proposals: ObjectProposals
    inpainter: Inpainter = _no_inpainter
    fill: Filler | None = None
    donors: Donors = NO_DONORS
    crops: list[MaskCrop] = field(init=False)
    areas_N: np.ndarray = field(init=False)
    # (hole_HW bool) -> image_HW3: the inpainter, which fills each hole once.
    inpaint: MemoInpainter = field(init=False)
    _known: dict[tuple[Any, ...], Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        expect_image("image_HW3", self.image_HW3)
        if self.image_HW3.shape[:2] != self.proposals.foreground_HW.shape:
            raise RecordError(
                f"the image is {self.image_HW3.shape[:2]}, its foreground is "
                f"{self.proposals.foreground_HW.shape}"
            )
        self.crops = [MaskCrop.of(mask_HW) for mask_HW in self.proposals.masks_NHW]
        self.areas_N = np.array([crop.area for crop in self.crops], np.int64)
        self.inpaint = MemoInpainter(self.inpainter, self.image_HW3)

    @property
    def size_HW(self) -> tuple[int, int]:
        height, width = self.proposals.foreground_HW.shape
        return height, width

    def __len__(self) -> int:
        """The number of objects."""
        return len(self.crops)

    def once(self, make: Callable[[], Answer], *question: Any) -> Answer:
        """The answer to a question about this image: made the first time, kept for the next."""
        if question not in self._known:
            self._known[question] = make()
        answer: Answer = self._known[question]
        return answer

    def movable(self) -> list[int]:
        """Objects that the frame does not cut: a cut edge in mid-image is no logical anomaly."""
        return [i for i, crop in enumerate(self.crops) if crop.whole_in(self.size_HW)]

    def objects_HW(self) -> np.ndarray:
        """Where any object is, bool; not to be written to."""
        return self.once(lambda: self.union(range(len(self))), "objects")

    def union(self, objects: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where any of these objects is, (H, W) bool; `objects` are indices, or a bool array."""
        chosen = objects if isinstance(objects, np.ndarray) else list(objects)
        masks_NHW = self.proposals.masks_NHW[chosen]
        # `any` over the first axis is several times slower than the maximum of bytes.
        return masks_NHW.view(np.uint8).max(0, initial=0).astype(np.bool_)

    def background_of(self, target: int) -> np.ndarray:
        """Where the target may lie: the foreground when it is surrounded by it, else all but it.

        Not to be written to.
        """
        return self.once(lambda: self._background_of(target), "background", target)

    def _background_of(self, target: int) -> np.ndarray:
        mask_HW, foreground_HW = self.proposals.masks_NHW[target], self.proposals.foreground_HW
        x0, y0, x1, y1 = self.crops[target].box_4
        near = np.s_[max(0, y0 - RING) : y1 + RING, max(0, x0 - RING) : x1 + RING]
        kernel = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
        inside_hw = mask_HW[near]
        ring_hw = cv2.dilate(inside_hw.astype(np.uint8), kernel).astype(np.bool_) & ~inside_hw
        on_product = foreground_HW[near][ring_hw].mean() >= 0.5 if ring_hw.any() else True
        return (foreground_HW if on_product else ~foreground_HW) | mask_HW

    def crowded(self, crop: MaskCrop, targets: tuple[int, ...], reach: float) -> float:
        """Share of an outline that lies on objects of at most `reach` pixels beside the targets.

        Larger objects (a compartment, a label) are background to stand on, not obstacles.
        """
        x0, y0, x1, y1 = box_4 = crop.box_4
        others = [
            index
            for index, (other, area) in enumerate(
                zip(self.crops, self.areas_N.tolist(), strict=True)
            )
            if area <= reach and index not in targets and not apart(box_4, other.box_4)
        ]
        if not others:
            return 0.0
        taken_hw = np.zeros(crop.mask_hw.shape, np.bool_)
        for index in others:
            taken_hw |= self.proposals.masks_NHW[index, y0:y1, x0:x1]
        for target in targets:
            taken_hw &= ~self.proposals.masks_NHW[target, y0:y1, x0:x1]
        return float(np.count_nonzero(taken_hw & crop.mask_hw)) / max(1, crop.area)

    def thumbnail(self, index: int, cell: int) -> Thumbnail:
        """An object's thumbnail with cells of so many pixels."""
        return self.once(
            lambda: thumbnail_of(self.crops[index], self.image_HW3, cell), "thumbnail", index, cell
        )

    def own_thumbnail(self, index: int) -> Thumbnail:
        """An object's thumbnail with cells that fit its own size."""
        return self.thumbnail(index, cell_of(self.crops[index]))

    def colour(self, index: int) -> np.ndarray:
        """The mean CIELAB colour of an object, (3,) float32."""
        return self.own_thumbnail(index).mean_3

    def alike(self, first: int, second: int) -> bool:
        """True when two objects are of one kind: alike in some rotation of one of them."""
        cell = cell_of(self.crops[first])
        return self.once(
            lambda: same_kind(self.thumbnail(first, cell), self.thumbnail(second, cell)),
            "alike", first, second,
        )  # fmt: skip

    def stands_out(self, target: int, ref: DonorRef, *, in_colour: bool) -> bool:
        """True when a donor's object is of another kind than the target (and another colour)."""
        mine = self.own_thumbnail(target)
        theirs = self.donor_thumbnail(ref, cell_of(self.crops[target]))
        if in_colour and not _far(mine, theirs):
            return False
        return not self.once(lambda: same_kind(theirs, mine), "alike", target, ref)

    def far_in_colour(self, first: int, second: int) -> bool:
        """True when the colours of two objects are clearly different ones."""
        return self.once(
            lambda: _far(self.own_thumbnail(first), self.own_thumbnail(second)),
            "far", min(first, second), max(first, second),
        )  # fmt: skip

    def lies_anyhow(self, target: int) -> bool:
        """True when an object of the target's kind is seen, here or in a donor, at another angle.

        Then its orientation means nothing: a walnut on a tray, a screw on a table. Of one kind are
        objects that look alike in some rotation, and objects of like colour, area and slenderness.
        """
        return self.once(lambda: self._turned_here(target), "anyhow", target) or any(
            self.once(partial(self._turned_there, target, ref), "anyhow", target, ref)
            for ref in self.donors.parts
            if self._of_like_size(target, ref.area)
        )

    def _turned_here(self, target: int) -> bool:
        cell = cell_of(self.crops[target])
        mine = self.own_thumbnail(target)
        return any(
            same_but_turned(mine, self.thumbnail(index, cell))
            for index, area in enumerate(self.areas_N.tolist())
            if index != target and self._of_like_size(target, area)
        )

    def _turned_there(self, target: int, ref: DonorRef) -> bool:
        cell = cell_of(self.crops[target])
        return same_but_turned(self.own_thumbnail(target), self.donor_thumbnail(ref, cell))

    def _of_like_size(self, target: int, area: int) -> bool:
        mine = int(self.areas_N[target])
        return max(mine, area) <= SIMILAR_AREA * min(mine, area)

    def donor_thumbnail(self, ref: DonorRef, cell: int) -> Thumbnail:
        """The thumbnail of a donor's object."""
        return self.once(
            lambda: thumbnail_of(self.donor_crop(ref), self.donors.part(ref)[0], cell),
            "donor thumbnail", ref, cell,
        )  # fmt: skip

    def donor_crop(self, ref: DonorRef) -> MaskCrop:
        """The outline of a donor's object."""
        return self.once(lambda: MaskCrop.of(self.donors.part(ref)[1]), "donor crop", ref)

    def cutout(self, source: int | DonorRef, band: int, feather: int) -> Cutout:
        """An object of this image or of a donor without its background.

        `band` and `feather` are pixels, see `matting.belonging`. RecordError when the donor is not
        at hand, however often it was cut out before.
        """
        if isinstance(source, int):
            image_HW3, crop = self.image_HW3, self.crops[source]
        else:
            image_HW3, crop = self.donors.part(source)[0], self.donor_crop(source)
        return self.once(
            lambda: lifted(image_HW3, crop, band, feather), "cutout", source, band, feather
        )

    def painted(self, edit: Edit, mask_HW: np.ndarray, mode: FillMode) -> np.ndarray:
        """The filler's image for the edit's prompt; RecordError without a filler."""
        prompt = edit.parameters["prompt"]
        if self.fill is None:
            raise RecordError(
                f"the edit paints by the prompt {prompt!r} and there is no filler; set models.fill "
                "to the one it was made with"
            )
        return self.fill(self.image_HW3, mask_HW, prompt, edit.seed, mode)


def _far(one: Thumbnail, other: Thumbnail) -> bool:
    """True when two objects are painted in clearly different colours."""
    return float(np.linalg.norm(one.paint_3 - other.paint_3)) >= OTHER_COLOUR

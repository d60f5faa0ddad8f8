"""Donors: objects of other normal images, for edits that paste a wrong object.

Donors belong to the same split, so no pixel of a training image ever enters a validation sample.
Some may be images of another category: what lies in them is another product. Pixels are loaded on
first use.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import RecordError
from pipeline.imaging.masks import MaskCrop
from pipeline.records import ObjectProposals

# Loads a donor's (H, W, 3) uint8 pixels and its proposals, as stored.
DonorImage = Callable[[], tuple[np.ndarray, ObjectProposals]]


@dataclass(slots=True, eq=False)
class KnownPieces:
    """What was found of one image, whoever asked first: its own edits, or those of an image that it
    donates to.

    `repeats` says whether its background repeats itself (None = nobody looked), `by_proposal` what
    belongs to an object beside its mask (None = nothing), `outlines` whether its outline
    is one of the image, and `cut` whether the part goes on where it ends.
    """

    repeats: bool | None = None
    by_proposal: dict[int, MaskCrop | None] = field(default_factory=dict)
    outlines: dict[int, bool] = field(default_factory=dict)
    cut: dict[int, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DonorRef:
    """One object of a donor image, as an edit records it.

    `digest` is the SHA-256 of the donor's source file, `proposal` the object's index there, `box_4`
    its box x0 y0 x1 y1 (exclusive end), `area` its pixels. `category` is the donor's, where it is
    another one than the edited image's.
    """

    image: str
    digest: str
    # Not enough alone: other models or settings may give other proposals, hence box and area.
    proposal: int
    box_4: tuple[int, int, int, int]
    area: int
    category: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record of an edit; without `category` for a donor of the same one."""
        facts = asdict(self) | {"box_4": list(self.box_4)}
        return facts if self.category else {k: v for k, v in facts.items() if k != "category"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "DonorRef":
        return cls(**(dict(data) | {"box_4": tuple(data["box_4"])}))


@dataclass(slots=True, eq=False)
class Donors:
    """The objects of a few donor images; nothing is loaded before it is needed."""

    # Loaders and digests by image name, then what has been loaded so far.
    _images: Mapping[str, DonorImage] = field(default_factory=dict)
    _digests: Mapping[str, str] = field(default_factory=dict)
    # Category by image name, only for images of another category.
    _categories: Mapping[str, str] = field(default_factory=dict)
    # By image name; whoever finds pieces adds them, for all images with the same donors.
    _pieces: Mapping[str, KnownPieces] = field(default_factory=dict)
    _loaded: dict[str, tuple[np.ndarray, ObjectProposals]] = field(default_factory=dict)
    _objects: tuple[DonorRef, ...] | None = None

    @classmethod
    def of(
        cls,
        images: Mapping[str, DonorImage],
        digests: Mapping[str, str] | None = None,
        categories: Mapping[str, str] | None = None,
        pieces: Mapping[str, KnownPieces] | None = None,
    ) -> "Donors":
        """Donors by image name; `digests` are the SHA-256 of their source files, for lineage.

        `categories` names the category of each image that is of another one. `pieces` are added
        to as they are found.
        """
        known = pieces or {name: KnownPieces() for name in images}
        return cls(images, digests or {}, categories or {}, known)

    def __bool__(self) -> bool:
        return bool(self._images)

    @property
    def objects(self) -> Sequence[DonorRef]:
        """Every object of every donor of the same category: by name, objects best first."""
        # Sorted, because plans index this sequence with random numbers.
        if self._objects is None:
            own = sorted(name for name in self._images if name not in self._categories)
            self._objects = tuple(ref for name in own for ref in self._refs(name))
        return self._objects

    @property
    def other_products(self) -> Sequence[DonorRef]:
        """What donors of other categories show: the product, or the parts where there is none.

        No product beside which other things lie, as the holes of a board: its mask takes along what
        touches it.
        """
        found = []
        for name in sorted(self._categories):
            refs, proposals = self._refs(name), self._load(name)[1]
            if (proposals.whole_N & proposals.beside_N).any():
                continue
            whole_N = proposals.product_N if proposals.product_N.any() else proposals.whole_N
            found += [ref for ref, whole in zip(refs, whole_N.tolist(), strict=True) if whole]
        return found

    def image_and_mask(self, ref: DonorRef) -> tuple[np.ndarray, np.ndarray]:
        """A donor's whole image (H, W, 3) uint8 and the object's mask (H, W) bool.

        RecordError when the donor is not available or no longer has that object.
        """
        if ref.image not in self._images:
            raise RecordError(
                f"the edit pastes an object of {ref.image}, which is not among the donors "
                f"({', '.join(sorted(self._images)) or 'none'}); pass the donors it was made with"
            )
        image_HW3, proposals = self._load(ref.image)
        # An equal area is a cheap check that the proposals are those of the time of planning.
        known = ref.proposal < len(proposals)
        if not known or np.count_nonzero(proposals.masks_NHW[ref.proposal]) != ref.area:
            raise RecordError(
                f"object {ref.proposal} of donor {ref.image} is not the one that the edit pasted; "
                "its proposals were made by other models or settings"
            )
        return image_HW3, proposals.masks_NHW[ref.proposal]

    def proposals_of(self, name: str) -> ObjectProposals:
        """All objects of a donor image, which must be among `objects`."""
        return self._load(name)[1]

    def pixels_of(self, name: str) -> np.ndarray:
        """A donor image, (H, W, 3) uint8."""
        return self._load(name)[0]

    def pieces_of(self, name: str) -> KnownPieces:
        """What is known so far of a donor image; the caller adds what it finds."""
        return self._pieces[name]

    def size_HW(self, ref: DonorRef) -> tuple[int, int]:
        """Height and width of a donor's image."""
        height, width = self.image_and_mask(ref)[1].shape
        return height, width

    def _load(self, name: str) -> tuple[np.ndarray, ObjectProposals]:
        if name not in self._loaded:
            self._loaded[name] = self._images[name]()
        return self._loaded[name]

    def _refs(self, name: str) -> list[DonorRef]:
        proposals = self._load(name)[1]
        digest, category = self._digests.get(name, ""), self._categories.get(name, "")
        return [
            DonorRef(
                name,
                digest,
                i,
                (box[0], box[1], box[2], box[3]),
                int(np.count_nonzero(mask_HW)),
                category,
            )
            for i, (mask_HW, box) in enumerate(
                zip(proposals.masks_NHW, proposals.boxes_N4.tolist(), strict=True)
            )
        ]


# For callers without other images: a wrong object then comes from the image itself.
NO_DONORS = Donors()

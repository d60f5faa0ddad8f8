"""Parts that another image lends: objects of other good images of the same split.

A part of the wrong type has to come from somewhere. Donors are normals of the same split, so no
pixel of a training image ever lies in a validation sample. They are loaded when first looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import RecordError
from pipeline.records import ObjectProposals

DonorImage = Callable[[], tuple[np.ndarray, ObjectProposals]]
"""Gives a donor's (H, W, 3) uint8 pixels and its proposals, as stored."""


@dataclass(frozen=True, slots=True)
class DonorRef:
    """One part of one other image, as an edit records it; `digest` is its source file's SHA-256."""

    image: str
    digest: str
    proposal: int
    box_4: tuple[int, int, int, int]
    area: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"box_4": list(self.box_4)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "DonorRef":
        return cls(**(dict(data) | {"box_4": tuple(data["box_4"])}))


@dataclass(slots=True, eq=False)
class Donors:
    """The parts of a few other images. Nothing is loaded before `parts` or `part` is asked for."""

    _images: Mapping[str, DonorImage] = field(default_factory=dict)
    _digests: Mapping[str, str] = field(default_factory=dict)
    _loaded: dict[str, tuple[np.ndarray, ObjectProposals]] = field(default_factory=dict)
    _parts: tuple[DonorRef, ...] | None = None

    @classmethod
    def of(
        cls, images: Mapping[str, DonorImage], digests: Mapping[str, str] | None = None
    ) -> "Donors":
        """Donors by image name; `digests` are those of their source files, as lineage has them."""
        return cls(images, digests or {})

    def __bool__(self) -> bool:
        return bool(self._images)

    @property
    def parts(self) -> Sequence[DonorRef]:
        """Every part of every donor, donors by name, parts best first."""
        if self._parts is None:
            self._parts = tuple(ref for name in sorted(self._images) for ref in self._refs(name))
        return self._parts

    def part(self, ref: DonorRef) -> tuple[np.ndarray, np.ndarray]:
        """A donor's whole picture (H, W, 3) uint8 and the part's mask (H, W) bool.

        RecordError when the donor is not here or no longer has that part.
        """
        if ref.image not in self._images:
            raise RecordError(
                f"the edit borrows a part of {ref.image}, which is not among its donors "
                f"({', '.join(sorted(self._images)) or 'none'}); give the images it was made with"
            )
        image_HW3, proposals = self._load(ref.image)
        known = ref.proposal < len(proposals)
        if not known or np.count_nonzero(proposals.masks_NHW[ref.proposal]) != ref.area:
            raise RecordError(
                f"part {ref.proposal} of {ref.image} is not the one that the edit borrowed; its "
                "proposals were made by other models or settings"
            )
        return image_HW3, proposals.masks_NHW[ref.proposal]

    def size_HW(self, ref: DonorRef) -> tuple[int, int]:
        """Height and width of a donor's picture."""
        height, width = self.part(ref)[1].shape
        return height, width

    def _load(self, name: str) -> tuple[np.ndarray, ObjectProposals]:
        if name not in self._loaded:
            self._loaded[name] = self._images[name]()
        return self._loaded[name]

    def _refs(self, name: str) -> list[DonorRef]:
        proposals = self._load(name)[1]
        digest = self._digests.get(name, "")
        return [
            DonorRef(name, digest, i, (box[0], box[1], box[2], box[3]), int(mask_HW.sum()))
            for i, (mask_HW, box) in enumerate(
                zip(proposals.masks_NHW, proposals.boxes_N4.tolist(), strict=True)
            )
        ]


NO_DONORS = Donors()
"""For callers without other images: a wrong part then comes from the image itself."""

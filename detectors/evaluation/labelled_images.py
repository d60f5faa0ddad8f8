"""The test sets of an evaluation: the real test split of a version, or images in a user's folders.

    images = FolderImages(list_own(folders, "tray"), size_HW)
    for image in images.images(): ...     # those that can be read; the others are in `failures`
    images.read(0)                        # one of them again

Images of folders are decoded and resized as in `predict`, so both give the same scores.

Shapes: H, W stored size; K ground-truth regions; 3 colour (RGB).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeAlias

import numpy as np

from detectors.evaluation.own_folders import OwnImages
from pipeline.dataset.version import Version
from pipeline.errors import ImageError
from pipeline.records import GOOD, TestImage
from pipeline.sources.ground_truth import load_test
from pipeline.sources.licences import Terms, terms_of
from pipeline.utils.names import text_of

# Threads that decode files, and files that are decoded ahead.
_READERS, _AHEAD = 4, 16


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """One test image: (H, W, 3) uint8 pixels, (K, H, W) bool masks, (K,) uint8 grey values.

    `place` is its number in the test set; `mask_fault` says why its mask could not be used.
    """

    place: int
    name: str
    type: str
    pixels_HW3: np.ndarray
    masks_KHW: np.ndarray
    values_K: np.ndarray
    mask_fault: str = ""


class VersionImages:
    """The real test split of a version."""

    def __init__(self, version: Version) -> None:
        self.version = version
        self.size_HW = version.image_size
        self.defects_config: Sequence[Mapping[str, Any]] | None = version.index["defects_config"]
        self.failures: dict[str, str] = {}
        self.terms: Terms = terms_of(version.index)

    def __len__(self) -> int:
        return sum(shard.images for shard in self.version.test_shards)

    def facts(self) -> dict[str, Any]:
        """The version as JSON for the report."""
        version = self.version
        return {
            "name": version.name,
            "digest": version.digest,
            "category": version.category,
            "image_size": list(version.image_size),
            "licence": version.index.get("licence") or "",
            "test": dict(version.index["counts"]["test"]),
        }

    def images(self) -> Iterator[LabelledImage]:
        for place, (pixels_HW3, masks_KHW, values_K, record) in enumerate(
            self.version.test_images()
        ):
            yield LabelledImage(
                place, record["name"], record["defect"], pixels_HW3, masks_KHW, values_K
            )

    def read(self, place: int) -> LabelledImage:
        """One image by its number."""
        at = place
        # Indices run through the shards one after another.
        for shard in self.version.test_shards:
            if at < shard.images:
                record = shard.record(at)
                return LabelledImage(
                    place, record["name"], record["defect"], shard.original(at), *shard.masks(at)
                )
            at -= shard.images
        raise IndexError(place)


class FolderImages:
    """Images of a user's own folders, decoded when they are needed."""

    # Only layouts of MVTec LOCO name their defects by grey values.
    defects_config = None

    def __init__(self, own: OwnImages, category: str, size_HW: tuple[int, int]) -> None:
        self.own, self.category, self.size_HW = own, category, size_HW
        # Files that the listing could not use; unreadable images join them.
        self.failures = dict(own.unusable)
        self.terms = terms_of({"licence": "", "settings": {}})

    def __len__(self) -> int:
        return len(self.own.entries)

    def facts(self) -> dict[str, Any]:
        """The folders as JSON for the report; `test` counts the images that could be read."""
        read = [entry for entry in self.own.entries if entry.name not in self.failures]
        by_defect = Counter(entry.defect for entry in read)
        folders = self.own.folders
        return {
            "name": text_of(", ".join(p.resolve().name for p in (*folders.good, *folders.bad))),
            "digest": self.own.digest,
            "category": self.category,
            "image_size": list(self.size_HW),
            "licence": "",
            "test": {
                "images": len(read),
                "good": by_defect[GOOD],
                "by_defect": dict(sorted(by_defect.items())),
            },
            "folders": folders.to_json(),
        }

    def images(self) -> Iterator[LabelledImage]:
        entries = self.own.entries
        with ThreadPoolExecutor(_READERS) as pool:
            # Some files at a time, so memory does not grow with their number.
            for start in range(0, len(entries), _AHEAD):
                some = entries[start : start + _AHEAD]
                for entry, found in zip(some, pool.map(self._try, count(start), some), strict=True):
                    if isinstance(found, ImageError):
                        self.failures[entry.name] = str(found)
                    else:
                        yield found

    def read(self, place: int) -> LabelledImage:
        """One image by its number; ImageError when it cannot be read."""
        entry = self.own.entries[place]
        fault = ""
        try:
            image = load_test(entry, self.size_HW)
        except ImageError as error:
            # Without a usable mask it is still an image; without pixels this raises again.
            image = load_test(replace(entry, masks=()), self.size_HW)
            fault = str(error)
        if entry.masks and not fault and not len(image.values_K):
            fault = "the mask marks nothing"
        return _labelled(place, image, fault)

    def _try(self, place: int, _: object) -> LabelledImage | ImageError:
        try:
            return self.read(place)
        except ImageError as error:
            return error


def _labelled(place: int, image: TestImage, fault: str) -> LabelledImage:
    return LabelledImage(
        place, image.name, image.defect, image.pixels_HW3, image.masks_KHW, image.values_K, fault
    )


LabelledImages: TypeAlias = VersionImages | FolderImages

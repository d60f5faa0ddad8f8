"""What a published version still knows of its own making: its normals, its donors, its limits.

A version holds the originals and proposals of all its images, so what the run learned from several
images can be learned again, on any machine and without the source.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import Version
from pipeline.edits.donors import Donors
from pipeline.gate.calibration import Limits, NormalModel, Sight, learn
from pipeline.gate.settings import asks_patches
from pipeline.generation.cache_keys import TEACHER, PlannedImage, calibration_images, donors_of
from pipeline.models.weights import store as weights
from pipeline.records import ObjectProposals


class StoredImages:
    """The normal images of a version, as planning, donors and normality want them."""

    def __init__(self, version: Version) -> None:
        self.version = version
        self._places: dict[str, tuple[ShardReader, int]] = {}
        self.images: list[PlannedImage] = []
        for shard in version.shards:
            for i in range(shard.images):
                record = shard.image_record(i)
                self._places[record["name"]] = (shard, i)
                self.images.append(
                    PlannedImage(record["name"], "", record["split"], record["digest"])
                )

    def donors(self, name: str) -> Donors:
        """The other images whose parts an image's edits could borrow.

        Files that could not be used are not in a version; where one would have been a donor, other
        donors are found than the run had.
        """
        image = next(image for image in self.images if image.name == name)
        lenders = [other for other in self.images if other.name in donors_of(image, self.images)]
        return Donors.of(
            {lender.name: self.sight(lender.name) for lender in lenders},
            {lender.name: lender.digest for lender in lenders},
        )

    def normality(self) -> NormalModel:
        """What is normal here, learned again; limits are those of the index where it has them."""
        settings: dict[str, Any] = dict(self.version.index["settings"])
        patches = asks_patches(settings["gate"].get("patches"), settings["edits"]["preset"])
        teacher: Path | None = weights.require(TEACHER, None, True) if patches else None
        sights = {image.digest: self.sight(image.name) for image in calibration_images(self.images)}
        learned = learn(sights, teacher, settings["edits"]["dilation"])
        kept = self.version.index.get("limits")
        return NormalModel(learned.patches, Limits(**kept)) if kept else learned

    def sight(self, name: str) -> Sight:
        """Gives the pixels and proposals of one image when they are asked for."""
        shard, i = self._places[name]

        def look() -> tuple[np.ndarray, ObjectProposals]:
            masks_NHW, scores_N = shard.proposals(i)
            return shard.original(i), ObjectProposals(masks_NHW, scores_N, shard.foreground(i))

        return look

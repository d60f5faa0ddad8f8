"""Read a published version as generation needs it: its normal images, their donors, its limits.

A version holds the originals and proposals of all its images. What the run learned from several
images can therefore be learned again, on any machine and without the source.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import Version
from pipeline.edits.donors import Donors
from pipeline.gate.calibration import NormalImage, NormalModel, learn, observed_parts
from pipeline.gate.limits import Limits
from pipeline.gate.settings import uses_patches
from pipeline.generation.cache_keys import TEACHER, PlannedImage, calibration_images, donors_of
from pipeline.models.weights import store as weights
from pipeline.part_kinds.kinds import PartKinds
from pipeline.part_kinds.kinds import learn as learn_kinds
from pipeline.records import WHOLE_PART, ObjectProposals


class StoredImages:
    """The normal images of a version, as planning, donors and calibration need them."""

    def __init__(self, version: Version, embed: Any = None) -> None:
        """`embed(image_HW3, masks_NHW)` embeds proposals, see `Models`; part kinds need it."""
        self.version = version
        self._embed = embed
        # Name of an image -> its shard and its row there.
        self._places: dict[str, tuple[ShardReader, int]] = {}
        self.images: list[PlannedImage] = []
        # Paths are unknown and not needed: everything is read from the shards.
        for shard in version.shards:
            for i in range(shard.images):
                record = shard.image_record(i)
                self._places[record["name"]] = (shard, i)
                self.images.append(
                    PlannedImage(record["name"], "", record["split"], record["digest"])
                )

    def donors(self, name: str) -> Donors:
        """The images that donated objects to the edits of an image.

        Files that could not be used are not in a version. Where one of them would have been a
        donor, this finds other donors than the run had.
        """
        image = next(image for image in self.images if image.name == name)
        donors = [other for other in self.images if other.name in donors_of(image, self.images)]
        return Donors.of(
            {donor.name: self.loader(donor.name, asked=True) for donor in donors},
            {donor.name: donor.digest for donor in donors},
        )

    def normal_model(self) -> NormalModel:
        """The gate's calibration, learned again; limits are those of the index where it has them.

        WeightsError when the gate uses patches and the teacher's weights are missing.
        """
        # Settings of older releases may lack keys of today, so they are read one by one.
        settings: dict[str, Any] = dict(self.version.index["settings"])
        patches = uses_patches(settings["gate"].get("patches"), settings["edits"]["preset"])
        # Licences do not matter here: nothing is published.
        teacher: Path | None = weights.require(TEACHER, None, True) if patches else None
        normals = {
            image.digest: self.loader(image.name) for image in calibration_images(self.images)
        }
        learned = learn(normals, teacher, settings["edits"]["dilation"])
        # Indexes of older releases have no limits.
        kept = self.version.index.get("limits")
        return NormalModel(learned.patches, Limits(**kept)) if kept else learned

    def part_kinds(self) -> PartKinds | None:
        """The part kinds of the category, learned again; None where they were not embedded."""
        images = sorted(calibration_images(self.images), key=lambda image: image.digest)
        observed = [observed_parts(self.loader(image.name)()[1]) for image in images]
        return learn_kinds([one for one in observed if one is not None])

    def loader(self, name: str, *, asked: bool = False) -> NormalImage:
        """A function that reads the (H, W, 3) uint8 pixels and the proposals of one image: as they
        were when the run learned from them, or with what was found later (`asked`)."""
        shard, i = self._places[name]

        def load() -> tuple[np.ndarray, ObjectProposals]:
            masks_NHW, scores_N = shard.proposals(i)
            image_HW3, record = shard.original(i), shard.image_record(i)
            first = len(scores_N) - (0 if asked else record.get("asked_again", 0))
            masks_NHW, scores_N = masks_NHW[:first], scores_N[:first]
            # Absent in versions of older releases, which knew no hierarchy.
            parents = np.array(record.get("parents", [WHOLE_PART] * first)[:first], np.int32)
            # What became a piece of a corrected outline was a whole part.
            parents[parents >= first] = WHOLE_PART
            return image_HW3, ObjectProposals(
                masks_NHW, scores_N, shard.foreground(i),
                vectors_NC=self._embed(image_HW3, masks_NHW) if self._embed else None,
                parent_N=parents,
            )  # fmt: skip

        return load

"""What one fit of a detector sees, and what it is judged on.

    data = FitData.of(version)                          # fit on `train`, judged on `validation`
    parts = FitData.folds(version, folds=5)             # five fits, each without a fifth of `train`

Samples follow their original: no fit sees an edit of an image that it is judged on.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from detectors.data.dataset import VersionDataset
from detectors.data.views import NO_WEIGHTS, Place, Weights, normal_places
from pipeline.dataset.version import Version
from pipeline.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class FitData:
    """Places of the normals that a fit sees, and of those that it is judged on.

    `weights` are those of reviewed samples, see `training.reviewed`.
    """

    version: Version
    fitted: tuple[Place, ...]
    held: tuple[Place, ...]
    weights: Weights = field(default_factory=dict)

    @classmethod
    def of(cls, version: Version, weights: Weights = NO_WEIGHTS) -> Self:
        """The splits of the version."""
        train, validation = (normal_places(version, split) for split in ("train", "validation"))
        return cls(version, tuple(train), tuple(validation), weights)

    @classmethod
    def folds(cls, version: Version, folds: int, weights: Weights = NO_WEIGHTS) -> list[Self]:
        """The training split, without one of `folds` parts each; parts are never empty.

        A part is a run of images in the order of the version, which is that of their names.

        UserError with fewer than two training normals.
        """
        places = normal_places(version, "train")
        if len(places) < 2:
            raise UserError(
                f"cross-fitting needs at least two training normals, {version.dir} has "
                f"{len(places)}; use --set folds=0 or generate from more images"
            )
        # Not at random: photographs that were taken one after another are often nearly the same,
        # and light and camera drift. An image is judged without its neighbours, as a later one is.
        parts = np.array_split(np.arange(len(places)), min(folds, len(places)))
        return [
            cls(
                version,
                tuple(place for at, place in enumerate(places) if not part[0] <= at <= part[-1]),
                tuple(places[at] for at in part.tolist()),
                weights,
            )
            for part in parts
        ]

    def fitted_normals(self) -> VersionDataset:
        """The normals that the fit sees."""
        return VersionDataset.normals_at(self.version, self.fitted)

    def fitted_sources(self) -> VersionDataset:
        """The same with their samples."""
        return VersionDataset.sources_at(self.version, self.fitted, self.weights)

    def fitted_pairs(self) -> VersionDataset:
        """The samples of those normals, with their originals."""
        return VersionDataset.pairs_at(self.version, self.fitted, self.weights)

    def held_normals(self) -> VersionDataset:
        """The normals that it is judged on."""
        return VersionDataset.normals_at(self.version, self.held)

    def held_sources(self) -> VersionDataset:
        """The same with their samples."""
        return VersionDataset.sources_at(self.version, self.held, self.weights)

    def held_pairs(self) -> VersionDataset:
        """The samples that it is judged on, with their originals."""
        return VersionDataset.pairs_at(self.version, self.held, self.weights)


def sample_places(pairs: VersionDataset) -> list[Place]:
    """Shard and row of every sample of a view of pairs, in its order."""
    table = pairs.view.table  # type: ignore[attr-defined]
    return list(zip(table.shards_N.tolist(), table.rows_N.tolist(), strict=True))

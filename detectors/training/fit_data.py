"""What one fit of a detector sees, and what it is judged on.

    data = FitData.of(version)                          # fit on `train`, judged on `validation`
    parts = FitData.folds(version, folds=5, seed=0)     # five fits, each without a fifth of `train`

Samples follow their original: no fit sees an edit of an image that it is judged on.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from detectors.data.dataset import VersionDataset
from detectors.data.views import Place, normal_places
from pipeline.dataset.version import Version
from pipeline.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class FitData:
    """Places of the normals that a fit sees, and of those that it is judged on."""

    version: Version
    fitted: tuple[Place, ...]
    held: tuple[Place, ...]

    @classmethod
    def of(cls, version: Version) -> Self:
        """The splits of the version."""
        train, validation = (normal_places(version, split) for split in ("train", "validation"))
        return cls(version, tuple(train), tuple(validation))

    @classmethod
    def folds(cls, version: Version, folds: int, seed: int) -> list[Self]:
        """The training split, without one of `folds` random parts each; parts are never empty.

        UserError with fewer than two training normals.
        """
        places = normal_places(version, "train")
        if len(places) < 2:
            raise UserError(
                f"cross-fitting needs at least two training normals, {version.dir} has "
                f"{len(places)}; use --set folds=0 or generate from more images"
            )
        # At random, as neighbours in a folder are often nearly the same photograph: in a block
        # of their own they would make all other normals look alike.
        order = np.random.default_rng([seed, 0xF01D]).permutation(len(places)).tolist()
        count = min(folds, len(places))
        return [
            cls(
                version,
                tuple(places[at] for at in sorted(set(order) - set(order[fold::count]))),
                tuple(places[at] for at in sorted(order[fold::count])),
            )
            for fold in range(count)
        ]

    def fitted_normals(self) -> VersionDataset:
        """The normals that the fit sees."""
        return VersionDataset.normals_at(self.version, self.fitted)

    def fitted_sources(self) -> VersionDataset:
        """The same with their samples."""
        return VersionDataset.sources_at(self.version, self.fitted)

    def fitted_pairs(self) -> VersionDataset:
        """The samples of those normals, with their originals."""
        return VersionDataset.pairs_at(self.version, self.fitted)

    def held_normals(self) -> VersionDataset:
        """The normals that it is judged on."""
        return VersionDataset.normals_at(self.version, self.held)

    def held_sources(self) -> VersionDataset:
        """The same with their samples."""
        return VersionDataset.sources_at(self.version, self.held)

    def held_pairs(self) -> VersionDataset:
        """The samples that it is judged on, with their originals."""
        return VersionDataset.pairs_at(self.version, self.held)


def sample_places(pairs: VersionDataset) -> list[Place]:
    """Shard and row of every sample of a view of pairs, in its order."""
    table = pairs.view.table  # type: ignore[attr-defined]
    return list(zip(table.shards_N.tolist(), table.rows_N.tolist(), strict=True))

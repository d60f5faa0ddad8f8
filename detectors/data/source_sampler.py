"""Which items of the view `sources` go into which step of a training.

    sampler = SourceSampler(VersionDataset.sources(version), SourceSettings(), batch_size=16)
    for indices in sampler: ...                       # never ends

First a normal is drawn, then one of its samples, so normals weigh the same however many samples the
gate let pass. A step depends on the seed, its number and the rank alone: a run that starts again at
step k reads what the uninterrupted run reads from there on.
"""

import numpy as np
from pydantic import Field

from detectors.data.batches import Steps
from detectors.data.dataset import VersionDataset
from detectors.data.views import Sources
from pipeline.errors import UserError
from pipeline.kinds import EDIT_KINDS, KINDS, EditKind
from pipeline.settings import Settings

ORDER, CHOICE = 0, 1
"""Streams of random numbers: the order of the normals, and what is taken of each."""


class SourceSettings(Settings):
    """Which samples of a normal are drawn, and how often it is taken as it is."""

    clean_share: float = Field(
        default=0.25, ge=0, le=1, description="probability that a normal is taken unedited"
    )
    controls: bool = Field(
        default=True,
        description="draw samples whose edit changed nothing, too; they look made, yet normal",
    )
    kinds: tuple[EditKind, ...] | None = Field(
        default=None, min_length=1, description="only these edits; null = all"
    )

    def wanted(self) -> tuple[str, ...]:
        """The kinds of samples that may be drawn."""
        edits = EDIT_KINDS if self.kinds is None else self.kinds
        controls = tuple(kind for kind in KINDS if kind not in EDIT_KINDS)
        return (*edits, *controls) if self.controls else tuple(edits)


class SourceSampler(Steps):
    """Endless batches of items of the view `sources`, from `start_step` on.

    Every pass over the normals takes each of them once, in a new order; the ranks share it. A
    normal without a wanted sample gives itself.
    """

    def __init__(
        self,
        dataset: VersionDataset,
        settings: SourceSettings,
        batch_size: int,
        seed: int = 0,
        start_step: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if not isinstance(dataset.view, Sources):
            raise UserError("the dataset must be made by VersionDataset.sources")
        if not dataset.view.normals:
            raise UserError("the version has no normal image in this split; choose another split")
        super().__init__(batch_size, seed, start_step, rank, ranks)
        self.samples = dataset.view.samples_of(settings.wanted())
        self.clean_share = settings.clean_share

    def batch(self, step: int) -> list[int]:
        first = self.first(step)
        rng = np.random.default_rng([self.seed, CHOICE, step, self.rank])
        clean_B, chance_B = rng.random((2, self.batch_size))
        items = []
        for place in range(self.batch_size):
            normal = self._normal(first + place)
            samples = self.samples[normal]
            if samples and clean_B[place] >= self.clean_share:
                items.append(samples[int(chance_B[place] * len(samples))])
            else:
                items.append(normal)
        return items

    def _normal(self, position: int) -> int:
        """The normal at a position of the endless order."""
        number, place = divmod(position, len(self.samples))
        return int(self._order(number)[place])

    def _order(self, number: int) -> np.ndarray:
        """The order of a pass; the last one is remembered, for a batch asks for it again."""
        if self._pass[0] != number:
            rng = np.random.default_rng([self.seed, ORDER, number])
            self._pass = number, rng.permutation(len(self.samples))
        return self._pass[1]

    _pass: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

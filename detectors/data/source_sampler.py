"""Chooses the items of the view `sources` for every training step.

    sampler = SourceSampler(VersionDataset.sources(version), SourceSettings(), batch_size=16)
    for indices in sampler: ...                       # never ends

A normal is drawn first, then one of its samples, so every normal has the same weight no matter how
many of its samples the gate accepted. A sample with a weight below 1 is replaced by its unedited
normal in the other turns. A step depends only on seed, step number and rank: a run that
resumes at step k reads the same items as an uninterrupted run.
"""

import numpy as np
from pydantic import Field

from detectors.data.batches import EndlessSampler
from detectors.data.dataset import VersionDataset
from detectors.data.views import SourcesView
from pipeline.errors import UserError
from pipeline.kinds import EDIT_KINDS, KINDS, EditKind
from pipeline.settings import Settings

# Keys of two independent random streams: the order of the normals, and the choice among samples.
ORDER, CHOICE = 0, 1


class SourceSettings(Settings):
    """Which samples of a normal are drawn, and how often the unedited normal is used instead."""

    # Without clean images a detector could take the traces of editing for the anomaly.
    clean_share: float = Field(
        default=0.25, ge=0, le=1, description="probability of using a normal image unedited"
    )
    controls: bool = Field(
        default=True,
        description="also draw control samples, whose edits change nothing logical: they carry "
        "editing artifacts, but are labelled normal",
    )
    kinds: tuple[EditKind, ...] | None = Field(
        default=None, min_length=1, description="kinds of edits to draw; null = all"
    )

    def wanted(self) -> tuple[str, ...]:
        """The kinds of samples that can be drawn; controls follow the edits."""
        edits = EDIT_KINDS if self.kinds is None else self.kinds
        # `KINDS` lists all kinds of samples, `EDIT_KINDS` those that make an anomaly.
        controls = tuple(kind for kind in KINDS if kind not in EDIT_KINDS)
        return (*edits, *controls) if self.controls else tuple(edits)


class SourceSampler(EndlessSampler):
    """Endless batches of items of the view `sources`, from `start_step` on.

    Every pass draws each normal once, in a new order that the ranks share. A normal without a
    wanted sample is used unedited.
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
        if not isinstance(dataset.view, SourcesView):
            raise UserError("the dataset must be made by VersionDataset.sources")
        if not dataset.view.normals:
            raise UserError("the version has no normal image in this split; choose another split")
        super().__init__(batch_size, seed, start_step, rank, ranks)
        # Per normal, the items of its wanted samples.
        self.samples = dataset.view.samples_of(settings.wanted())
        self.weights = dataset.view.weights
        self.clean_share = settings.clean_share

    def batch(self, step: int) -> list[int]:
        first = self.first(step)
        # A generator per step and rank: no state to save, and any step can be drawn alone.
        rng = np.random.default_rng([self.seed, CHOICE, step, self.rank])
        clean_B, chance_B = rng.random((2, self.batch_size))
        # Drawn last, so that without weights everything is as it was before there were any.
        doubt_B = rng.random(self.batch_size) if self.weights else None
        # Both numbers are drawn for every item, used or not, so one item never shifts the next.
        items = []
        for place in range(self.batch_size):
            normal = self._normal(first + place)
            samples = self.samples[normal]
            if samples and clean_B[place] >= self.clean_share:
                item = samples[int(chance_B[place] * len(samples))]
                # A sample of weight 0.5 takes its turn half of the time, else the normal does.
                doubted = doubt_B is not None and doubt_B[place] >= self.weights.get(item, 1.0)
                items.append(normal if doubted else item)
            else:
                items.append(normal)
        return items

    def _normal(self, position: int) -> int:
        """The normal at a position of the endless order."""
        # Pass number, and the place within it.
        number, place = divmod(position, len(self.samples))
        return int(self._order(number)[place])

    def _order(self, number: int) -> np.ndarray:
        """The order of a pass. The latest one is cached, as every item of a batch needs it."""
        if self._pass[0] != number:
            rng = np.random.default_rng([self.seed, ORDER, number])
            self._pass = number, rng.permutation(len(self.samples))
        return self._pass[1]

    _pass: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

"""One fold: a fit without a part of the training split, and what it says about that part.

    fold = FoldTask(job, version, out, compute, inputs, identity, kept, number, count)
    part = fold.fit(watcher)         # assemble -> prepare -> steps -> scores
    part.judged, part.validation     # of the part, and of the validation split

It runs in the process of the fit of all (`cross_fit`), or in one of its own (`fold_process`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detectors.base import Detector, Schedule
from detectors.data.batches import fixed_subset
from detectors.data.views import NO_WEIGHTS, Place
from detectors.training.distributed import Ranks
from detectors.training.fit import Fit
from detectors.training.fit_data import FitData, sample_places
from detectors.training.held_out import HeldOut
from detectors.training.job import TrainJob
from detectors.training.progress import Watcher
from detectors.training.run_identity import Inputs
from detectors.training.validation import Validation
from pipeline.dataset.version import Version
from pipeline.models.device import Compute

# Samples that all parts together are judged on: some dozens of each kind are enough to choose among
# a few settings, and scoring takes time.
PAIRS = 400


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Held-out images of one fit, or of all; `held_fp32` in fp32, None where that is the precision
    anyway."""

    held: HeldOut
    held_fp32: HeldOut | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What a fit without a part says about that part, and about the validation split."""

    judged: Judged
    validation: Judged


@dataclass(frozen=True, slots=True, eq=False)
class FoldTask:
    """Fold `number` of `count`: everything that its fit depends on.

    `out` holds its resume states; `kept` is the step whose weights the fit of all keeps, and
    `identity` that of the whole training.
    """

    job: TrainJob
    version: Version
    out: Path
    compute: Compute
    inputs: Inputs
    identity: dict[str, Any]
    kept: int
    number: int
    count: int

    def fit(self, watcher: Watcher, parent: Detector | None = None) -> Part:
        """Fit without the part, and judge; continues from the last resume state in `out`.

        `parent` is the detector of all images, from which one in the same process can reuse what it
        has computed.
        """
        weights = self.inputs.reviewed.weights if self.inputs.reviewed else NO_WEIGHTS
        whole = FitData.of(self.version, weights)
        data = FitData.folds(self.version, self.count, weights)[self.number]
        # As many steps as the kept weights have seen: the part must not choose its own end.
        schedule = self.job.recipe.schedule
        fixed = {
            "steps": self.kept if schedule.steps else 0, "stop_on": "never", "validate_every": 0,
        }  # fmt: skip
        recipe = replace(
            self.job.recipe, schedule=Schedule.model_validate(schedule.model_dump() | fixed)
        )
        fit = Fit(
            replace(self.job, recipe=recipe, board=False),
            data, self.out, self.compute, Ranks(), watcher, self.inputs,
            self.identity | {"fold": [self.number, self.count]},
            name=f", fold {self.number + 1} of {self.count}", parent=parent,
        )  # fmt: skip
        fit.run()
        samples = _samples(whole)
        places = sample_places(fit.validation.pairs)
        judged = judge(fit, [at for at, place in enumerate(places) if place in samples])
        own = Judged(
            judged.held.of_fold(self.number),
            None if judged.held_fp32 is None else judged.held_fp32.of_fold(self.number),
        )
        common = Validation(fit.detector, whole, schedule, self.compute, self.job.seed)
        return Part(own, judge(fit, [], common))


def judge(fit: Fit, chosen: list[int] | None = None, others: Validation | None = None) -> Judged:
    """The fit's own held-out images, with all their samples or the chosen ones.

    Or `others`, by the fit as it is.
    """
    validation = others or fit.validation
    held, held_fp32 = validation.judge(fit.compute, chosen, calibrate=others is None), None
    # The same detector in fp32: its statistics stay those of the precision in use.
    if fit.compute.reduced and not fit.detector.exact:
        exact = Compute(fit.compute.device, torch.float32)
        held_fp32 = validation.judge(exact, chosen, calibrate=False)
    return Judged(held, held_fp32)


def _samples(data: FitData) -> set[Place]:
    """The samples that the parts together are judged on.

    The same however many parts there are, so that detectors are compared on the same ones.
    """
    places = sample_places(data.fitted_pairs())
    return {places[at] for at in fixed_subset(len(places), PAIRS)}

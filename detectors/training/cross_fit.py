"""Cross-fitting: every training normal is judged by a fit that has not seen it.

With 20 normals, a validation split of two says nothing about false alarms. So the training split is
divided into parts, and for each part the detector is fitted once more without it, with the same
settings and seed. The parts of the scores of all these images (see `detectors.base`) then set one
scale, one fusion and one threshold, as in cross-conformal prediction (Vovk, Annals of Mathematics
and Artificial Intelligence 74, 2015). These fits see fewer images than the detector that is kept,
so their scores are a little high and the thresholds a little cautious.

    judged = cross_fit(fit)          # scores by the fit itself and by those of the parts
"""

import shutil
from dataclasses import dataclass, replace

import torch

from detectors.base import Schedule
from detectors.data.batches import fixed_subset
from detectors.data.views import Place
from detectors.training.fit import Fit
from detectors.training.fit_data import FitData, sample_places
from detectors.training.held_out import HeldOut, joined
from pipeline.models.device import Compute

# Fits of single parts, with their own resume states, below the folder of the checkpoint.
FOLDS = "folds"
# Samples that all parts together are judged on: some dozens of each kind are enough to choose among
# a few settings, and scoring takes time.
PAIRS = 400


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Held-out images of all fits; `held_fp32` in fp32, None where that is the precision anyway."""

    held: HeldOut
    held_fp32: HeldOut | None = None


def cross_fit(fit: Fit) -> Judged:
    """Judge the fit on the validation split, and with `folds` on the training split, too.

    Does not run again what an interrupted run has finished steps of. Under torchrun there are no
    parts, as the other processes wait for the end of the first.
    """
    judged = [_judge(fit)]
    folds = fit.recipe.schedule.folds
    if folds and fit.ranks.ranks > 1:
        fit.watcher.say("no cross-fitting with several processes: thresholds rest on validation")
    elif folds and len(fit.data.fitted) < 2:
        fit.watcher.say("no cross-fitting with a single normal: thresholds rest on validation")
    elif folds:
        parts = FitData.folds(fit.data.version, folds, fit.data.weights)
        samples = _samples(fit.data)
        for number, data in enumerate(parts):
            judged.append(_without(fit, data, samples, number, len(parts)))
        shutil.rmtree(fit.out / FOLDS, ignore_errors=True)
    exact = [one.held_fp32 for one in judged if one.held_fp32 is not None]
    return Judged(joined([one.held for one in judged]), joined(exact) if exact else None)


def _samples(data: FitData) -> set[Place]:
    """The samples that the parts together are judged on.

    The same however many parts there are, so that detectors are compared on the same ones.
    """
    places = sample_places(data.fitted_pairs())
    return {places[at] for at in fixed_subset(len(places), PAIRS)}


def _without(fit: Fit, data: FitData, samples: set[Place], number: int, count: int) -> Judged:
    """The held-out images of one part."""
    schedule = fit.recipe.schedule
    # As many steps as the kept weights have seen: the part must not choose its own end.
    fixed = {"steps": fit.kept if schedule.steps else 0, "stop_on": "never", "validate_every": 0}
    recipe = replace(fit.recipe, schedule=Schedule.model_validate(schedule.model_dump() | fixed))
    part = Fit(
        replace(fit.job, recipe=recipe, board=False),
        data, fit.out / FOLDS / str(number), fit.compute, fit.ranks, fit.watcher, fit.inputs,
        fit.identity | {"fold": [number, count]}, name=f", fold {number + 1} of {count}",
        parent=fit.detector,
    )  # fmt: skip
    part.run()
    places = sample_places(part.validation.pairs)
    judged = _judge(part, [at for at, place in enumerate(places) if place in samples])
    return Judged(
        judged.held.of_fold(number),
        None if judged.held_fp32 is None else judged.held_fp32.of_fold(number),
    )


def _judge(fit: Fit, chosen: list[int] | None = None) -> Judged:
    """The fit's own held-out images, with all their samples or the chosen ones."""
    held, held_fp32 = fit.validation.judge(fit.compute, chosen), None
    # The same detector in fp32: its statistics stay those of the precision in use.
    if fit.compute.reduced and not fit.detector.exact:
        exact = Compute(fit.compute.device, torch.float32)
        held_fp32 = fit.validation.judge(exact, chosen, calibrate=False)
    return Judged(held, held_fp32)

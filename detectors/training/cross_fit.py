"""Cross-fitting: every training normal is judged by a fit that has not seen it.

With 20 normals, a validation split of two says nothing about false alarms. So the training split is
divided into parts, and for each part the detector is fitted once more without it, with the same
settings and seed. The parts of the scores of all these images (see `detectors.base`) then set one
scale, one fusion and one threshold, as in cross-conformal prediction (Vovk, Annals of Mathematics
and Artificial Intelligence 74, 2015). These fits see fewer images than the detector that is kept,
so their scores are too high: the validation split, which none of them sees, tells by how much
(`detectors.training.fold_shift`).

    judged = cross_fit(fit)          # scores by the fit itself and by those of the parts
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from detectors.base import Schedule
from detectors.data.batches import fixed_subset
from detectors.data.views import Place
from detectors.training.fit import Fit
from detectors.training.fit_data import FitData, sample_places
from detectors.training.fold_shift import fold_shift
from detectors.training.held_out import HeldOut, joined
from detectors.training.validation import Validation
from pipeline.models.device import Compute

# Fits of single parts, with their own resume states, below the folder of the checkpoint.
FOLDS = "folds"
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
class _Part:
    """What a fit without a part says about that part, and about the validation split."""

    data: FitData
    judged: Judged
    validation: Judged


def cross_fit(fit: Fit) -> Judged:
    """Judge the fit on the validation split, and with `folds` on the training split, too.

    Does not run again what an interrupted run has finished steps of. Under torchrun there are no
    parts, as the other processes wait for the end of the first.
    """
    whole, parts = _judge(fit), list[_Part]()
    folds = fit.recipe.schedule.folds
    if folds and fit.ranks.ranks > 1:
        fit.watcher.say("no cross-fitting with several processes: thresholds rest on validation")
    elif folds and len(fit.data.fitted) < 2:
        fit.watcher.say("no cross-fitting with a single normal: thresholds rest on validation")
    elif folds:
        splits = FitData.folds(fit.data.version, folds, fit.data.weights)
        samples = _samples(fit.data)
        for number, data in enumerate(splits):
            parts.append(_without(fit, data, samples, number, len(splits)))
        shutil.rmtree(fit.out / FOLDS, ignore_errors=True)
    held = _all(whole.held, [(one.data, one.judged.held, one.validation.held) for one in parts])
    if whole.held_fp32 is None:
        return Judged(held)
    exact = [(one.data, one.judged.held_fp32, one.validation.held_fp32) for one in parts]
    return Judged(held, _all(whole.held_fp32, exact))


def _all(
    whole: HeldOut, parts: Sequence[tuple[FitData, HeldOut | None, HeldOut | None]]
) -> HeldOut:
    """The images of all fits, those of parts as the fit of all would score them."""
    found = [(data, own, seen) for data, own, seen in parts if own is not None and seen is not None]
    if not found or not len(whole.normal_parts_NP):
        return joined([whole, *(own for _, own, _ in found)])
    places = [(shard, row) for shard, row in whole.normal_places_N2.tolist()]
    shift_P = fold_shift(
        whole.normal_parts_NP,
        np.stack([seen.normal_parts_NP for _, _, seen in found]),
        # A part is a run of images: those of the validation split within it lack neighbours.
        np.array(
            [[not min(data.held) < at < max(data.held) for at in places] for data, *_ in found]
        ),
    )
    return joined([whole, *(own.shifted(shift_P) for _, own, _ in found)])


def _samples(data: FitData) -> set[Place]:
    """The samples that the parts together are judged on.

    The same however many parts there are, so that detectors are compared on the same ones.
    """
    places = sample_places(data.fitted_pairs())
    return {places[at] for at in fixed_subset(len(places), PAIRS)}


def _without(fit: Fit, data: FitData, samples: set[Place], number: int, count: int) -> _Part:
    """The held-out images of one part, judged by a fit without it."""
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
    own = Judged(
        judged.held.of_fold(number),
        None if judged.held_fp32 is None else judged.held_fp32.of_fold(number),
    )
    common = Validation(part.detector, fit.data, schedule, fit.compute, fit.job.seed)
    return _Part(data, own, _judge(part, [], common))


def _judge(fit: Fit, chosen: list[int] | None = None, others: Validation | None = None) -> Judged:
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

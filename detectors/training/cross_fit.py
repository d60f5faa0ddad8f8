"""Cross-fitting: every training normal is judged by a fit that has not seen it.

With 20 normals, a validation split of two says nothing about false alarms. So the training split is
divided into parts, and for each part the detector is fitted once more without it, with the same
settings and seed. The parts of the scores of all these images (see `detectors.base`) then set one
scale, one fusion and one threshold, as in cross-conformal prediction (Vovk, Annals of Mathematics
and Artificial Intelligence 74, 2015). These fits see fewer images than the detector that is kept,
so their scores are too high: the validation split, which none of them sees, tells by how much
(`detectors.training.fold_shift`).

    with CrossFit(fit) as crossed:
        crossed.run()                   # folds run beside it where there are threads for them
        judged = crossed.judged()       # scores by the fit itself and by those of the parts
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

import numpy as np
import torch

from detectors.data.views import Place
from detectors.training.fit import Fit
from detectors.training.fit_data import FitData
from detectors.training.fold import FoldTask, Judged, Part, judge
from detectors.training.fold_process import read_part
from detectors.training.fold_shift import fold_shift
from detectors.training.folds_beside import FoldsBeside, fits_at_once
from detectors.training.held_out import HeldOut, joined
from detectors.training.progress import Watcher

# Fits of single parts, with their own resume states, below the folder of the checkpoint.
FOLDS = "folds"


class CrossFit:
    """The folds of a fit: side by side on a CPU with several threads, which they share; or one
    after the other.

    Does not run again what an interrupted run has finished steps of. Under torchrun there are no
    folds, as the other processes wait for the end of the first. As a context manager it ends what
    still runs, and restores the number of threads.
    """

    def __init__(self, fit: Fit) -> None:
        self.fit, self.threads = fit, torch.get_num_threads()
        self.splits = _splits(fit)
        self.beside: FoldsBeside | None = None
        self._ends = ExitStack()
        self._ends.callback(torch.set_num_threads, self.threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def run(self) -> None:
        """The fit of all. Where a fold beside it fails, it saves its state and raises that error
        after its step: the fold would fail again at the end."""
        # With early stopping the folds take as many steps as the fit of all has turned out to need.
        if self.fit.recipe.schedule.stop_on == "never":
            self._start(beside=1)
        watcher, beside = self.fit.watcher, self.beside
        if beside:
            self.fit.watcher = _Heeding(watcher, beside)
        try:
            self.fit.run()
        except KeyboardInterrupt:
            if beside and beside.failure and not watcher.wants_to_stop():
                raise beside.failure from None
            raise
        finally:
            self.fit.watcher = watcher

    def judged(self) -> Judged:
        """Images held out of the fit, which has run, and of its folds, which are awaited."""
        whole = judge(self.fit)
        if not self.beside:
            self._start(beside=0)
        parts = self._side_by_side(self.beside) if self.beside else self._in_turn()
        fits = list(zip((split.held for split in self.splits), parts, strict=True))
        shutil.rmtree(self.fit.out / FOLDS, ignore_errors=True)
        held = _all(
            whole.held, [(one, part.judged.held, part.validation.held) for one, part in fits]
        )
        if whole.held_fp32 is None:
            return Judged(held)
        exact = [(one, part.judged.held_fp32, part.validation.held_fp32) for one, part in fits]
        return Judged(held, _all(whole.held_fp32, exact))

    def _start(self, beside: int) -> None:
        """Start folds in processes of their own, with `beside` other fits in this one."""
        fit = self.fit
        at_once = fits_at_once(fit, len(self.splits) + beside, self.threads)
        if at_once == 1:
            return
        threads = max(1, self.threads // at_once)
        each = f"{threads} thread{'s' if threads > 1 else ''} each"
        fit.watcher.say(
            f"{len(self.splits)} folds in processes of their own: {at_once} fits at once, {each}; "
            "--threads 1 runs one after the other"
        )
        # A fit rounds as its number of threads makes it: all of them have the same.
        torch.set_num_threads(threads)
        kept = fit.recipe.schedule.steps if beside else fit.kept
        self.beside = self._ends.enter_context(FoldsBeside(self._folds(kept), at_once, threads))
        self.beside.start(at_once - beside)

    def _folds(self, kept: int) -> list[FoldTask]:
        fit = self.fit
        return [
            FoldTask(
                fit.job, fit.data.version, fit.out / FOLDS / str(number), fit.compute, fit.inputs,
                fit.identity, kept, number, len(self.splits),
            )
            for number in range(len(self.splits))
        ]  # fmt: skip

    def _side_by_side(self, beside: FoldsBeside) -> list[Part]:
        fit = self.fit
        title = f"{fit.data.version.category}: {fit.recipe.name}, {len(self.splits)} folds"
        beside.finish(fit.watcher, title, fit.kept)
        return [read_part(fold.out) for fold in beside.folds]

    def _in_turn(self) -> list[Part]:
        return [
            fold.fit(self.fit.watcher, self.fit.detector) for fold in self._folds(self.fit.kept)
        ]


class _Heeding(Watcher):
    """Another watcher, which also wants to stop where a fold has failed."""

    def __init__(self, watcher: Watcher, beside: FoldsBeside) -> None:
        self.watcher, self.beside = watcher, beside

    def say(self, text: str) -> None:
        self.watcher.say(text)

    def begin(self, title: str, total: int, done: int = 0) -> None:
        self.watcher.begin(title, total, done)

    def step(self, done: int, losses: Mapping[str, float]) -> None:
        self.watcher.step(done, losses)

    def end(self) -> None:
        self.watcher.end()

    def wants_to_stop(self) -> bool:
        return self.beside.failure is not None or self.watcher.wants_to_stop()


def _splits(fit: Fit) -> list[FitData]:
    """The fits that each lack a part; none, with a remark, where there cannot be any."""
    asked, normals = fit.recipe.schedule.folds, len(fit.data.fitted)
    folds = fit.recipe.schedule.folds_of(normals)
    if folds and fit.ranks.ranks > 1:
        fit.watcher.say("no cross-fitting with several processes: thresholds rest on validation")
    elif folds and normals < 2:
        fit.watcher.say("no cross-fitting with a single normal: thresholds rest on validation")
    elif folds:
        if folds < asked:
            fit.watcher.say(
                f"cross-fitting in {folds} parts instead of {asked}: {normals} training images are "
                f"enough for that; --set fold_normals=0 for {asked}"
            )
        return FitData.folds(fit.data.version, folds, fit.data.weights)
    return []


def _all(
    whole: HeldOut,
    parts: Sequence[tuple[tuple[Place, ...], HeldOut | None, HeldOut | None]],
) -> HeldOut:
    """The images of all fits, those of parts as the fit of all would score them."""
    found = [(part, own, seen) for part, own, seen in parts if own is not None and seen is not None]
    if not found or not len(whole.normal_parts_NP):
        return joined([whole, *(own for _, own, _ in found)])
    places = [(shard, row) for shard, row in whole.normal_places_N2.tolist()]
    shift_P = fold_shift(
        whole.normal_parts_NP,
        np.stack([seen.normal_parts_NP for _, _, seen in found]),
        # A part is a run of images: those of the validation split within it lack neighbours.
        np.array([[not min(part) < at < max(part) for at in places] for part, *_ in found]),
    )
    return joined([whole, *(own.shifted(shift_P) for _, own, _ in found)])

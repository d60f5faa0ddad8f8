"""The one training job: any detector, any device, resumed bit for bit after a kill.

    report = train(TrainJob(recipe=configure("efficientad", "cpu"), version=folder, out=out))

    fit on the training split -> [fits without a part of it] -> fuse -> thresholds -> checkpoint

Under `torchrun` all processes call `train`; rank 0 validates and writes.
"""

import os
import shutil
from contextlib import ExitStack

import torch

from detectors.training import resume
from detectors.training.calibration import Calibration
from detectors.training.checkpoint import Card, ValidationPass, VersionCard, save, software
from detectors.training.cross_fit import CrossFit
from detectors.training.distributed import process_group
from detectors.training.drift import drift_note
from detectors.training.fit import Fit
from detectors.training.fit_data import FitData
from detectors.training.held_out import write_held_out
from detectors.training.job import COMPILE_MODES, TrainJob, TrainReport
from detectors.training.precision import precision_name, resolve
from detectors.training.precision_parity import DEVIATIONS, RANKS
from detectors.training.progress import Watcher
from detectors.training.run_identity import Inputs, finished, identity
from pipeline.dataset.version import open_version
from pipeline.errors import UserError
from pipeline.utils.files import locked_if_free, named_disk_errors, require_writable, write_atomic
from pipeline.utils.free_cpus import cpus


def train(job: TrainJob, watcher: Watcher | None = None) -> TrainReport:
    """Train a detector on a version and leave a checkpoint in `job.out`.

    The same job again continues where a killed run stopped, or returns at once when it is done.
    UserError when `job.out` holds another training, and when a loss stops being finite.
    """
    check_options(job)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    # Opening checks the index and the sizes of the shards.
    version = open_version(job.version)
    with process_group(job.device) as ranks, ExitStack() as stack:
        # Under torchrun every process has a GPU of its own.
        compute = resolve(ranks.device(job.device), job.precision)
        inputs = Inputs.of(job)
        wanted = identity(job, version, inputs)
        if card := finished(job.out, wanted, job.precision):
            # A run killed between its checkpoint and its cleanup leaves resume states behind.
            if ranks.first:
                shutil.rmtree(job.out / resume.RESUME, ignore_errors=True)
            return _report(job, card, {})
        if ranks.first:
            require_writable(job.out, by_libraries=True)
            # The lock is held until the training ends, and released by the system if it is killed.
            if not stack.enter_context(locked_if_free(job.out)):
                raise UserError(
                    f"another training writes to {job.out}; wait for it or name another folder"
                )
        # Other ranks report nothing.
        watcher = watcher if watcher and ranks.first else Watcher()
        # A resume state is bound to precision and processes as well; a finished checkpoint is not.
        bound = wanted | {"precision": precision_name(compute), "processes": ranks.ranks}
        reviewed = inputs.reviewed
        data = FitData.of(version, reviewed.weights) if reviewed else FitData.of(version)
        if reviewed:
            watcher.say(reviewed.note)
        if compute.device.type == "cpu":
            _choose_threads(job, watcher, ranks.first)
        fit = Fit(job, data, job.out, compute, ranks, watcher, inputs, bound)
        with CrossFit(fit) as crossed:
            crossed.run()
            report = TrainReport(job.out, fit.done, fit.spent(), rates=fit.rates)
            if ranks.first:
                report = _report(job, _finish(fit, crossed), fit.rates)
        if ranks.first:
            shutil.rmtree(job.out / resume.RESUME, ignore_errors=True)
        # No process returns before rank 0 has written the checkpoint.
        ranks.broadcast(0)
        return report


def _choose_threads(job: TrainJob, watcher: Watcher, first: bool) -> None:
    """As many threads as CPUs are free: more wait for each other. A resumed training has those that
    it started with, because their number changes rounding; the `first` process notes it."""
    note = job.out / resume.RESUME / resume.THREADS
    # What was killed before its first state starts over.
    resumed = note.is_file() and resume.newest(job.out) is not None
    # Nobody asked for a number; nor has another part of this program set it for what follows.
    if job.threads is None and "OMP_NUM_THREADS" not in os.environ:
        if resumed:
            torch.set_num_threads(int(note.read_text()))
            why = "as at the start of this training"
        else:
            found = cpus()
            torch.set_num_threads(found.free)
            why = f"as {found.describe()}"
        watcher.say(f"threads: {torch.get_num_threads()}, {why}; --threads N overrides")
    if first and not resumed:
        with named_disk_errors(job.out):
            note.parent.mkdir(exist_ok=True)
            write_atomic(note, str(torch.get_num_threads()).encode())


def check_options(job: TrainJob) -> None:
    """UserError for options that this detector cannot take; for a preview, too."""
    if job.compile not in COMPILE_MODES:
        *most, last = COMPILE_MODES
        raise UserError(f"compile is {', '.join(most)} or {last}; got {job.compile!r}")
    if job.threads is not None and job.threads < 1:
        raise UserError(f"threads is at least 1; got {job.threads}")
    if not job.recipe.settings.trains():
        idle = ["--start"] if job.start else []
        idle += ["--compile"] if job.compile != "off" else []
        if idle:
            raise UserError(
                f"{job.recipe.name} with these settings trains no network, so it takes no "
                f"{' or '.join(idle)}; leave it out"
            )


def _finish(fit: Fit, crossed: CrossFit) -> Card:
    """Scores of images that no fit has seen, thresholds, precision parity, checkpoint."""
    judged = crossed.judged()
    calibration, held = fit.validation.fuse(judged.held)
    # Thresholds of the same detector in fp32, the precision of ONNX and of most machines.
    calibration_fp32 = None
    if judged.held_fp32 is not None:
        calibration_fp32, _ = fit.validation.measure(judged.held_fp32)
    if drift := drift_note(fit.data.version):
        calibration = _noted(calibration, drift)
        calibration_fp32 = calibration_fp32 and _noted(calibration_fp32, drift)
    history = fit.stopping.history
    # Without a pass at the kept step, the final calibration supplies its AUROC.
    if not any(earlier.step == fit.kept for earlier in history):
        loss = fit.validation.loss(fit.kept) if fit.recipe.schedule.steps else None
        by_kind = calibration.auroc_by_kind
        final = ValidationPass(
            step=fit.kept, loss=loss, auroc=calibration.auroc, auroc_by_kind=by_kind
        )
        history = [*history, final]
    parity = fit.validation.parity()
    if parity.verdict == "differs":
        fit.watcher.say(
            f"scores in {parity.precision} are up to {parity.difference:.2f} standard "
            f"deviations from fp32 (rank correlation {parity.ranks:.3f}; expected at most "
            f"{DEVIATIONS} and at least {RANKS}): train and score with precision fp32"
        )
    card = Card(
        detector=fit.recipe.name,
        settings=fit.recipe.settings.model_dump(mode="json"),
        schedule=fit.recipe.schedule.model_dump(mode="json"),
        version=VersionCard.of(fit.data.version),
        teacher=fit.inputs.teacher_card,
        start=fit.inputs.start_card,
        reviews=fit.inputs.reviewed.card if fit.inputs.reviewed else None,
        seed=fit.job.seed,
        processes=fit.ranks.ranks,
        steps=fit.done,
        best_step=fit.kept,
        stopped_early=fit.done < fit.recipe.schedule.steps,
        seconds=fit.spent(),
        precision=precision_name(fit.compute),
        device=fit.compute.describe(),
        software=software(),
        calibration=calibration,
        calibration_fp32=calibration_fp32,
        parity=parity,
        history=tuple(history),
        parameters=sum(value.numel() for value in fit.detector.parameters()),
    )
    write_held_out(fit.job.out, held)
    return save(fit.job.out, fit.detector, card)


def _noted(calibration: Calibration, drift: str) -> Calibration:
    """The calibration with a note about what its thresholds hold for, if it has any."""
    if calibration.threshold_5 is None:
        return calibration
    return calibration.model_copy(update={"notes": calibration.notes | {"drift": drift}})


def _report(job: TrainJob, card: Card, rates: dict[str, float]) -> TrainReport:
    """The report of a finished checkpoint."""
    # The loss of the kept weights; None for detectors without a loss.
    best = next((one for one in card.history if one.step == card.best_step), None)
    validation = card.calibration.model_dump(mode="json") | {
        "loss": best.loss if best else None,
        "best_step": card.best_step,
        "parity": card.parity.model_dump(mode="json"),
    }
    return TrainReport(job.out, card.steps, card.seconds, validation, card.stopped_early, rates)

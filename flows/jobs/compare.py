"""One comparison of detectors, as the command, the flow and the demo run it.

    plan = planned(job)                        # which trainings, where, and what is left out
    failed = train_all(plan, bar)              # the errors of those that could not be trained
    content = compared(job, plan, failed, bar) # judges, recommends, opens the real test, writes

Each training is resumable by itself, so a comparison that was interrupted continues where it
stopped. PyTorch is imported inside the functions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectors.training.job import TrainJob
from flows.jobs.category_options import Choices, settings_of
from flows.jobs.evaluate import NUMBERS, PAGE, REPORT, EvaluateJob, evaluate_once
from flows.jobs.train import home_of, job_of_some, placed, planned_version, train
from pipeline.dataset.files import INDEX
from pipeline.dataset.version import Version, no_version, open_version
from pipeline.errors import AnomalysmithError, UserError

if TYPE_CHECKING:
    from detectors.comparison.result import RealTest
    from detectors.training.progress import Watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareJob:
    """Settings of one comparison.

    `version`       folder of the dataset version
    `out`           folder of the page and the checkpoints; None: beside the store
    `detectors`     names; empty: all that fit the machine
    `profile`       `paper`, `cpu` or `tiny`; `auto`: `paper` with a GPU, else `cpu`
    `false_alarms`  share of good products that may be rejected, 0 to 1
    `changes`       DETECTOR.KEY=VALUE, settings of single detectors
    `reviews`       decisions of people about the version: rejected samples are left out
    `test`          open the real test split, where there is one, after the recommendation

    The others are options of a training; `steps` leaves detectors without steps alone.
    """

    version: Path
    out: Path | None = None
    detectors: tuple[str, ...] = ()
    profile: str = "auto"
    false_alarms: float = 0.05
    steps: int | None = None
    size: int | None = None
    changes: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    workers: int = 0
    threads: int | None = None
    reviews: Path | None = None
    test: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """The trainings of a comparison in order, those left out with the reason, and the folder."""

    version: Version
    profile: str
    out: Path
    jobs: tuple[TrainJob, ...]
    left_out: Mapping[str, str]


def planned(job: CompareJob) -> Plan:
    """Resolve the trainings; trains nothing and writes nothing.

    UserError for a wrong rate, an unknown detector or setting, a version that holds out too little,
    and when no detector is left.
    """
    from detectors.registry import DETECTORS

    if not 0 < job.false_alarms < 1:
        raise UserError(
            f"expected --false-alarms between 0 and 1, such as 0.05 for 5 %; got {job.false_alarms}"
        )
    version = open_version(job.version)
    changes = _by_detector(job.changes)
    gpu = _has_gpu(job.device)
    profile = job.profile
    if profile == "auto":
        profile = "paper" if gpu else "cpu"
    out = job.out or home_of(version.dir.parent.parent) / version.category / version.name
    jobs, left_out = [], {}
    # A name that is given twice is trained once.
    names = list(dict.fromkeys(job.detectors)) or list(DETECTORS)
    if unknown := set(changes) - set(names):
        raise UserError(f"--set names {min(unknown)!r}, which is not among {', '.join(names)}")
    for name in names:
        one = _training(job, name, profile, version, out, changes.get(name, ()))
        # Detectors that the user names are trained, or their error is the user's to read.
        twin = DETECTORS[name].cpu_is if profile == "cpu" and name not in changes else ""
        why = "" if job.detectors else _unfit(one, profile, gpu, twin)
        if why:
            left_out[name] = why
        else:
            jobs.append(replace(one, out=out / placed(one, out).out.name))
    if not jobs:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise UserError(f"no detector fits this machine with profile {profile}: {reasons}")
    _require_held_out(version, all(one.recipe.schedule.folds for one in jobs))
    return Plan(version, profile, out, tuple(jobs), left_out)


def version_of(target: str, manifest: Path | None = None, store: Path | None = None) -> Path:
    """The folder of a version: `target` itself, or the version of that category of the manifest.

    Of a category it is the version that the manifest's settings generate, or the newest where that
    is missing, as in the flows. UserError when there is none.
    """
    folder = Path(target)
    if (folder / INDEX).is_file():
        return folder
    # A word without a slash that is no folder: a category.
    if folder.exists() or len(folder.parts) != 1:
        raise no_version(folder)
    choices = Choices(manifest=manifest, categories=(target,), store=store)
    (settings,) = settings_of(choices)
    return planned_version(settings)[0].dir


def train_all(plan: Plan, watcher: "Watcher") -> dict[str, AnomalysmithError]:
    """Train every detector of the plan, one after another; errors of single ones by name.

    Finished trainings return at once, interrupted ones continue.
    """
    failed: dict[str, AnomalysmithError] = {}
    for number, one in enumerate(plan.jobs):
        # Detectors without steps show no bar of their own.
        watcher.say(f"detector {number + 1} of {len(plan.jobs)}: {one.recipe.name}")
        try:
            train(one, watcher)
        except AnomalysmithError as error:
            # The others can be compared all the same.
            watcher.say(f"{one.recipe.name} is left out: {error}")
            failed[one.recipe.name] = error
    # Nothing to compare: the error itself says more than an empty page.
    if len(failed) == len(plan.jobs):
        raise next(iter(failed.values()))
    return failed


def compared(
    job: CompareJob, plan: Plan, failed: Mapping[str, str], watcher: "Watcher"
) -> dict[str, Any]:
    """Judge the trained detectors, recommend one, write the page; returns JSON.

    `failed` are detectors of the plan that could not be trained, with the error. The keys beside
    those of docs/compare.md are `page` and `text`, the tables for a terminal.
    """
    from detectors.comparison.examples import pictures
    from detectors.comparison.judge import judge, measure
    from detectors.comparison.page import write_comparison
    from detectors.comparison.recommendation import recommend
    from detectors.comparison.result import Comparison, LeftOut
    from detectors.comparison.text import as_text
    from detectors.training.checkpoint import load

    jobs = [one for one in plan.jobs if one.recipe.name not in failed]
    measured, shown = [], {}
    watcher.begin("scoring held-out images", len(jobs))
    for number, one in enumerate(jobs):
        # One detector in memory at a time.
        try:
            restored = load(one.out, job.device, job.precision)
            measured.append(measure(one.recipe.name, one.out, restored, plan.version))
        except AnomalysmithError as error:
            # The others can be compared all the same, unless there are none.
            if number + 1 == len(jobs) and not measured:
                raise
            failed = {**failed, one.recipe.name: str(error)}
        watcher.step(number + 1, {})
    watcher.end()
    jobs = [one for one in jobs if one.recipe.name not in failed]
    rows, judged = judge(measured, job.false_alarms)
    watcher.begin("drawing hits and misses", len(judged))
    for number, each in enumerate(judged):
        restored = load(each.checkpoint, job.device, job.precision)
        shown[each.name] = pictures(each, restored, plan.version, rows)
        watcher.step(number + 1, {})
    watcher.end()
    left_out = [LeftOut(name, why) for name, why in plan.left_out.items()]
    left_out += [LeftOut(name, why, failed=True) for name, why in failed.items()]
    found = Comparison(
        version=_facts(plan.version, job.reviews),
        profile=plan.profile,
        seed=job.seed,
        false_alarms=job.false_alarms,
        rows=rows,
        detectors=judged,
        recommendation=recommend([one.candidate for one in judged]),
        left_out=tuple(left_out),
    )
    # Only now: the recommendation stands, and no real image can change it any more.
    if job.test and plan.version.index["counts"]["test"]["images"]:
        limits = {one.name: one.sensitivity.threshold for one in judged}
        real = {one.recipe.name: _real(one, job, limits, watcher) for one in jobs}
        found = replace(found, real=real)
    page = write_comparison(found, shown, plan.version, plan.out)
    return found.to_json() | {"page": str(page), "text": as_text(found)}


def _real(
    one: TrainJob, job: CompareJob, limits: Mapping[str, float], watcher: "Watcher"
) -> "RealTest":
    """The real test of one detector, from the report that `evaluate` writes into its checkpoint."""
    from detectors.comparison.real_test import real_test

    out = one.out / REPORT
    evaluate_once(
        EvaluateJob(
            checkpoint=one.out, version=one.version, out=out, device=job.device,
            precision=job.precision,
        ),
        watcher,
    )  # fmt: skip
    # The file has the scores of all images, which the result does not.
    return real_test(json.loads((out / NUMBERS).read_bytes()), limits[one.recipe.name], out / PAGE)


def _training(
    job: CompareJob, name: str, profile: str, version: Version, out: Path, changes: tuple[str, ...]
) -> TrainJob:
    """The training of one detector, not placed yet."""
    options = {
        "detector": name, "profile": profile, "size": job.size, "changes": changes,
        "version": version.dir, "out": out, "seed": job.seed, "device": job.device,
        "precision": job.precision, "workers": job.workers, "threads": job.threads,
        "steps": job.steps, "reviews": job.reviews,
    }  # fmt: skip
    return job_of_some(options)


def _unfit(one: TrainJob, profile: str, gpu: bool, twin: str) -> str:
    """Why a detector does not fit this machine, or need not be compared; empty when it does."""
    from pipeline.models.weights import store as weights

    if twin:
        return f"in the profile {profile} it is the same as {twin}"
    steps, teacher = one.recipe.schedule.steps, one.recipe.settings.teacher
    if profile == "paper" and steps and not gpu:
        return f"{steps:,} steps at the size of its paper need a GPU; name it to train it anyway"
    if weights.state(teacher) == "missing":
        return f"its weights {teacher!r} are missing; {weights.entry(teacher).get}"
    return ""


def _has_gpu(device: str) -> bool:
    if device == "cpu":
        return False
    import torch

    return torch.cuda.is_available()


def _by_detector(changes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """`nearest.bank=64` as a setting of `nearest`."""
    found: dict[str, tuple[str, ...]] = {}
    for change in changes:
        name, dot, rest = change.partition(".")
        if not (dot and "=" in rest and "=" not in name):
            raise UserError(
                f"expected --set DETECTOR.KEY=VALUE, such as nearest.bank=500; got {change!r}"
            )
        found[name.strip()] = (*found.get(name.strip(), ()), rest)
    return found


def _require_held_out(version: Version, crossed: bool) -> None:
    """Before hours of training: UserError unless the version can tell detectors apart.

    With cross-fitting the training split is held out of one fit each, too.
    """
    splits = version.index["counts"]["splits"]
    used = list(splits.values()) if crossed else [splits.get("validation", {})]
    images, samples = (sum(split.get(key, 0) for split in used) for key in ("images", "samples"))
    if not images or not samples:
        missing = "synthetic anomalies" if images else "normals"
        raise UserError(
            f"{version.dir} holds out no {missing} to compare detectors on: generate a version "
            "with more images or a larger splits.validation_fraction"
        )


def _facts(version: Version, reviews: Path | None) -> dict[str, Any]:
    from detectors.training.drift import drift_note

    facts: dict[str, Any] = {
        "name": version.name,
        "digest": version.digest,
        "category": version.category,
        "licence": version.index.get("licence") or "",
        "folder": str(version.dir),
    }
    if drift := drift_note(version):
        facts["drift"] = drift
    return facts | ({"reviews": _reviewed(version, reviews)} if reviews else {})


def _reviewed(version: Version, reviews: Path) -> dict[str, Any]:
    """Counts and digest of the decisions that all trainings used."""
    from detectors.training.reviewed import Reviewed

    card = Reviewed.of(version, reviews).card.model_dump(mode="json")
    return card | {name: len(card[name]) for name in ("rejected", "unsure")}

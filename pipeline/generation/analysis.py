"""The stages of generation over one image, a batch of images, and a whole category.

    foreground -> proposals -> edit -> sample -> verdict

Everything here is a plain function over a plan and its cache; the command line and the Prefect
flow call the same ones. A bad image is recorded and costs nothing but itself.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.edits.donors import Donors
from pipeline.errors import ImageError
from pipeline.gate import calibration as normal
from pipeline.gate.calibration import Normality
from pipeline.generation import cache as store
from pipeline.generation.plan import (
    ANALYSIS_CODE,
    SAMPLES_CODE,
    PlannedImage,
    RunPlan,
    code_digest,
    rules_digest,
    software,
    studied,
    teacher_file,
)
from pipeline.generation.publish import Version, VersionHeader, publish
from pipeline.generation.sampler import NO_CANDIDATE, NO_EDIT, Tools, forge_samples, sample_seed
from pipeline.imaging.decode import file_digest, load_image, read_header
from pipeline.models import build as models
from pipeline.records import (
    ImageResult,
    ObjectProposals,
    TestImage,
)
from pipeline.rulebook.judge import Judge, judge_for
from pipeline.sources.listing import load_test

__all__ = [
    "NO_CANDIDATE", "NO_EDIT", "Ledger", "Outcome", "Tools", "analyse_batch", "forge_batch",
    "forge_image", "forge_samples", "pack", "sample_seed", "study", "to_study",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: counts, or the error that cost it."""

    name: str
    cached: bool = False
    accepted: int = 0
    rejected: int = 0
    error: str = ""
    analysis_seconds: float = 0.0
    samples_seconds: float = 0.0


@dataclass(slots=True)
class Ledger:
    """The outcomes of a run, added up as they come in; what a progress bar shows."""

    images: int = 0
    cached: int = 0
    accepted: int = 0
    rejected: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.images += 1
        self.cached += outcome.cached
        self.accepted += outcome.accepted
        self.rejected += outcome.rejected
        if outcome.error:
            self.failures.append({"name": outcome.name, "error": outcome.error})


def analyse_batch(plan: RunPlan, images: Sequence[PlannedImage]) -> list[Outcome]:
    """The first two stages of several images, into the cache; what can be done in parallel."""
    with plan.cache.in_use():
        return [_analysed(plan, image) for image in images]


def to_study(plan: RunPlan) -> tuple[PlannedImage, ...]:
    """The images that `study` will look at; none when what is normal is known already."""
    if plan.cache.has("normality", plan.normality_key):
        return ()
    return studied(plan.images)


def study(plan: RunPlan) -> None:
    """Learn what is normal in the category, unless the cache knows; analyses what it lacks.

    Two processes that do so at once write the same entry.
    """
    with plan.cache.in_use():
        normality_of(plan)


def forge_batch(plan: RunPlan, images: Sequence[PlannedImage]) -> list[Outcome]:
    """Several images, one after another, through all stages; the unit of work of a task."""
    with plan.cache.in_use():
        return [forge_image(plan, image) for image in images]


def forge_image(plan: RunPlan, image: PlannedImage) -> Outcome:
    """Bring one image through all stages into the cache, unless it is there already."""
    stored = plan.cache.read("samples", image.samples_key)
    if stored is not None and plan.cache.has("analysis", image.analysis_key):
        return _outcome(image, stored[1], cached=True)
    analysed = _analysed(plan, image)
    if analysed.error:
        return analysed
    started = time.perf_counter()
    image_HW3, _, proposals = _analysis(plan, image)
    attempts = forge_samples(plan.settings, image.digest, image_HW3, proposals, _tools(plan, image))
    arrays, facts = store.pack_attempts(attempts)
    plan.cache.write("samples", image.samples_key, arrays, facts)
    seconds = time.perf_counter() - started
    return replace(
        _outcome(image, facts, cached=False),
        analysis_seconds=analysed.analysis_seconds,
        samples_seconds=round(seconds, 4),
    )


def pack(
    plan: RunPlan,
    failures: Sequence[dict[str, str]],
    progress: Callable[[int], None] | None = None,
    waiting: Callable[[], None] | None = None,
) -> Version:
    """Publish what the cache holds of the plan as one version.

    The plan is saved beside the cache: it says which entries the version was made from.
    """
    from pipeline.models import device as devices

    failed = [*plan.failures, *failures]
    output = plan.settings.output
    header = VersionHeader(
        settings=plan.settings.digest_content(),
        plan_digest=plan.digest,
        weights=plan.weights,
        code_version=code_digest(ANALYSIS_CODE + SAMPLES_CODE)[:16],
        licence=plan.settings.licence,
        failures=failed,
        defects_config=plan.defects_config,
        original_size=_original_size(plan),
        limits=normality_of(plan).limits.to_json(),
        software=software()
        | {
            "compute": devices.choose(
                plan.settings.models.device, plan.settings.models.precision
            ).describe()
        },
    )
    with plan.cache.in_use():
        plan.save()
        return publish(
            plan.settings.store,
            plan.settings.name,
            _results(plan, failed),
            _test_images(plan, failed),
            header,
            profile=output.profile,
            shard_images=output.shard_images,
            keep_rejects=64 if output.keep_rejects else 0,
            gallery=output.gallery,
            audit=output.audit,
            progress=progress,
            waiting=waiting,
        )


def _original_size(plan: RunPlan) -> tuple[int, int] | None:
    """The (H, W) of the first readable image, as its file has it; a category is of one size."""
    for image in plan.images:
        try:
            return read_header(Path(image.path)).size_HW
        except ImageError:
            continue
    return None


def _results(plan: RunPlan, failed: list[dict[str, str]]) -> Iterator[ImageResult]:
    known = {failure["name"] for failure in failed}
    for image in plan.images:
        if image.name in known:
            continue
        keys = (image.analysis_key, image.samples_key)
        result = store.read_result(plan.cache, image.name, image.digest, image.split, keys)
        if result is None:  # the entry went away or was damaged since: make it again
            outcome = forge_image(plan, image)
            if outcome.error:
                failed.append({"name": image.name, "error": outcome.error})
                continue
            result = store.read_result(plan.cache, image.name, image.digest, image.split, keys)
        if result is not None:
            yield result


def _test_images(plan: RunPlan, failed: list[dict[str, str]]) -> Iterator[TestImage]:
    for entry in plan.test:
        try:
            yield load_test(entry, plan.settings.image_size, plan.defects_config)
        except ImageError as error:
            failed.append({"name": entry.name, "error": str(error)})


def _analysis(plan: RunPlan, image: PlannedImage) -> Any:
    """Pixels, foreground and proposals of one image, from the cache or from the models."""
    stored = plan.cache.read("analysis", image.analysis_key)
    if stored is not None:
        return store.unpack_analysis(*stored)
    pixels_HW3 = load_image(Path(image.path), plan.settings.image_size)
    if file_digest(Path(image.path)) != image.digest:
        raise ImageError(f"{image.path}: replaced while the run was going on; run again")
    loaded = _models(plan)
    foreground = loaded.foreground(pixels_HW3)
    proposals = loaded.proposals(pixels_HW3, foreground)
    arrays, facts = store.pack_analysis(pixels_HW3, foreground, proposals)
    plan.cache.write("analysis", image.analysis_key, arrays, facts)
    return pixels_HW3, foreground, proposals


def _analysed(plan: RunPlan, image: PlannedImage) -> Outcome:
    """See to it that an image's analysis is in the cache."""
    if plan.cache.has("analysis", image.analysis_key):
        return Outcome(image.name, cached=True)
    started = time.perf_counter()
    try:
        _analysis(plan, image)
    except ImageError as error:
        return Outcome(image.name, error=str(error))
    return Outcome(image.name, analysis_seconds=round(time.perf_counter() - started, 4))


def normality_of(plan: RunPlan) -> Normality:
    """What is normal in the category, from the cache or learned now; the last ones stay in memory.

    An image that cannot be read teaches nothing.
    """
    at = (str(plan.cache.root), plan.normality_key)
    with _STUDYING:
        if at in _KNOWN and plan.cache.has("normality", plan.normality_key):
            return _KNOWN[at]
        stored = plan.cache.read("normality", plan.normality_key)
        if stored is None:
            arrays, facts = normal.pack(_learned(plan))
            plan.cache.write("normality", plan.normality_key, arrays, facts)
            stored = arrays, facts
        while len(_KNOWN) >= 2:
            del _KNOWN[next(iter(_KNOWN))]
        _KNOWN[at] = normal.unpack(*stored, _teacher(plan))
        return _KNOWN[at]


_STUDYING = threading.Lock()
_KNOWN: dict[tuple[str, str], Normality] = {}


def _learned(plan: RunPlan) -> Normality:
    images = [i for i in studied(plan.images) if not _analysed(plan, i).error]
    sights = {image.digest: partial(_sight, plan, image) for image in images}
    return normal.learn(sights, _teacher(plan), plan.settings.edits.dilation)


def _teacher(plan: RunPlan) -> Path | None:
    return teacher_file(plan.settings) if plan.settings.asks_patches else None


def _sight(plan: RunPlan, image: PlannedImage) -> tuple[np.ndarray, ObjectProposals]:
    """An image as donors and normality want it: its pixels and its parts."""
    pixels_HW3, _, proposals = _analysis(plan, image)
    return pixels_HW3, proposals


def _tools(plan: RunPlan, image: PlannedImage) -> Tools:
    loaded = _models(plan)
    lenders = [i for i in plan.images if i.name in image.donors and not _analysed(plan, i).error]
    donors = Donors.of(
        {lender.name: partial(_sight, plan, lender) for lender in lenders},
        {lender.name: lender.digest for lender in lenders},
    )
    book = plan.settings.rules
    rules = _rule_judge(book, rules_digest(plan.settings), loaded) if book else None
    return Tools(loaded.inpaint, loaded.fill, donors, normality_of(plan), rules)


@lru_cache(maxsize=2)
def _rule_judge(book: Path, digest: str, loaded: models.Models) -> Judge:
    return judge_for(book, loaded)


def _models(plan: RunPlan) -> models.Models:
    from pipeline.models import device as devices

    devices.one_thread()
    return models.load(plan.settings.models, plan.settings.proposals, plan.files)


def _outcome(image: PlannedImage, facts: list[dict[str, Any]], cached: bool) -> Outcome:
    counts = Counter(not fact["reason"] for fact in facts)
    return Outcome(image.name, cached, counts[True], counts[False])

"""The stages of generation over one image, a batch of images, and a whole category.

    foreground -> proposals -> edit -> sample -> verdict

Everything here is a plain function over a plan and its cache; the command line and the Prefect
flow call the same ones. A bad image is recorded and costs nothing but itself.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import cache as store
from pipeline import compose, edits, gate, models
from pipeline.errors import ImageError
from pipeline.images import file_digest, load_image, read_header
from pipeline.manifest import CategorySettings
from pipeline.planning import (
    ANALYSIS_CODE,
    SAMPLES_CODE,
    PlannedImage,
    RunPlan,
    code_digest,
    software,
)
from pipeline.records import (
    Attempt,
    Edit,
    ImageResult,
    ObjectProposals,
    Sample,
    TestImage,
    Verdict,
)
from pipeline.sources import load_test
from pipeline.versions import Version, VersionHeader, publish

TRIES_PER_KIND = 3
"""Attempts with one kind before the next kind has its turn."""
CONTROL = "control_noop"
NO_CANDIDATE = "no_candidate"
NO_EDIT = "no_edit"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: counts, or the error that cost it."""

    name: str
    cached: bool = False
    accepted: int = 0
    rejected: int = 0
    error: str = ""


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


def forge_image(plan: RunPlan, image: PlannedImage) -> Outcome:
    """Bring one image through all stages into the cache, unless it is there already."""
    stored = plan.cache.read("samples", image.samples_key)
    if stored is not None and plan.cache.has("analysis", image.analysis_key):
        return _outcome(image, stored[1], cached=True)
    try:
        analysis = _analysis(plan, image)
    except ImageError as error:
        return Outcome(image.name, error=str(error))
    loaded = _models(plan)
    attempts = forge_samples(plan.settings, image.digest, analysis[0], analysis[2], loaded.inpaint)
    arrays, facts = store.pack_attempts(attempts)
    plan.cache.write("samples", image.samples_key, arrays, facts)
    return _outcome(image, facts, cached=False)


def forge_batch(plan: RunPlan, images: Sequence[PlannedImage]) -> list[Outcome]:
    """Several images, one after another; the unit of work of a Prefect task."""
    with plan.cache.in_use():
        return [forge_image(plan, image) for image in images]


def forge_samples(
    settings: CategorySettings,
    image_digest: str,
    image_HW3: np.ndarray,
    proposals: ObjectProposals,
    inpaint: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> list[Attempt]:
    """All attempts at all samples of one image; kinds take turns, refusals try the next seed."""
    wanted, controls = settings.edits.per_image, settings.edits.controls_per_image
    kinds = edits.kinds_of(settings.edits)
    seed_of = partial(sample_seed, settings.seed, settings.name, image_digest)
    turn = int(image_digest[:8], 16)
    attempts: list[Attempt] = []
    accepted: list[Sample] = []
    judged: dict[str, Verdict] = {}
    for number in range(wanted + controls):
        for attempt in range(settings.edits.attempts):
            kind = kinds[(turn + number + attempt // TRIES_PER_KIND) % len(kinds)]
            kind = CONTROL if number >= wanted else kind
            seed = seed_of(number, attempt)
            made = partial(Attempt, number, attempt, kind, seed)
            if not len(proposals):
                attempts.append(made(None, Verdict(False, NO_CANDIDATE)))
                break
            started = time.perf_counter()
            edit = edits.plan(proposals, np.random.default_rng(seed), settings.edits, kind)
            if edit is None:
                attempts.append(made(None, Verdict(False, NO_EDIT)))
                continue
            same = _geometry(edit)
            if same in judged:  # only the grain could differ: the verdict stands, unpainted
                attempts.append(made(None, _again(judged[same])))
                continue
            sample = compose.apply(edit, image_HW3, proposals, inpaint)
            verdict = judged[same] = gate.judge(sample, image_HW3, settings.gate, accepted)
            attempts.append(made(sample, verdict, round(time.perf_counter() - started, 4)))
            if verdict.accepted:
                accepted.append(sample)
                break
    return attempts


def _geometry(edit: Edit) -> str:
    """What an edit does to which objects, without its seed."""
    return str((edit.kind, edit.targets, edit.parameters.get("offset")))


def _again(before: Verdict) -> Verdict:
    return Verdict(False, before.reason or "duplicate", before.scores)


def sample_seed(root: int, category: str, image_digest: str, number: int, attempt: int) -> int:
    """The seed of one attempt, 62 bits; it depends on nothing else."""
    text = f"{root}/{category}/{image_digest}/{number}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def pack(
    plan: RunPlan,
    failures: Sequence[dict[str, str]],
    progress: Callable[[int], None] | None = None,
    waiting: Callable[[], None] | None = None,
) -> Version:
    """Publish what the cache holds of the plan as one version.

    The plan is saved beside the cache: it says which entries the version was made from.
    """
    from pipeline import devices

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


def _models(plan: RunPlan) -> models.Models:
    from pipeline import devices

    devices.one_thread()
    return models.load(plan.settings.models, plan.settings.proposals, plan.files)


def _outcome(image: PlannedImage, facts: list[dict[str, Any]], cached: bool) -> Outcome:
    counts = Counter(not fact["reason"] for fact in facts)
    return Outcome(image.name, cached, counts[True], counts[False])

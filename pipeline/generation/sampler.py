"""Stage 3 of generation: plan an edit, apply it, judge the sample, retry until the quota is met.

    edit -> sample -> verdict

These are plain functions of a plan and its cache; command line and Prefect flow call the same ones.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.schema import CategorySettings
from pipeline.dataset.lineage import REVIEWED
from pipeline.edits.apply import apply, edit_key
from pipeline.edits.context import ImageContext
from pipeline.edits.donors import Donors, KnownPieces
from pipeline.edits.part_identity import objection
from pipeline.edits.plan import plan as plan_edit
from pipeline.edits.presets import kinds_of
from pipeline.gate.calibration import NormalModel
from pipeline.gate.checks import limit_of
from pipeline.gate.foreseen import foreseen
from pipeline.gate.judge import judge
from pipeline.generation.analysis import analyse, models_for, pixels_and_objects
from pipeline.generation.asked import pixels_and_asked
from pipeline.generation.cache import StageCache
from pipeline.generation.cache_codecs import SetAside, pack_attempts
from pipeline.generation.cache_keys import PlannedImage, rules_digest
from pipeline.generation.calibrate import normal_model_of
from pipeline.generation.outcome import Outcome
from pipeline.generation.plan import RunPlan
from pipeline.generation.study import StudiedFinder
from pipeline.kinds import CONTROLS
from pipeline.models.build import Models, forget
from pipeline.records import Attempt, Edit, Sample, Verdict
from pipeline.utils.free_memory import HOLES, give_back

if TYPE_CHECKING:
    from pipeline.rulebook.judge import Judge

# Attempts with one kind before the next kind is tried: some kinds fail on every object of an image.
TRIES_PER_KIND = 3
# A kind is left out of an image's later turns after that many attempts in a row that were rejected,
# or half as many for which nothing could be planned.
BARREN = 2 * TRIES_PER_KIND
# Share of the gate's limit of the patch distance up to which a fill is kept without trying another
# inpainter. Measured on seven categories, see decision 0030.
NEAR_ENOUGH = 0.75
# Reasons of attempts without a sample; samples are rejected by the gate or the rule book.
NO_CANDIDATE = "no_candidate"
NO_EDIT = "no_edit"
TRIED_BEFORE = "tried_before"


def generate_batch(plan: RunPlan, images: Sequence[PlannedImage]) -> list[Outcome]:
    """Generate the samples of several images one after another; the unit of work of a task."""
    with plan.cache.in_use():
        return [generate_image(plan, image) for image in images]


def generate_image(plan: RunPlan, image: PlannedImage) -> Outcome:
    """Run all stages of one image into the cache, unless their results are there already."""
    # Read, not only found: a damaged entry must be generated again.
    stored = plan.cache.read("samples", image.samples_key)
    if stored is not None and plan.cache.has("analysis", image.analysis_key):
        return Outcome.of(image.name, stored[1], cached=True)
    outcome = analyse(plan, image)
    if outcome.error:
        return outcome
    started = time.perf_counter()
    models = models_for(plan)
    image_HW3, proposals = pixels_and_asked(plan, image)
    known = _pieces_of(image.analysis_key, plan.calibration_key)
    context = ImageContext(
        image_HW3, proposals, models.inpaint, models.fill, _donors(plan, image), known=known
    )
    # Those of the context may have grown, and are copies then.
    del proposals
    # Looking for what the background repeats leaves holes in the heap.
    give_back(image_HW3[..., 0].size)
    aside = SetAside()
    attempts = generate_samples(
        plan.settings, image.digest, context, normal_model_of(plan),
        _rules(plan, models, image, image_HW3), image.refused, aside,
    )  # fmt: skip
    arrays, facts = pack_attempts(attempts, aside)
    plan.cache.write("samples", image.samples_key, arrays, facts)
    # What this image alone needed is free from here on.
    del attempts, aside, arrays, context
    give_back(image_HW3[..., 0].size)
    seconds = time.perf_counter() - started
    return replace(
        Outcome.of(image.name, facts, cached=False),
        analysis_seconds=outcome.analysis_seconds,
        samples_seconds=round(seconds, 4),
    )


def generate_samples(
    settings: CategorySettings,
    image_digest: str,
    context: ImageContext,
    normal_model: NormalModel | None = None,
    rules: "Judge | None" = None,
    refused: Collection[str] = (),
    set_aside: Callable[[Attempt], Attempt] = lambda attempt: attempt,
) -> list[Attempt]:
    """All attempts at all samples of one image, in order of sample number and attempt.

    Kinds take turns; after a rejected sample the next seed is tried, up to `edits.attempts` times.
    Without `normal_model` the gate uses its fixed limits. `rules` also judges accepted samples by a
    rule book. `refused` are edits (`edit_key`) that people rejected in a review: each is made,
    rejected, and replaced by as many further attempts. `set_aside` gets every attempt that the
    gate rejects and returns what the list holds of it.
    """
    # The image itself must not count as a normal: its own patches would hide a bad edit.
    normal_model = normal_model and normal_model.without(image_digest)
    if normal_model and settings.edits.uses_part_kinds:
        context.part_kinds, context.studied = normal_model.part_kinds, True
    # Of several fills of a hole, the one that looks most like normal images is kept.
    if normal_model and normal_model.patches:
        context.inpaint.distance = normal_model.patches.region_distance
        limit, _ = limit_of("max_patch_distance", settings.gate, normal_model.limits)
        context.inpaint.near_enough = None if limit is None else NEAR_ENOUGH * limit
        context.inpaint.objects_NHW = context.proposals.masks_NHW
    # The quota of this image and the kinds that may fill it.
    wanted, controls = settings.edits.per_image, settings.edits.controls_per_image
    kinds = kinds_of(settings.edits, context.fill is not None)
    most_iou = settings.gate.max_duplicate_iou
    seed_of = partial(sample_seed, settings.seed, settings.name, image_digest)
    # Images start with different kinds, so even a small dataset contains all of them.
    turn = int(image_digest[:8], 16)
    attempts: list[Attempt] = []
    accepted: list[Sample] = []
    # Verdicts by geometry of the edit: other seeds often plan the same edit again.
    judged: dict[str, Verdict] = {}
    # Attempts in a row that gave no sample, by kind; those without a plan count twice.
    barren: Counter[str] = Counter()

    def fill(number: int, first: int) -> None:
        """Attempts at one sample from the first number on, until one is accepted."""
        # After TRIES_PER_KIND attempts, the next kind has its turn.
        every = kinds if number < wanted else CONTROLS
        start = (turn + number) % len(every)
        turns = [*every[start:], *every[:start]]
        if number < wanted:
            turns = [kind for kind in turns if barren[kind] < BARREN] or turns
        for attempt in range(first, first + settings.edits.attempts):
            kind = turns[attempt // TRIES_PER_KIND % len(turns)]
            seed = seed_of(number, attempt)
            made = partial(Attempt, number, attempt, kind, seed)
            # Without proposals no attempt can succeed: count it once and go on.
            if not len(context):
                attempts.append(made(None, Verdict(False, NO_CANDIDATE)))
                break
            started = time.perf_counter()
            edit = plan_edit(context, np.random.default_rng(seed), settings.edits, kind)
            barren[kind] += 2 if edit is None else 1
            if edit is None:
                attempts.append(made(None, Verdict(False, NO_EDIT)))
                continue
            same = _geometry(edit)
            if same in judged:
                # Only the noise could differ, so the verdict is reused and nothing is inpainted.
                # With a reason of its own, so that the other reasons count images.
                again = replace(judged[same], accepted=False, reason=TRIED_BEFORE)
                attempts.append(made(None, again))
                continue
            others = [sample.edit for sample in accepted]
            reason = objection(context, edit) or foreseen(context, edit, others, most_iou)
            if reason:
                # Judged before any pixel is made: the plan alone shows that nothing is wrong, that
                # nobody can tell where a part ends, or that the sample is one of those that exist.
                judged[same] = Verdict(False, reason)
                attempts.append(made(None, judged[same]))
                continue
            sample = apply(edit, context)
            # The gate first: it is cheaper than finding the parts for the rule book.
            verdict = judge(sample, context.image_HW3, settings.gate, accepted, normal_model)
            if verdict.accepted and rules is not None:
                verdict = rules.judge(edit, sample, context.image_HW3, context.proposals, verdict)
            judged[same] = verdict
            attempt_made = made(sample, verdict, round(time.perf_counter() - started, 4))
            attempts.append(attempt_made if verdict.accepted else set_aside(attempt_made))
            # What stays of each attempt leaves holes that the next one fills only in part.
            give_back(context.image_HW3[..., 0].size, HOLES)
            if verdict.accepted:
                barren[kind] = 0
                accepted.append(sample)
                break

    # Controls come after the anomalous samples.
    for number in range(wanted + controls):
        fill(number, 0)
    # Only then what people rejected: up to here everything is as it was when they looked at it, so
    # the samples that they kept are the same. A replacement may have been rejected, too.
    while rejected := [n for n, a in enumerate(attempts) if _is_refused(a, refused)]:
        for n in rejected:
            attempts[n] = _rejected(attempts[n])
            accepted = [sample for sample in accepted if sample is not attempts[n].sample]
        for number in sorted({attempts[n].number for n in rejected}):
            tried = [one.attempt for one in attempts if one.number == number]
            fill(number, max(tried) + 1)
    return sorted(attempts, key=lambda one: (one.number, one.attempt))


def _is_refused(attempt: Attempt, refused: Collection[str]) -> bool:
    """True for an accepted sample whose edit is among those that people rejected."""
    if not refused or not attempt.verdict.accepted or attempt.sample is None:
        return False
    return edit_key(attempt.sample.edit) in refused


def _rejected(attempt: Attempt) -> Attempt:
    return replace(attempt, verdict=replace(attempt.verdict, accepted=False, reason=REVIEWED))


def _geometry(edit: Edit) -> str:
    """What an edit does to which objects, as a key; with its seed only where a prompt is used."""
    # Diffusion generates something else for every seed.
    prompted = any("prompt" in part.parameters for part in edit.parts)
    parts = [(part.kind, part.targets, dict(part.parameters)) for part in edit.parts]
    return str((parts, edit.seed if prompted else None))


def sample_seed(root: int, category: str, image_digest: str, number: int, attempt: int) -> int:
    """The seed of one attempt: 62 bits that depend on the arguments alone.

    `root` is the random seed of the run. Neither the order of images nor other attempts matter.
    """
    text = f"{root}/{category}/{image_digest}/{number}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def _donors(plan: RunPlan, image: PlannedImage) -> Donors:
    """The other images whose objects may be pasted into this one, some of other categories."""
    images = (*plan.images, *plan.others)
    donors = [i for i in images if i.name in image.donors and not analyse(plan, i).error]
    return Donors.of(
        # Nobody knows the part kinds of other categories.
        {
            donor.name: partial(
                pixels_and_objects if donor.category else pixels_and_asked, plan, donor
            )
            for donor in donors
        },
        {donor.name: donor.digest for donor in donors},
        {donor.name: donor.category for donor in donors if donor.category},
        {donor.name: _pieces_of(donor.analysis_key, plan.calibration_key) for donor in donors},
    )  # fmt: skip


# An image is edited itself and is the donor of several others, which come soon: pieces cost more to
# find than to keep.
@lru_cache(maxsize=1024)
def _pieces_of(analysis_key: str, calibration_key: str) -> KnownPieces:
    """The pieces of one image, none at first; one record for all edits of a process.

    The part kinds, and with them the calibration, decide what else is found in the image.
    """
    return KnownPieces()


def _rules(
    plan: RunPlan, models: Models, image: PlannedImage, image_HW3: np.ndarray
) -> "Judge | None":
    """The judge of the category's rule book, which knows of this image; None without one."""
    book = plan.settings.rules
    if book is None:
        return None
    judge, find = _resident_rules(book, rules_digest(plan.settings), models, plan.cache)
    find.of_analysis(image_HW3, image.analysis_key)
    return judge


# The digest is an argument so that a rule book that was edited is read again.
@lru_cache(maxsize=2)
def _resident_rules(
    book: Path, digest: str, models: Models, cache: StageCache
) -> "tuple[Judge, StudiedFinder]":
    # Most categories have no rule book, and its judge imports SciPy's statistics.
    from pipeline.rulebook.book import load
    from pipeline.rulebook.judge import Judge

    find = StudiedFinder(lambda: models, cache)
    return Judge(load(book), find), find


def forget_models() -> None:
    """Let go of the resident models, and of the judges of rule books, which hold them."""
    _resident_rules.cache_clear()
    forget()

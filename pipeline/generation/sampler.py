"""The samples of one image: which kind has its turn, with which seed, and what became of each try.

edit -> sample -> verdict
"""

import hashlib
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pipeline.config.manifest import CategorySettings
from pipeline.edits import apply as compose
from pipeline.edits import plan as edits
from pipeline.edits.donors import NO_DONORS, Donors
from pipeline.gate import judge as gate
from pipeline.gate.calibration import Normality
from pipeline.models.inpaint.base import Inpainter
from pipeline.models.inpaint.memo import Refill
from pipeline.records import Attempt, Edit, ObjectProposals, Sample, Verdict
from pipeline.rulebook.judge import Judge

TRIES_PER_KIND = 3
"""Attempts with one kind before the next kind has its turn."""
NO_CANDIDATE = "no_candidate"
NO_EDIT = "no_edit"
TRIED_BEFORE = "tried_before"


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """What samples are made and judged with, besides settings and proposals.

    `fill` paints from a prompt, `donors` lend parts of other images, `normality` is what good
    products of the category look like, `rules` a judge that holds samples against a rule book.
    """

    inpaint: Inpainter
    fill: Any = None
    donors: Donors = NO_DONORS
    normality: Normality | None = None
    rules: Judge | None = None


def forge_samples(
    settings: CategorySettings,
    image_digest: str,
    image_HW3: np.ndarray,
    proposals: ObjectProposals,
    tools: Tools | Inpainter,
) -> list[Attempt]:
    """All attempts at all samples of one image; kinds take turns, refusals try the next seed.

    An inpainter alone will do for `tools`: then no part is lent, and the gate knows no normals.
    """
    tools = tools if isinstance(tools, Tools) else Tools(tools)
    normality = tools.normality and tools.normality.without(image_digest)
    inpaint = Refill(tools.inpaint)
    wanted, controls = settings.edits.per_image, settings.edits.controls_per_image
    fills = tools.fill is not None
    kinds = edits.kinds_of(settings.edits, fills)
    seed_of = partial(sample_seed, settings.seed, settings.name, image_digest)
    turn = int(image_digest[:8], 16)
    attempts: list[Attempt] = []
    accepted: list[Sample] = []
    judged: dict[str, Verdict] = {}
    for number in range(wanted + controls):
        turns = kinds if number < wanted else edits.CONTROLS
        for attempt in range(settings.edits.attempts):
            kind = turns[(turn + number + attempt // TRIES_PER_KIND) % len(turns)]
            seed = seed_of(number, attempt)
            made = partial(Attempt, number, attempt, kind, seed)
            if not len(proposals):
                attempts.append(made(None, Verdict(False, NO_CANDIDATE)))
                break
            started = time.perf_counter()
            edit = edits.plan(
                proposals, np.random.default_rng(seed), settings.edits, kind,
                donors=tools.donors, image_HW3=image_HW3, fills=fills,
            )  # fmt: skip
            if edit is None:
                attempts.append(made(None, Verdict(False, NO_EDIT)))
                continue
            same = _geometry(edit)
            if same in judged:  # only the grain could differ: the verdict stands, unpainted
                attempts.append(made(None, _again(judged[same])))
                continue
            sample = compose.apply(
                edit, image_HW3, proposals, inpaint, donors=tools.donors, fill=tools.fill
            )
            verdict = gate.judge(sample, image_HW3, settings.gate, accepted, normality)
            if verdict.accepted and tools.rules is not None:
                verdict = tools.rules.judge(edit, sample, image_HW3, proposals, verdict)
            judged[same] = verdict
            attempts.append(made(sample, verdict, round(time.perf_counter() - started, 4)))
            if verdict.accepted:
                accepted.append(sample)
                break
    return attempts


def _geometry(edit: Edit) -> str:
    """What an edit does to which objects, without its seed; what a prompt paints depends on it."""
    prompted = any("prompt" in part.parameters for part in edit.parts)
    parts = [(part.kind, part.targets, dict(part.parameters)) for part in edit.parts]
    return str((parts, edit.seed if prompted else None))


def _again(before: Verdict) -> Verdict:
    """A try that came to an edit of before: counted apart, so that reasons count pictures."""
    return replace(before, accepted=False, reason=TRIED_BEFORE)


def sample_seed(root: int, category: str, image_digest: str, number: int, attempt: int) -> int:
    """The seed of one attempt, 62 bits; it depends on nothing else."""
    text = f"{root}/{category}/{image_digest}/{number}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2

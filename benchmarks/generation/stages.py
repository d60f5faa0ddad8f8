"""Where the seconds of `generate` go: one row per stage, of a core, per image and accepted sample.

    python -m benchmarks.generation --source mvtec_ad:DATA/bottle --limit 20

Each second counts for the innermost stage only: a fill is no compositing, an audit no packing.
Loading the models is left out. What is not in a stage (decoding, the cache, donors, lineage) is the
last row.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.generation.rows import Claim
from flows.jobs.generate import generate
from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.gate import calibration
from pipeline.generation import pack as packing
from pipeline.generation import publish as publishing
from pipeline.generation import sampler
from pipeline.generation.plan import plan
from pipeline.models import build as models
from pipeline.models import foreground, part_embedding, proposals
from pipeline.models.inpaint.memo import MemoInpainter

# The functions and methods of each stage, looked up where they are called.
STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "foreground": (
        (foreground.ClearerForeground, "__call__"),
        (foreground.U2NetForeground, "__call__"),
    ),
    "proposals": ((proposals.SamProposals, "__call__"), (proposals.SamProposals, "with_parts")),
    "embedding of parts": ((part_embedding.Embedder, "__call__"),),
    "calibration": ((calibration, "learn"),),
    "planning": ((sampler, "plan_edit"), (sampler, "objection")),
    "fill": ((MemoInpainter, "_filled"),),
    "compositing": ((sampler, "apply"),),
    "gate": ((sampler, "judge"),),
    "packing": ((packing, "publish"),),
    "audit": ((publishing, "audit_of"),),
    "gallery": ((publishing, "write_gallery_of"),),
}


def rows(source: str, limit: int | None) -> Iterator[Claim]:
    """`generate` of the first `limit` images of a source (KIND:PATH), with the default settings."""
    kind, _, path = source.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        manifest = manifest_for_source(kind, Path(path), store=folder)
        (name,) = manifest.categories
        settings = resolve(manifest, name)
        run = plan(settings, limit)
        # Loaded beforehand: the first image would pay for all.
        models.load(settings.models, settings.proposals, run.files)
        started = time.process_time()
        with staged(STAGES) as spent:
            report = generate(settings, limit=limit, workers=1)
        total = time.process_time() - started
    spent["all else"] = total - sum(spent.values())
    rejected = sum(report.rejected.values())
    whole = f"{report.images} images, {report.accepted} samples, {rejected} rejected attempts"
    for stage, seconds in [*spent.items(), ("all stages", total)]:
        each = f"{seconds / report.images:.3f} s, {seconds / max(1, report.accepted):.3f} s"
        yield Claim(f"{name}, {stage}: an image, a sample", each, whole, f"{total:.1f} s",
                    seconds / total)  # fmt: skip


@contextmanager
def staged(stages: dict[str, tuple[tuple[Any, str], ...]]) -> Iterator[dict[str, float]]:
    """Processor seconds of each stage, by name; for one thread that works at a time."""
    spent: dict[str, float] = defaultdict(float, dict.fromkeys(stages, 0.0))
    # The stages that are entered and not left, and when the innermost clock was read last.
    entered: list[str] = []
    since = [time.process_time()]

    def turn() -> None:
        now = time.process_time()
        if entered:
            spent[entered[-1]] += now - since[0]
        since[0] = now

    def around(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            turn()
            entered.append(stage)
            try:
                return call(*args, **kwargs)
            finally:
                turn()
                entered.pop()

        return timed

    with ExitStack() as stack:
        for stage, calls in stages.items():
            for owner, name in calls:
                stack.enter_context(patch.object(owner, name, around(stage, getattr(owner, name))))
        yield spent

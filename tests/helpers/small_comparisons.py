"""Small comparisons: held-out scores by hand, and versions whose samples break rules."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from small_results import image_result, small_version

from detectors.comparison.held_out import HeldOutScores
from detectors.comparison.recommendation import recommend
from detectors.comparison.result import Compared, Comparison, LeftOut
from detectors.comparison.sensitivity import rows_of, sensitivity
from pipeline.dataset.lineage import RULES_SCORE
from pipeline.dataset.version import Version
from pipeline.records import ImageResult

# Kind, rules and score of each sample; 19 normals score 0.00 to 0.18.
SAMPLES = (
    ("missing", ("bolt.count",), 0.9),
    ("missing", ("bolt.count",), 0.1),
    ("extra", ("bolt.count", "label"), 0.8),
    ("extra", ("bolt.count",), 0.7),
    ("extra", (), 0.05),
    ("control_noop", (), 0.04),
    ("control_background", (), 0.5),
)
# Rules that the attempts of `image_result` break, by kind.
RULES = {"missing": "bolt.count", "extra": "bolt.count+order", "control_noop": ""}


def held_out(
    normals: Sequence[float] | None = None,
    samples: Sequence[tuple[str, tuple[str, ...], float]] = SAMPLES,
) -> HeldOutScores:
    """Held-out scores by hand."""
    scores = np.arange(19) / 100 if normals is None else np.array(normals, np.float64)
    return HeldOutScores(
        normal_ids=tuple(f"good/{n:03d}.png" for n in range(len(scores))),
        normal_scores_N=scores,
        sample_ids=tuple(f"good/{n:03d}.png@{n}.0" for n in range(len(samples))),
        sample_scores_M=np.array([score for *_, score in samples], np.float64),
        labels_M=np.array([int(not k.startswith("control_")) for k, *_ in samples], np.int64),
        kinds=tuple(kind for kind, *_ in samples),
        rules=tuple(rules for _, rules, _ in samples),
    )


def comparison(
    held: dict[str, HeldOutScores], version: dict[str, Any] | None = None, **changes: Any
) -> Comparison:
    """A comparison of detectors by their held-out scores, without checkpoints."""
    rows = rows_of(next(iter(held.values())))
    detectors = tuple(
        Compared(
            name=name, checkpoint=Path(f"runs/{name}-01234567"), held=scores,
            sensitivity=sensitivity(scores, rows, 0.05), seconds_per_image=0.02 * (place + 1),
            training_seconds=30.0, device="CPU, float32", settings_size=64,
        )
        for place, (name, scores) in enumerate(held.items())
    )  # fmt: skip
    plain = Comparison(
        version=version or {"name": "0001-a", "category": "tray", "licence": "CC0-1.0"},
        profile="tiny", seed=0, false_alarms=0.05, rows=rows, detectors=detectors,
        recommendation=recommend([one.candidate for one in detectors]),
        left_out=(LeftOut("glcf", "its weights 'swin-tiny' are missing"),),
    )  # fmt: skip
    return replace(plain, **changes)


def with_rules(result: ImageResult) -> ImageResult:
    """The result as if a rule book had judged its accepted samples."""
    attempts = []
    for attempt in result.attempts:
        rule = RULES.get(attempt.kind, "")
        verdict = attempt.verdict
        if verdict.accepted:
            broken = tuple(filter(None, rule.split("+")))
            scores = {**verdict.scores, RULES_SCORE: float(len(broken))}
            verdict = replace(verdict, scores=scores, rule=rule, broken=broken)
        attempts.append(replace(attempt, verdict=verdict))
    return replace(result, attempts=tuple(attempts))


def ruled_version(store: Path, size: tuple[int, int] = (64, 64), tests: int = 6) -> Version:
    """Ten images, two of them held out, whose samples break rules."""
    results = (with_rules(image_result(number, size)) for number in range(10))
    return small_version(store, results=results, tests=tests, size=size)

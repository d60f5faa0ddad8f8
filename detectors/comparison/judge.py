"""Judge trained detectors on the same held-out images: scores, sensitivity, cost per image.

first = [measure(name, checkpoint, restored, version) for ...]
rows, compared = judge(first, false_alarms=0.05)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectors.comparison.cost import TIMED, seconds_per_image
from detectors.comparison.held_out import HeldOutScores, held_out_scores, shared
from detectors.comparison.result import Compared
from detectors.comparison.sensitivity import Row, rows_of, sensitivity
from detectors.training.checkpoint import Restored
from pipeline.dataset.version import Version
from pipeline.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What has to be measured with a detector in memory; the rest follows from it."""

    name: str
    checkpoint: Path
    held: HeldOutScores
    seconds_per_image: float
    training_seconds: float
    device: str
    settings_size: int


def measure(name: str, checkpoint: Path, restored: Restored, version: Version) -> Measured:
    """The held-out scores and the cost of one detector.

    UserError unless `version` is the one of its training: only of that one is it known which images
    were held out.
    """
    card = restored.card
    if card.version.digest != version.digest:
        raise UserError(
            f"{checkpoint} was trained on version {card.version.name} of "
            f"{card.version.category!r}, not on {version.dir}; train on this version"
        )
    # Any images of the stored size do; the first shard has some.
    shard = version.shards[0]
    images = [shard.original(row) for row in range(min(shard.images, TIMED))]
    return Measured(
        name=name,
        checkpoint=checkpoint,
        held=held_out_scores(restored, version),
        seconds_per_image=seconds_per_image(restored, images),
        training_seconds=card.seconds,
        device=restored.compute.describe(),
        settings_size=restored.detector.settings.size,
    )


def judge(
    measured: Sequence[Measured], false_alarms: float
) -> tuple[tuple[Row, ...], tuple[Compared, ...]]:
    """The rows of the matrix, and each detector judged on the images that all have in common."""
    held = shared([one.held for one in measured])
    rows = rows_of(held[0])
    return rows, tuple(
        Compared(
            name=one.name,
            checkpoint=one.checkpoint,
            held=scores,
            sensitivity=sensitivity(scores, rows, false_alarms),
            seconds_per_image=one.seconds_per_image,
            training_seconds=one.training_seconds,
            device=one.device,
            settings_size=one.settings_size,
            set_aside=len(one.held.normal_ids) - len(scores.normal_ids),
        )
        for one, scores in zip(measured, held, strict=True)
    )

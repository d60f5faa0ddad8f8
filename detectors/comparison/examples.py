"""The pictures behind the cells of the matrix: missed and found samples with their heatmaps.

The map is that of the trained detector, on the colour scale of its own normals.

Shapes: H, W image as stored; 3 colour (RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from detectors.comparison.result import Compared
from detectors.comparison.sensitivity import Row
from detectors.evaluation.reason_marks import marked
from detectors.heatmaps import Scale, outline_mask, overlay, scale_of
from detectors.scoring import score, stack_images
from detectors.training.checkpoint import Restored
from pipeline.dataset.sample_table import SampleTable
from pipeline.dataset.version import Version
from pipeline.utils.html import thumbnail_uri

# Pictures per cell: misses teach more than hits. A page of 11 kinds and 7 detectors is below 4 MB.
MISSES, HITS = 2, 1
# Longer side in px, and WebP quality.
SIDE, QUALITY = 224, 74
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Picture:
    """One sample as data URIs: the edited image with its outlined change, and the heatmap.

    `reasons` are in words, from detectors that give some.
    """

    sample: str
    score: float
    found: bool
    outlined: str
    heat: str
    reasons: tuple[str, ...] = ()


def choose(scores_M: np.ndarray, row: Row, threshold: float) -> list[tuple[int, bool]]:
    """Places of the samples of a cell to show, with whether they were found.

    The misses with the lowest scores first, then the hits with the highest.
    """
    ordered = sorted(row.samples, key=lambda place: (scores_M[place], place))
    over = np.float32(threshold)
    missed = [place for place in ordered if np.float32(scores_M[place]) < over]
    found = [place for place in reversed(ordered) if np.float32(scores_M[place]) >= over]
    return [(p, False) for p in missed[:MISSES]] + [(p, True) for p in found[:HITS]]


def pictures(
    compared: Compared, restored: Restored, version: Version, rows: Sequence[Row]
) -> dict[str, list[Picture]]:
    """The pictures of every cell of one detector, by row key."""
    held = compared.held
    chosen = {
        row.key: choose(held.sample_scores_M, row, compared.sensitivity.threshold) for row in rows
    }
    # A sample that stands for a kind and for a rule is drawn once.
    places = sorted({place for cell in chosen.values() for place, _ in cell})
    drawn = _drawn(restored, version, [held.sample_ids[place] for place in places])
    by_place = dict(zip(places, drawn, strict=True))
    return {
        key: [
            Picture(
                held.sample_ids[place], float(held.sample_scores_M[place]), found, *by_place[place]
            )
            for place, found in cell
        ]
        for key, cell in chosen.items()
    }


def _drawn(
    restored: Restored, version: Version, ids: Sequence[str]
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Outlined image, heatmap and reasons of each sample, in the order of the ids."""
    # All splits: held-out scores of a cross-fitted detector cover the training samples as well.
    table = SampleTable(version)
    number_of = {table.record(number)["id"]: number for number in range(len(table))}
    heat = restored.card.calibration.heat
    scale = Scale(*heat) if heat else None
    drawn = []
    for start in range(0, len(ids), _BATCH):
        batch = table.batch([number_of[one] for one in ids[start : start + _BATCH]])
        images = list(batch.edited_BHW3)
        scored = score(
            restored.detector, restored.compute, stack_images(images), version.image_size,
            explain="words",
        )  # fmt: skip
        # Without a scale of normals, that of the first maps shown.
        scale = scale or scale_of(scored.maps_BHW)
        for image_HW3, mask_HW, map_HW, reasons in zip(
            images, batch.masks_BHW, scored.maps_BHW, scored.reasons, strict=True
        ):
            heat_HW3 = overlay(image_HW3, map_HW, scale)
            drawn.append(
                (
                    _small(outline_mask(image_HW3, mask_HW)),
                    _small(marked(heat_HW3, restored.detector.settings.size, reasons)),
                    tuple(map(str, reasons)),
                )
            )
    return drawn


def _small(image_HW3: np.ndarray) -> str:
    image = Image.fromarray(image_HW3)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return thumbnail_uri(np.asarray(image), QUALITY)

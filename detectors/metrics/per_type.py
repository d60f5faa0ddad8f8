"""Image-level metrics per anomaly type, each against all good test images.

MVTec LOCO's two folders become the groups `logical` and `structural`, and their plain mean is the
number that papers report (Bergmann et al., "Beyond Dents and Scratches", IJCV 130 (2022)).
Elsewhere every type is a group. Metrics over all anomalous images pooled are different numbers:
they weight the groups by their images.

Shapes: N images.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from detectors.metrics.bootstrap import RESAMPLES, Interval, interval, resample_counts, resampled
from detectors.metrics.image import METRICS, ImageMetrics, image_metrics
from detectors.metrics.validate import finite_scores
from pipeline.errors import UserError
from pipeline.records import GOOD

# Folder names of MVTec LOCO AD's test split, and the names of their groups in reports.
LOCO = {"logical_anomalies": "logical", "structural_anomalies": "structural"}
LOCO_GROUPS = tuple(LOCO.values())


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One group, all anomalies pooled, or the mean of MVTec LOCO's two groups (no `metrics`)."""

    values: dict[str, float | None]
    intervals: dict[str, Interval | None]
    metrics: ImageMetrics | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GroupMetrics:
    """`groups` in alphabetical order; `mean` is None unless logical and structural are present."""

    pooled: Row
    groups: dict[str, Row]
    mean: Row | None


def group_of(type: str) -> str:
    """The group of an anomaly type: `logical` or `structural` on MVTec LOCO, else the type."""
    return LOCO.get(type, type)


def group_names(types: Iterable[str]) -> list[str]:
    """The groups of anomalous images among these types."""
    return sorted({group_of(type) for type in types if type != GOOD})


def group_metrics(
    types_N: Sequence[str], scores_N: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> GroupMetrics:
    """Metrics and intervals of every group against all good images, pooled, and their mean.

    `types_N` holds `good` for a normal image. UserError for a score that is not finite.
    """
    scores = finite_scores(scores_N)
    if len(types_N) != len(scores):
        raise UserError(f"types_N must be ({len(scores)},) as scores_N is, got {len(types_N)}")
    # Strings as an array, so that groups can be compared element by element.
    groups_N = np.array([group_of(type) for type in types_N], np.str_)
    labels = (groups_N != GOOD).astype(np.int64)
    # One set of resamples for all groups: in each, both LOCO groups are compared with the same
    # good images, which the interval of their mean needs.
    counts_RN = resample_counts(groups_N, resamples, seed)
    rows, values_R = {}, {}
    for group in group_names(types_N):
        # One group and all good images.
        rows_N = (groups_N == group) | (labels == 0)
        values_R[group] = resampled(labels[rows_N], scores[rows_N], counts_RN[:, rows_N])
        rows[group] = _row(image_metrics(labels[rows_N], scores[rows_N]), values_R[group])
    # The pool is stratified by label alone, since its share of each group is random as well.
    pooled = resampled(labels, scores, resample_counts(labels, resamples, seed))
    mean = None
    if set(LOCO_GROUPS) <= set(rows):
        # Averaged within each resample: the interval of a mean is not the mean of the intervals.
        logical, structural = (values_R[group] for group in LOCO_GROUPS)
        mean = Row(
            mean_of([rows[group].values for group in LOCO_GROUPS]),
            {name: interval((logical[name] + structural[name]) / 2) for name in METRICS},
        )
    return GroupMetrics(_row(image_metrics(labels, scores), pooled), rows, mean)


def mean_of(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The plain mean of every metric over the rows; None where one of them has none."""
    means: dict[str, float | None] = {}
    for name in rows[0]:
        found = [value for row in rows if (value := row[name]) is not None]
        means[name] = sum(found) / len(rows) if len(found) == len(rows) else None
    return means


def _row(metrics: ImageMetrics, values_R: Mapping[str, np.ndarray]) -> Row:
    intervals = {name: interval(values_R[name]) for name in METRICS}
    return Row(metrics.values(), intervals, metrics)

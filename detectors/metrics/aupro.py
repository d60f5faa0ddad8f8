"""AUPRO, the area under the per-region overlap (PRO), and the threshold counts behind it.

With regions C_k (8-connected components of the ground truth) and P(t) the pixels with score >= t:

    PRO(t) = 1/K * sum over k of |P(t) & C_k| / |C_k|
    FPR(t) = |P(t) outside every region| / |pixels outside every region|    (good images included)
    AUPRO  = 1/limit * area under PRO over FPR, for FPR from 0 to limit

Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129 (2021), which uses a limit of 0.3.

The area is exact. Between two neighbouring scores of region pixels PRO is constant, so these scores
are the only thresholds that matter. Equal scores form one threshold, joined to the one before by a
straight line; a constant map therefore has half the limit, and that is the floor instead of 0.

Shapes: H, W map; P pixels of regions; K regions; V distinct scores of region pixels, highest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from detectors.metrics.value_counts import ValueCounts, reaching

AUPRO_LIMIT = 0.3
# False positive rates up to which areas are reported, for AUPRO and for AU-sPRO. They are those of
# the official MVTec LOCO evaluator.
LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)
# Scores whose area is computed at a time: float64 copies of a block are 8 MiB each, where a large
# test split has tens of millions of region pixels.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Scores of the pixels of some regions: region after region, highest first within each.

    `scores_P` is float32; `sizes_K` (int64) are the numbers of pixels per region, at least one.
    """

    scores_P: np.ndarray
    sizes_K: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Regions"]) -> "Regions":
        """The regions of several images as one."""
        return cls(
            np.concatenate([np.empty(0, np.float32), *(part.scores_P for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.sizes_K for part in parts)]),
        )

    @classmethod
    def of(cls, map_HW: np.ndarray, mask_HW: np.ndarray) -> "Regions":
        """The 8-connected components of an (H, W) bool mask on an (H, W) float32 map."""
        count, owner_HW = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)
        scores_P, owner_P = map_HW[mask_HW], owner_HW[mask_HW]
        # By region first, then by falling score. Label 0 is the background and owns no pixel here.
        order = np.lexsort((-scores_P, owner_P))
        return cls(scores_P[order], np.bincount(owner_P, minlength=count)[1:].astype(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdCounts:
    """Pixel counts at every distinct score of a region pixel, highest score first.

    `values_V` float32 scores; `true_V` region pixels >= the score (true positives); `overlap_V`
    float64 PRO at the score; `false_V` and `false_above_V` pixels outside every region >= and > the
    score (false positives). Counts are int64: a test split can exceed 2^31 pixels. `outside` is the
    number of pixels outside every region.
    """

    values_V: np.ndarray
    true_V: np.ndarray
    overlap_V: np.ndarray
    false_V: np.ndarray
    false_above_V: np.ndarray
    outside: int

    @classmethod
    def of(cls, regions: Regions, outside: Sequence[ValueCounts]) -> "ThresholdCounts":
        """The counts of regions against the pixels outside; needs at least one region."""
        # Stable, so that equal scores keep the order of their regions.
        order = np.argsort(-regions.scores_P, kind="stable")
        ranked = regions.scores_P[order]
        # The last pixel of each group of equal scores: counts up to it include the whole group.
        ends_V = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        # Every pixel contributes 1/size of its region, so the running sum is K times PRO.
        shares_P = np.repeat(1 / regions.sizes_K, regions.sizes_K)[order]
        values_V = ranked[ends_V]
        false_V, false_above_V = reaching(outside, values_V)
        return cls(
            values_V,
            true_V=ends_V + 1,
            overlap_V=np.cumsum(shares_P)[ends_V] / len(regions.sizes_K),
            false_V=false_V,
            false_above_V=false_above_V,
            outside=sum(part.total for part in outside),
        )


def overlap_area(counts: ThresholdCounts, limit: float = AUPRO_LIMIT) -> float:
    """The area under (FPR, overlap) for FPR from 0 to `limit`, divided by the limit; in [0, 1].

    With whole components as regions this is AUPRO, with saturated ones AU-sPRO (`spro`). Needs at
    least one pixel outside the regions.
    """
    area, start_x, start_y = 0.0, 0.0, 0.0
    for first in range(0, len(counts.values_V), _BLOCK):
        block = slice(first, first + _BLOCK)
        # Two points per score: constant overlap up to the outside pixels above the score, then a
        # line across those that equal it.
        x_2V = np.stack([counts.false_above_V[block], counts.false_V[block]], 1) / counts.outside
        y_V = np.append(start_y, counts.overlap_V[block])
        y_2V = np.stack([y_V[:-1], y_V[1:]], 1)
        x, y = np.append(start_x, x_2V), np.append(start_y, y_2V)
        area += _area(x, y, limit)
        start_x, start_y = x[-1], y[-1]
    # Below the lowest region score all regions are covered completely.
    area += _area(np.array([start_x, 1.0]), np.array([start_y, start_y]), limit)
    # Rounding can give 1 + 4e-16.
    return min(float(area / limit), 1.0)


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """The area under the polyline, up to x = limit; x never decreases."""
    width, rise = np.diff(x), np.diff(y)
    kept = np.clip(limit - x[:-1], 0, width)
    share = np.divide(kept, width, out=np.zeros_like(width), where=width > 0)
    return float(kept @ (y[:-1] + rise * share / 2))

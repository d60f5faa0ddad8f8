"""Ground-truth regions and how much of them is found: AUPRO, the area under per-region overlap.

PRO at a threshold is the mean over regions (8-connected components) of the share of their pixels
that reach it; the false positive rate is the share of pixels outside every region, good images
included, that do. AUPRO is the area under PRO over that rate up to a limit, divided by the limit.
Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129 (2021).

Exact: between two neighbouring scores of region pixels the curve is level, so the scores of region
pixels are all the thresholds that there are. Equal scores are one threshold and make the curve
oblique there; a constant map therefore has half the limit, and that is the floor, not 0.

Shapes: H, W map; P pixels of regions; K regions; V distinct scores of region pixels, highest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from detectors.metrics.value_counts import ValueCounts, reaching

AUPRO_LIMIT = 0.3
LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)
"""False positive rates up to which areas are given, for AUPRO and for AU-sPRO."""
_BLOCK = 1 << 20
"""Scores whose area is worked out at a time, so that memory does not hold all at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Scores of the pixels of some regions: region after region, highest first within each.

    `scores_P` is float32; `sizes_K` int64 says how many of them each region has, at least one.
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
        """The 8-connected components of a bool mask."""
        count, owner_HW = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)
        scores_P, owner_P = map_HW[mask_HW], owner_HW[mask_HW]
        order = np.lexsort((-scores_P, owner_P))
        return cls(scores_P[order], np.bincount(owner_P, minlength=count)[1:].astype(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """Every distinct score of a region pixel, highest first, and what reaches it.

    `values_V` float32; `marked_V` region pixels >= the score; `covered_V` mean over regions of the
    share of their pixels >= it; `false_V` and `above_V` pixels outside >= and > it; all counts are
    int64. `outside` is the number of pixels outside every region.
    """

    values_V: np.ndarray
    marked_V: np.ndarray
    covered_V: np.ndarray
    false_V: np.ndarray
    above_V: np.ndarray
    outside: int

    @classmethod
    def of(cls, regions: Regions, outside: Sequence[ValueCounts]) -> "Ladder":
        """Needs at least one region."""
        order = np.argsort(-regions.scores_P, kind="stable")
        ranked = regions.scores_P[order]
        ends_V = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        shares_P = np.repeat(1 / regions.sizes_K, regions.sizes_K)[order]
        values_V = ranked[ends_V]
        false_V, above_V = reaching(outside, values_V)
        return cls(
            values_V,
            marked_V=ends_V + 1,
            covered_V=np.cumsum(shares_P)[ends_V] / len(regions.sizes_K),
            false_V=false_V,
            above_V=above_V,
            outside=sum(part.total for part in outside),
        )


def overlap_area(ladder: Ladder, limit: float = AUPRO_LIMIT) -> float:
    """The area under (false positive rate, covered share) from 0 to `limit`, over the limit.

    With whole components as regions this is AUPRO; with saturated ones AU-sPRO. Needs at least one
    pixel outside the regions.
    """
    area, start_x, start_y = 0.0, 0.0, 0.0
    for first in range(0, len(ladder.values_V), _BLOCK):
        rungs = slice(first, first + _BLOCK)
        # Level up to the score, then across all pixels outside that share it.
        x_2V = np.stack([ladder.above_V[rungs], ladder.false_V[rungs]], 1) / ladder.outside
        y_V = np.append(start_y, ladder.covered_V[rungs])
        y_2V = np.stack([y_V[:-1], y_V[1:]], 1)
        x, y = np.append(start_x, x_2V), np.append(start_y, y_2V)
        area += _area(x, y, limit)
        start_x, start_y = x[-1], y[-1]
    area += _area(np.array([start_x, 1.0]), np.array([start_y, start_y]), limit)
    return min(float(area / limit), 1.0)  # 1 + 4e-16 is rounding


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Under straight lines from point to point, up to x = limit; x never falls."""
    width, rise = np.diff(x), np.diff(y)
    kept = np.clip(limit - x[:-1], 0, width)
    share = np.divide(kept, width, out=np.zeros_like(width), where=width > 0)
    return float(kept @ (y[:-1] + rise * share / 2))

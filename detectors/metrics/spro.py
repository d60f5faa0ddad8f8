"""Saturated regions of MVTec LOCO AD, for sPRO: a region saturates once enough of it is detected.

With ground-truth channels A_i, saturation areas s_i and the pixels P(t) above the threshold:

    sPRO(t) = 1/m * sum over i of min(|A_i & P(t)| / s_i, 1)

Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection
and Localization", IJCV 130 (2022). Each channel is one defect, never split into components, and
channels may overlap. The grey value of a channel names its saturation area in the category's
`defects_config.json`. The false positive rate counts the pixels outside all channels of their
image.

min(|A & P| / s, 1) is the detected share of the s highest pixels of A. So a saturated region is
treated as a region of these s pixels, and the area under sPRO is `aupro.overlap_area`. The official
evaluator (v2.0) uses score > t instead of score >= t; over all thresholds that is the same curve.

Shapes: H, W map; K channels; P pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detectors.metrics.aupro import Regions
from pipeline.errors import UserError

# The false positive rate that papers on MVTec LOCO report AU-sPRO at.
SPRO_LIMIT = 0.05
# The entries of defects_config.json by their grey value.
Defects = Mapping[int, Mapping[str, Any]]


def defects_by_value(defects_config: Sequence[Mapping[str, Any]]) -> Defects:
    """The result of `pipeline.sources.layouts.mvtec.read_defects_config`, by grey value."""
    return {defect["pixel_value"]: defect for defect in defects_config}


def saturation_area(defect: Mapping[str, Any], area: int, scale: float = 1.0) -> int:
    """The number of a channel's `area` pixels at which it saturates; from 1 to `area`.

    Relative thresholds are shares of the area, rounded down. Absolute ones count pixels of the
    original image: `scale` is the area of one of them in pixels of the mask.
    """
    threshold = defect["saturation_threshold"]
    wanted = threshold * (area if defect["relative_saturation"] else scale)
    # At least 1: a small share of a tiny region would give 0, and a division by it. Truncation and
    # the cap at the area follow the official evaluator.
    return min(max(int(wanted), 1), area)


def saturated_regions(
    map_HW: np.ndarray,
    masks_KHW: np.ndarray,
    values_K: np.ndarray,
    defects: Defects,
    scale: float = 1.0,
) -> Regions:
    """The highest scores of every channel, as many as saturate it; empty channels are skipped.

    `map_HW` float32, `masks_KHW` bool, `values_K` uint8. UserError for a grey value that the
    configuration does not have.
    """
    scores, sizes = [], []
    for mask_HW, value in zip(masks_KHW, values_K.tolist(), strict=True):
        if value not in defects:
            raise UserError(
                f"grey value {value} is not in defects_config.json (known: {sorted(defects)}); "
                "take the dataset's own file"
            )
        # Only the s highest pixels decide when the channel saturates.
        scores_P = np.sort(map_HW[mask_HW])[::-1]
        if len(scores_P):
            sizes.append(saturation_area(defects[value], len(scores_P), scale))
            # A copy, so that the rest of the scores is freed.
            scores.append(scores_P[: sizes[-1]].copy())
    return Regions(np.concatenate([np.empty(0, np.float32), *scores]), np.array(sizes, np.int64))

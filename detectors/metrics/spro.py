"""Saturated regions of MVTec LOCO: sPRO, where finding enough of a region is finding it.

Each ground-truth channel is one defect, never split into components; channels may overlap. Its grey
value leads to a saturation area s in the category's `defects_config.json`; its overlap is
min(found pixels / s, 1). That is the share of its s highest pixels that are found, so a saturated
region is a region of s pixels and the area under sPRO is `metrics_regions.overlap_area`. The false
positive rate counts the pixels outside all channels of their image. The official evaluator finds a
pixel when it exceeds the threshold (>); over all thresholds that is the same curve.
Bergmann et al., "Beyond Dents and Scratches", IJCV 130 (2022).

Shapes: H, W map; K channels; P pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detectors.metrics.aupro import Regions
from pipeline.errors import UserError

SPRO_LIMIT = 0.05
Defects = Mapping[int, Mapping[str, Any]]
"""The entries of defects_config.json by their grey value."""


def defects_by_value(defects_config: Sequence[Mapping[str, Any]]) -> Defects:
    """What `pipeline.sources.layouts.mvtec.read_defects_config` returns, ready to be looked up."""
    return {defect["pixel_value"]: defect for defect in defects_config}


def saturation_area(defect: Mapping[str, Any], area: int, scale: float = 1.0) -> int:
    """How many of a channel's `area` pixels are enough; from 1 to `area`.

    Relative thresholds are shares of the area, cut down to whole pixels. Absolute ones are pixels
    of the original image: `scale` is the area of one of them in pixels of the mask.
    """
    threshold = defect["saturation_threshold"]
    wanted = threshold * (area if defect["relative_saturation"] else scale)
    return min(max(int(wanted), 1), area)


def saturated_regions(
    map_HW: np.ndarray,
    masks_KHW: np.ndarray,
    values_K: np.ndarray,
    defects: Defects,
    scale: float = 1.0,
) -> Regions:
    """The highest scores of every channel, as many as saturate it; empty channels are passed over.

    UserError for a grey value that the configuration does not have.
    """
    scores, sizes = [], []
    for mask_HW, value in zip(masks_KHW, values_K.tolist(), strict=True):
        if value not in defects:
            raise UserError(
                f"grey value {value} is not in defects_config.json (known: {sorted(defects)}); "
                "take the dataset's own file"
            )
        scores_P = np.sort(map_HW[mask_HW])[::-1]
        if len(scores_P):
            sizes.append(saturation_area(defects[value], len(scores_P), scale))
            scores.append(scores_P[: sizes[-1]].copy())
    return Regions(np.concatenate([np.empty(0, np.float32), *scores]), np.array(sizes, np.int64))

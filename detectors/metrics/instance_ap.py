"""IAP and IAP@k, the instance metrics of DeSTSeg: pixel precision against the recall of regions.

A region (8-connected component) is found at a threshold when more than half of its pixels reach
it. IAP is the mean over regions of the precision at which each is found, after the envelope (the
best precision at that recall or more); IAP@k is the envelope at recall k. Precision counts all
pixels of all test images. Zhang et al., "DeSTSeg", CVPR 2023, section 4.2.

One thing differs from the authors' code: it counts a pixel as found when `score * mask` reaches the
threshold, which takes in the whole background once thresholds are 0 or less. Here marked pixels are
looked at alone, so a map and the same map minus 1 have the same value.

Shapes: K regions; V distinct scores of region pixels.
"""

import numpy as np

from detectors.metrics.aupro import Ladder, Regions
from detectors.metrics.image import at_least
from detectors.metrics.pixel import precisions

IAP_RECALL = 0.9


def instance_scores(regions: Regions) -> np.ndarray:
    """(K,) float32: the highest threshold that more than half of a region's pixels reach."""
    starts_K = np.cumsum(regions.sizes_K) - regions.sizes_K
    scores_K: np.ndarray = regions.scores_P[starts_K + regions.sizes_K // 2]
    return scores_K


def instance_precisions(regions: Regions, ladder: Ladder) -> np.ndarray:
    """(K,) float64: the envelope at the recall of 1, 2, ... K regions; IAP is its mean."""
    scores_K = np.sort(instance_scores(regions))
    rungs_K = len(ladder.values_V) - 1 - np.searchsorted(ladder.values_V[::-1], scores_K)
    # From all regions (lowest threshold) to one: the best precision so far holds for less recall.
    return np.maximum.accumulate(precisions(ladder)[rungs_K])[::-1]


def iap(precisions_K: np.ndarray) -> float:
    """Instance average precision from `instance_precisions`."""
    return float(precisions_K.mean())


def iap_at(precisions_K: np.ndarray, recall: float = IAP_RECALL) -> float:
    """IAP@k: the precision at the smallest recall of regions that is at least `recall`."""
    return float(precisions_K[at_least(recall, len(precisions_K)) - 1])

"""IAP and IAP@k, the instance metrics of DeSTSeg: pixel precision against instance recall.

A region (8-connected component) is detected at a threshold when more than half of its pixels reach
it. Precision counts all pixels of all test images, good ones included. Each of the K regions has
the precision at its own threshold, replaced by the envelope: the best precision at that recall or
more. IAP is the mean envelope over the regions, IAP@k the envelope at recall k.
Zhang et al., "DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly Detection", CVPR
2023, section 4.2; `IAPS` in the authors' code.

One thing differs from the authors' code. It counts a pixel as true positive when `score * mask`
reaches the threshold, which includes the whole background once thresholds are 0 or less. Here only
pixels of regions are counted, so a map and the same map minus 1 have the same value.

Shapes: K regions; V distinct scores of region pixels.
"""

import numpy as np

from detectors.metrics.aupro import Regions, ThresholdCounts
from detectors.metrics.image import at_least
from detectors.metrics.pixel import precisions

# DeSTSeg reports IAP@90.
IAP_RECALL = 0.9


def instance_scores(regions: Regions) -> np.ndarray:
    """(K,) float32: the highest threshold that more than half of a region's pixels reach."""
    starts_K = np.cumsum(regions.sizes_K) - regions.sizes_K
    # Sorted from high to low, floor(n/2) + 1 pixels reach the score at place floor(n/2).
    scores_K: np.ndarray = regions.scores_P[starts_K + regions.sizes_K // 2]
    return scores_K


def instance_precisions(regions: Regions, counts: ThresholdCounts) -> np.ndarray:
    """(K,) float64: the envelope at the recall of 1, 2, ... K regions; IAP is its mean."""
    scores_K = np.sort(instance_scores(regions))
    # Each instance score is a pixel of a region, so it is among the counted scores.
    places_K = len(counts.values_V) - 1 - np.searchsorted(counts.values_V[::-1], scores_K)
    # From all regions (lowest threshold) to one: the running maximum is the envelope.
    return np.maximum.accumulate(precisions(counts)[places_K])[::-1]


def iap(precisions_K: np.ndarray) -> float:
    """Instance average precision from `instance_precisions`."""
    return float(precisions_K.mean())


def iap_at(precisions_K: np.ndarray, recall: float = IAP_RECALL) -> float:
    """IAP@k: the envelope at the smallest instance recall that is at least `recall`."""
    return float(precisions_K[at_least(recall, len(precisions_K)) - 1])

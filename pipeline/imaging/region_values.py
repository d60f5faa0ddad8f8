"""The values of an image inside a region: copied, replaced, ranked, counted; the same bits, fast.

NumPy does each of these in one line, ten times slower: a mask moves rows of three values one by
one, and a partition about two positions is not vectorised.

Shapes: H, W image or window; C channels; R pixels of a region.
"""

import cv2
import numpy as np


def values_in(image_HWC: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    """`image_HWC[where_HW]`: the values of a region, (R, C), row by row."""
    return image_HWC.reshape(-1, image_HWC.shape[2]).compress(where_HW.ravel(), axis=0)


def put_values(image_HWC: np.ndarray, where_HW: np.ndarray, values_RC: np.ndarray) -> None:
    """`image_HWC[where_HW] = values_RC`, of a contiguous image and values of its dtype."""
    # A pixel as one item; its bytes are not looked at.
    pixel = np.dtype((np.void, image_HWC.shape[2] * image_HWC.itemsize))
    image_HWC.view(pixel)[..., 0][where_HW] = np.ascontiguousarray(values_RC).view(pixel)[:, 0]


def copy_region(source_HWC: np.ndarray, where_HW: np.ndarray, into_HWC: np.ndarray) -> None:
    """`into_HWC[where_HW] = source_HWC[where_HW]`, of images of one dtype."""
    cv2.copyTo(source_HWC, where_HW.view(np.uint8), into_HWC)


def labels_in(labels_HW: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    """`np.unique(labels_HW[where_HW])`, of labels as OpenCV counts them, from 0 on."""
    return np.flatnonzero(np.bincount(labels_HW.ravel().compress(where_HW.ravel())))


def with_labels(labels_HW: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`np.isin(labels_HW, wanted)`, (H, W) bool, of such labels."""
    is_wanted = np.zeros(int(labels_HW.max()) + 1, np.bool_)
    is_wanted[wanted] = True
    return is_wanted.take(labels_HW)


def median(values_RC: np.ndarray) -> np.ndarray:
    """`np.median` of each channel, (C,)."""
    count = len(values_RC)
    low_C, high_C = _ranked(np.ascontiguousarray(values_RC.T), (count - 1) // 2)
    return (low_C + high_C) / 2 if count % 2 == 0 else low_C


def quantile(values_RC: np.ndarray, share: float) -> np.ndarray:
    """`np.quantile` of each channel, (C,), interpolated linearly; without NaN."""
    place = (len(values_RC) - 1) * share
    low_C, high_C = _ranked(np.ascontiguousarray(values_RC.T), int(place))
    part = place - int(place)
    # From the nearer of both, as NumPy does.
    return (
        high_C - (high_C - low_C) * (1 - part) if part >= 0.5 else low_C + (high_C - low_C) * part
    )


def percentile(values_R: np.ndarray, percent: float) -> float:
    """`np.percentile` of float32 values without NaN, but for the last bit; there must be one.

    The values are sorted in place.
    """
    place = (len(values_R) - 1) * (percent / 100)
    low_1, high_1 = _ranked(values_R[None], int(place))
    step, part = high_1[0].item() - low_1[0].item(), place - int(place)
    # In double precision and rounded at the end, as NumPy does.
    found = high_1[0].item() - step * (1 - part) if part >= 0.5 else low_1[0].item() + step * part
    return float(np.float32(found))


def _ranked(values_CR: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The values of that rank and of the next one in each row, two of (C,); sorts in place."""
    values_CR.partition(rank, axis=1)
    low_C = values_CR[:, rank]
    return low_C, values_CR[:, rank + 1 :].min(1) if rank + 1 < values_CR.shape[1] else low_C

"""Input checks of the metrics: finite scores and maps, labels 0 or 1, bool masks.

Shapes: N images; H, W map; K ground-truth regions.
"""

import numpy as np
from numpy.typing import ArrayLike

from pipeline.errors import UserError


def finite_scores(scores_N: ArrayLike) -> np.ndarray:
    """The scores as (N,) float64; UserError that names the first one that is NaN or infinite."""
    # Kinds: float, int, unsigned and bool.
    scores = np.asarray(scores_N)
    if scores.ndim != 1 or scores.dtype.kind not in "fiub":
        raise UserError(f"scores_N must be (N,) numbers, got {scores.shape} {scores.dtype}")
    scores = scores.astype(np.float64)
    # The first wrong index tells which image to look at.
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise UserError(
            f"scores_N[{wrong[0]}] is {scores[wrong[0]]}, expected finite scores ({len(wrong)} of "
            f"{len(scores)} are not); the detector's training diverged: check its loss"
        )
    return scores


def binary_labels(labels_N: ArrayLike, length: int) -> np.ndarray:
    """The labels as (N,) int64, 0 normal and 1 anomalous; UserError for anything else."""
    # Lengths are compared first, since labels without scores have no meaning.
    labels = np.asarray(labels_N)
    if labels.shape != (length,):
        raise UserError(f"labels_N must be ({length},) as scores_N is, got {labels.shape}")
    # Other values, such as 255 from a mask, would silently count as anomalous.
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if len(wrong):
        raise UserError(
            f"labels_N[{wrong[0]}] is {labels[wrong[0]]!r}, expected 0 (normal) or 1 (anomalous)"
        )
    return labels.astype(np.int64)


def finite_map(map_HW: np.ndarray, size_HW: tuple[int, ...], what: str) -> None:
    """UserError unless the map is finite float32 of the masks' size; `what` names the image."""
    # float16 maps would tie pixels that differ, and float64 ones would double the memory.
    if not isinstance(map_HW, np.ndarray) or map_HW.dtype != np.float32:
        got = getattr(map_HW, "dtype", type(map_HW).__name__)
        raise UserError(f"{what}: a map is a float32 array, got {got}; convert it first")
    # Resizing masks could delete thin regions, so the map has to follow them.
    if map_HW.shape != size_HW:
        raise UserError(
            f"{what}: the map is {map_HW.shape}, expected the masks' size {size_HW}; resize the "
            "map (bilinear), never the masks"
        )
    # NaN would sort anywhere and spoil every threshold.
    if not np.isfinite(map_HW).all():
        row, column = np.argwhere(~np.isfinite(map_HW))[0]
        raise UserError(
            f"{what}: map_HW[{row}, {column}] is {map_HW[row, column]}, expected finite values"
        )


def bool_masks(masks_KHW: np.ndarray, values_K: np.ndarray, what: str) -> None:
    """UserError unless there are (K, H, W) bool masks and as many uint8 grey values."""
    if masks_KHW.ndim != 3 or masks_KHW.dtype != np.bool_:
        raise UserError(
            f"{what}: masks_KHW must be (K, H, W) bool, got {masks_KHW.shape} {masks_KHW.dtype}"
        )
    if values_K.shape != masks_KHW.shape[:1] or values_K.dtype != np.uint8:
        raise UserError(
            f"{what}: values_K must be ({len(masks_KHW)},) uint8, one grey value per mask, got "
            f"{values_K.shape} {values_K.dtype}"
        )

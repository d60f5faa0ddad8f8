"""Scores of images that the fit which made them has not seen, as a file beside a checkpoint.

    found = read_held_out(folder)            # None for checkpoints of older releases
    found.normal_scores_N, found.pair_scores_M, found.labels_M

Every normal of the version and every sample that was scored is there once: those of the validation
split by the detector itself, those of the training split by a fit without them, where the training
was cross-fitted. They are what thresholds and `compare` rest on.

Shapes: N normals; M samples; P parts; 2 shard and row.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load as arrays_of
from safetensors.numpy import save as bytes_of

from pipeline.errors import IntegrityError
from pipeline.utils.files import named_disk_errors, write_atomic

FILE = "held_out.safetensors"
# The number of the fold of images in the validation split, which no fit sees.
VALIDATION = -1


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Parts and image scores; `*_places` are shard and row of the image in the version.

    `labels_M` is 1 for synthetic anomalies and 0 for controls, `kinds_M` indexes `KINDS`. Numbers
    of folds are `VALIDATION` for images of the validation split. Scores are float32, parts float64,
    all others int64.
    """

    normal_places_N2: np.ndarray
    normal_parts_NP: np.ndarray
    normal_scores_N: np.ndarray
    normal_folds_N: np.ndarray
    pair_places_M2: np.ndarray
    pair_parts_MP: np.ndarray
    pair_scores_M: np.ndarray
    pair_folds_M: np.ndarray
    labels_M: np.ndarray
    kinds_M: np.ndarray

    def of_fold(self, fold: int) -> "HeldOut":
        """The same images, judged by the fit without that part."""
        return replace(
            self,
            normal_folds_N=np.full_like(self.normal_folds_N, fold),
            pair_folds_M=np.full_like(self.pair_folds_M, fold),
        )

    def shifted(self, shift_P: np.ndarray) -> "HeldOut":
        """The same images with that much added to the parts of all of them."""
        # Without images the number of parts is unknown.
        normals_NP, pairs_MP = (
            parts + shift_P if len(parts) else parts
            for parts in (self.normal_parts_NP, self.pair_parts_MP)
        )
        return replace(self, normal_parts_NP=normals_NP, pair_parts_MP=pairs_MP)

    def scored(self, normal_scores_N: np.ndarray, pair_scores_M: np.ndarray) -> "HeldOut":
        """The same images with these scores."""
        return replace(self, normal_scores_N=normal_scores_N, pair_scores_M=pair_scores_M)


def joined(parts: list[HeldOut]) -> HeldOut:
    """All images of several fits."""
    return HeldOut(
        *(_stacked([getattr(part, one.name) for part in parts]) for one in fields(HeldOut))
    )


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    # Without images the number of parts is unknown, and the array has no columns.
    return np.concatenate([array for array in arrays if array.size] or arrays[:1])


def write_held_out(folder: Path, found: HeldOut) -> None:
    """Write the file of a checkpoint's folder."""
    arrays = {one.name: np.ascontiguousarray(getattr(found, one.name)) for one in fields(HeldOut)}
    with named_disk_errors(folder):
        write_atomic(folder / FILE, bytes_of(arrays))


def read_held_out(folder: Path) -> HeldOut | None:
    """The file of a checkpoint's folder; None where there is none."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        arrays = arrays_of(path.read_bytes())
        return HeldOut(**{one.name: arrays[one.name] for one in fields(HeldOut)})
    except Exception as error:
        raise IntegrityError(
            f"{path} is damaged ({type(error).__name__}); delete its folder and train again"
        ) from None

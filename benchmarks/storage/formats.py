"""The same samples as a dataset version and in the formats that it is compared with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from benchmarks.storage.samples import Triple
from pipeline.dataset.version import Version
from pipeline.dataset.version_writer import VersionHeader
from pipeline.generation.publish import publish
from pipeline.records import ImageResult

# A mask is stored as 0 and 255, as image files of masks usually are.
WHITE = np.uint8(255)


def version(folder: Path, results: list[ImageResult], **options: Any) -> Version:
    """A published version of these results."""
    # A header without settings: only the content of the shards matters here.
    header = VersionHeader(settings={}, plan_digest="0" * 12)
    return publish(folder, "photo", results, [], header, gallery=False, **options)


def shard_bytes(version: Version) -> int:
    """Bytes of all shards, including data that the other formats do not hold."""
    return sum(shard["bytes"] for shard in version.index["shards"])


def write_png(folder: Path, samples: list[Triple]) -> int:
    """Write three PNG files per sample with OpenCV's defaults; returns the bytes of all."""
    folder.mkdir(exist_ok=True)
    for number, (original, edited, mask) in enumerate(samples):
        for kind, pixels in (("original", original), ("edited", edited), ("mask", mask * WHITE)):
            # OpenCV writes BGR.
            colours = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
            cv2.imwrite(str(folder / f"{number}-{kind}.png"), colours)
    return sum(path.stat().st_size for path in folder.iterdir())


def gzip_arrays(path: Path, arrays: list[np.ndarray]) -> list[Any]:
    """The usual way to use HDF5: one compressed array each, with favourable chunks."""
    file = h5py.File(path, "w")
    return [
        file.create_dataset(
            str(number), data=array, chunks=(1, *array.shape[1:]), compression="gzip"
        )
        for number, array in enumerate(arrays)
    ]


def zarr_v3(path: Path, arrays: list[np.ndarray]) -> list[Any]:
    """Zarr v3 arrays, one sample per chunk, no codec (its fastest setting); empty without Zarr."""
    try:
        # Zarr is no dependency of the project.
        import zarr
    except ImportError:
        return []
    made = []
    for number, array in enumerate(arrays):
        chunks = (1, *array.shape[1:])
        stored = zarr.create_array(
            path / str(number),
            shape=array.shape,
            chunks=chunks,
            dtype=array.dtype,
            compressors=None,
        )
        stored[:] = array
        made.append(stored)
    return made


def row_by_row(arrays: list[Any]) -> Callable[[np.ndarray], None]:
    """A function that reads samples one after the other from arrays indexed by sample."""

    def read(rows: np.ndarray) -> None:
        for index in rows.tolist():
            for array in arrays:
                array[index]

    return read

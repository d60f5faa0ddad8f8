"""Writing a shard, whole and in parts, against a PNG folder of the same samples."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.storage.formats import write_png
from benchmarks.storage.measuring import comparison, in_turn
from benchmarks.storage.samples import Triple
from benchmarks.timing import Row
from pipeline.dataset.hdf5_columns import file_image
from pipeline.dataset.shard_writer import SampleRows, write_shard
from pipeline.records import ImageResult
from pipeline.utils.files import sync

# Aims of writing, as multiples of a PNG folder's speed: with all checks, without reading back, and
# without digests.
WRITING = 5.0, 5.0, 6.0


def writing(
    folder: Path, results: list[ImageResult], samples: list[Triple], clock: Callable[[], float]
) -> list[Row]:
    """A shard as the store writes it, without reading back, and the pixels alone like a PNG folder.

    Digests are SHA-256 of the decoded content and of the file. PNG files have none, are not read
    back and not synced.
    """
    path = folder / "written.h5"

    def whole(_: np.ndarray) -> None:
        write_shard(path, results)

    def stored(rows: SampleRows) -> None:
        with path.open("wb") as file:
            file.writelines(file_image(rows.to_columns("default"), {}, "default").pieces())
        sync(path)

    def unread(_: np.ndarray) -> None:
        rows = SampleRows()
        for result in results:
            rows.add(result)
        stored(rows)

    # Rows prepared in advance: their content digests are not part of the last measurement.
    ready = SampleRows()
    for result in results:
        ready.add(result)

    def pixels(_: np.ndarray) -> None:
        stored(ready)

    def png(rows: np.ndarray) -> None:
        write_png(folder / "png-again", [samples[row] for row in rows.tolist()])

    calls = {"whole": whole, "unread": unread, "pixels": pixels, "png": png}
    # Writing takes long, so three rounds are enough.
    seconds = in_turn(calls, clock, repeats=3)
    return [
        comparison("writing: digests, file digest, read back", "whole", "png", WRITING[0], seconds),
        comparison("writing: content digests, not read back", "unread", "png", WRITING[1], seconds),
        comparison("writing: no digests, not read back", "pixels", "png", WRITING[2], seconds),
    ]

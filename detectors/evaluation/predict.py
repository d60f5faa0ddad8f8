"""Prediction: score image files with a checkpoint, and record files that cannot be read.

    found = predict(checkpoint, [Path("camera/")], maps=Path("maps"))
    [(one.path, one.score, one.verdict) for one in found.images]

Images of any size and mode are preprocessed like the training images: decoded by
`pipeline.imaging.decode`, resized to the stored size of the version, then to the detector's input.
Maps are written at the size of the image file.

Shapes: B batch; H, W image after EXIF orientation; S side of the detector's input; 3 colour (RGB).
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from detectors.evaluation.annotate import PictureWriter
from detectors.evaluation.image_paths import find_images
from detectors.evaluation.map_files import SCALE_RULE, MapWriter
from detectors.evaluation.results import THRESHOLDS, thresholds_of
from detectors.evaluation.score_table import (
    COLUMNS,
    Prediction,
    Unfinished,
    Why,
    csv_text,
    failure_row,
    json_of,
    stamp,
)
from detectors.heatmaps import Scale
from detectors.scoring import Explain, score, stack_images
from detectors.training.checkpoint import Card, Restored, load
from detectors.training.progress import Watcher
from pipeline.errors import ImageError, UserError
from pipeline.imaging.decode import load_image
from pipeline.utils.files import (
    is_stream,
    named_disk_errors,
    replaced_by,
    require_writable,
    write_atomic,
)
from pipeline.utils.names import text_of

MAPS_JSON = "maps.json"
# Beside this name the rows of an unfinished run are kept when only maps are written.
TABLE = "scores.csv"
# Threads that decode files; decoders release the interpreter lock.
_READERS = 4


@dataclass(frozen=True, slots=True)
class Predictions:
    """All images that could be read, in order, and the errors of the others by path.

    `threshold` is the name of the threshold that verdicts depend on; `heat` is the colour scale of
    the overlays, None without maps.
    """

    card: Card
    threshold: str
    images: tuple[Prediction, ...]
    failures: Mapping[str, str]
    device: str
    seconds: float
    heat: Scale | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One JSON object, as `anomalysmith predict --json` prints it."""
        # `verdict_by` is null when there is no such threshold, and verdicts are unknown.
        thresholds = thresholds_of(self.card.calibration)
        return {
            "detector": self.card.detector,
            "category": self.card.version.category,
            "checkpoint": self.card.sha256,
            "thresholds": thresholds,
            "verdict_by": self.threshold if self.threshold in thresholds else None,
            "anomalous": sum(one.verdict == "anomalous" for one in self.images),
            "images": [asdict(one) for one in self.images],
            "failures": [{"path": path, "error": why} for path, why in self.failures.items()],
            "maps": {"rule": SCALE_RULE, "heat": asdict(self.heat)} if self.heat else None,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "notes": dict(self.notes),
        }

    def to_csv(self) -> str:
        """One line per image, the unreadable ones at the end with their error."""
        # Unreadable files have a row, so that no file is missing from the table.
        failures = [failure_row(path, why) for path, why in self.failures.items()]
        return csv_text([COLUMNS, *(one.row() for one in self.images), *failures])


def predict(
    checkpoint: Path,
    images: Sequence[Path],
    maps: Path | None = None,
    *,
    explain: Path | None = None,
    csv: Path | None = None,
    stream: BinaryIO | None = None,
    links: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    threshold: str = "threshold_1",
    watcher: Watcher | None = None,
) -> Predictions:
    """Score files and all images inside folders; with `maps`, write two PNG files per image there.

    With `explain`, a detector that gives reasons writes one annotated picture per image there.
    Rows go to `stream` as images are scored, and to the file `csv` at the end. With `csv` or `maps`
    an interrupted run is continued by the same arguments. Links in folders may lead into `links`.

    Verdicts depend on `threshold`, by default the one that at most 1 % of validation normals reach;
    they are `unknown` when the checkpoint lacks it. UserError for a path that does not exist, or
    when there is no image at all.
    """
    if threshold not in THRESHOLDS:
        raise UserError(f"a threshold is one of {', '.join(THRESHOLDS)}; got {threshold!r}")
    # All checks of arguments come before the model is loaded.
    failures: dict[str, str] = {}
    outputs = [folder for folder in (maps, explain) if folder is not None]
    paths = find_images(images, outputs, links, failures)
    for folder in outputs:
        require_writable(folder)
    restored = load(checkpoint, device, precision)
    if explain is not None and not restored.detector.explains:
        raise UserError(
            f"{restored.card.detector} gives scores and maps without reasons to draw; train `parts`"
        )
    heat = restored.card.calibration.heat
    writer = MapWriter(maps, Scale(*heat) if heat else None, paths) if maps is not None else None
    pictures = PictureWriter(explain, paths) if explain is not None else None
    run = _Run(restored, threshold, writer, failures, stream, pictures)
    started = time.perf_counter()
    output = csv or (maps and maps / TABLE)
    with _unfinished(output, restored, maps) as unfinished:
        done = run.score(paths, batch_size, unfinished, watcher or Watcher())
        notes = {}
        # Without the threshold there are scores but no verdicts; the calibration knows why.
        if run.thresholds.get(threshold) is None:
            why = restored.card.calibration.notes.get(threshold, "it was not calibrated")
            notes["verdict"] = f"the checkpoint has no {threshold}: {why}"
        found = Predictions(
            restored.card, threshold, tuple(done), failures, restored.compute.describe(),
            time.perf_counter() - started, writer.scale if writer else None, notes,
        )  # fmt: skip
        if stream is not None:
            _write(stream, [failure_row(path, why) for path, why in failures.items()])
        if csv is not None:
            with named_disk_errors(csv.parent):
                write_atomic(csv, found.to_csv().encode())
        if maps is not None:
            text = json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n"
            with named_disk_errors(maps):
                write_atomic(maps / MAPS_JSON, text.encode())
        if unfinished is not None:
            unfinished.finished()
    return found


@contextmanager
def _unfinished(
    output: Path | None, restored: Restored, maps: Path | None
) -> Iterator[Unfinished | None]:
    """The rows of an earlier run like this one; None where there is no file to keep them beside."""
    if output is None or is_stream(output):
        yield None
        return
    card, compute = restored.card, restored.compute
    run = {
        "checkpoint": card.sha256,
        "device": compute.describe(),
        "maps": maps and text_of(maps.resolve()),
    }
    with Unfinished.beside(replaced_by(output), run) as unfinished:
        yield unfinished


class _Run:
    """Scores images batch by batch, so that memory does not grow with their number."""

    def __init__(
        self,
        restored: Restored,
        threshold: str,
        writer: MapWriter | None,
        failures: dict[str, str],
        stream: BinaryIO | None,
        pictures: PictureWriter | None,
    ) -> None:
        self.restored, self.threshold, self.writer = restored, threshold, writer
        self.pictures = pictures
        self.failures, self.stream = failures, stream
        self.thresholds = thresholds_of(restored.card.calibration)

    def score(
        self,
        paths: Sequence[Path],
        batch_size: int,
        unfinished: Unfinished | None,
        watcher: Watcher,
    ) -> list[Prediction]:
        """The predictions in the order of the paths; what an unfinished run has is not repeated."""
        if self.stream is not None:
            _write(self.stream, [COLUMNS])
        done: list[Prediction] = []
        watcher.begin("images", len(paths))
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            # Before the files are read: one that changes meanwhile is scored again next time.
            stamps = {path: stamp(path) for path in batch}
            found = {path: one for path in batch if (one := self._kept(path, unfinished))}
            fresh = dict(self._scored([path for path in batch if path not in found]))
            if unfinished is not None:
                unfinished.add((one, stamps[path]) for path, one in fresh.items())
            found |= fresh
            ordered = [found[path] for path in batch if path in found]
            if self.stream is not None:
                _write(self.stream, [one.row() for one in ordered])
            done += ordered
            watcher.step(start + len(batch), {})
        watcher.end()
        return done

    def _kept(self, path: Path, unfinished: Unfinished | None) -> Prediction | None:
        """The prediction of an earlier run, if neither the image nor its maps have changed."""
        kept = unfinished.kept(path) if unfinished else None
        if kept is None or (self.writer and not self.writer.holds(path, kept)):
            return None
        if self.pictures and not self.pictures.holds(path, kept):
            return None
        files = kept.files if self.writer else None
        if self.writer and files:
            self.writer.scale = self.writer.scale or Scale(files.low, files.high)
        return Prediction.judged(
            text_of(path), kept.score, self.thresholds, self.threshold, files, kept.why
        )

    def _scored(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Prediction]]:
        """The predictions of one batch; errors of unreadable files are added to `failures`."""
        size_HW = self.restored.card.version.image_size
        with ThreadPoolExecutor(_READERS) as pool:
            # `map` keeps the order of the files.
            loaded = list(pool.map(lambda path: _read(path, size_HW), paths))
        # Unreadable files leave the batch.
        usable = []
        for path, content in zip(paths, loaded, strict=True):
            if isinstance(content, ImageError):
                self.failures[text_of(path)] = str(content)
            else:
                usable.append((path, content))
        if not usable:
            return
        images = stack_images([pixels for _, pixels in usable])
        explain: Explain = "picture" if self.pictures else "words"
        scored = score(self.restored.detector, self.restored.compute, images, explain=explain)
        size = self.restored.detector.settings.size
        for (path, _), value, map_SS, reasons, regions in zip(
            usable, scored.scores_B.tolist(), scored.maps_BHW, scored.reasons, scored.regions,
            strict=True,
        ):  # fmt: skip
            files = self.writer.write(path, map_SS, reasons) if self.writer else None
            picture = self.pictures.write(path, size, regions, reasons) if self.pictures else None
            why = Why(tuple(json_of(reason, size) for reason in reasons), picture)
            yield (
                path,
                Prediction.judged(
                    text_of(path), value, self.thresholds, self.threshold, files, why
                ),
            )


def _write(stream: BinaryIO, rows: Sequence[Sequence[str]]) -> None:
    """Write rows at once: a reader at the other end is waiting for them."""
    stream.write(csv_text(rows).encode())
    stream.flush()


def _read(path: Path, size_HW: tuple[int, int] | None) -> np.ndarray | ImageError:
    """(H, W, 3) uint8 pixels, or the error of the image; errors of the disk are raised."""
    try:
        return load_image(path, size_HW)
    except ImageError as error:
        return error

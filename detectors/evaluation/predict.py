"""Prediction: score image files with a checkpoint, and record files that cannot be read.

    found = predict(checkpoint, [Path("camera/")], maps=Path("maps"))
    [(one.path, one.score, one.verdict) for one in found.images]

Images of any size and mode are preprocessed like the training images: decoded by
`pipeline.imaging.decode`, resized to the stored size of the version, then to the detector's input.
Maps are written at the size of the image file.

Shapes: B batch; H, W image after EXIF orientation; S side of the detector's input; 3 colour (RGB).
"""

import csv
import hashlib
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from detectors.evaluation.results import THRESHOLDS, thresholds_of
from detectors.heatmaps import UINT16_MAX, Scale, overlay, to_uint16
from detectors.scoring import resize_maps, score, stack_images
from detectors.training.checkpoint import Card, Restored, load
from detectors.training.progress import Watcher
from pipeline.errors import ImageError, UserError
from pipeline.imaging.decode import is_image_name, load_image
from pipeline.utils.files import named_disk_errors, require_writable, slug, write_atomic

Verdict = Literal["normal", "anomalous", "unknown"]
MAPS_JSON = "maps.json"
# Threads that decode files; decoders release the interpreter lock.
_READERS = 4
# Explains in maps.json how to get map values from the 16-bit files.
_SCALE_RULE = (
    f"map value = low + grey / {UINT16_MAX} * (high - low), with the low and high of each file; "
    "the heat overlays share one scale"
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image. `over` says for every threshold of the checkpoint whether `score >= threshold`.

    `map` and `overlay` are file names inside the folder of maps; `low` and `high` are the map
    values of grey 0 and 65535.
    """

    # Field names are keys of the JSON output.
    path: str
    score: float
    verdict: Verdict
    over: Mapping[str, bool]
    map: str | None = None
    overlay: str | None = None
    low: float | None = None
    high: float | None = None


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
            "maps": {"rule": _SCALE_RULE, "heat": asdict(self.heat)} if self.heat else None,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "notes": dict(self.notes),
        }

    def to_csv(self) -> str:
        """One line per image, the unreadable ones at the end with their error."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "score", "verdict", *THRESHOLDS, "map", "overlay", "error"])
        for one in self.images:
            # A threshold that the checkpoint lacks leaves its column empty.
            flags = [int(one.over[name]) if name in one.over else "" for name in THRESHOLDS]
            row = [one.path, repr(one.score), one.verdict, *flags]
            writer.writerow([*row, one.map or "", one.overlay or "", ""])
        # Unreadable files have a row, so that no file is missing from the table.
        for path, why in self.failures.items():
            writer.writerow([path, *[""] * (4 + len(THRESHOLDS)), why])
        return text.getvalue()


def predict(
    checkpoint: Path,
    images: Sequence[Path],
    maps: Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    threshold: str = "threshold_1",
    watcher: Watcher | None = None,
) -> Predictions:
    """Score files and all images inside folders; with `maps`, write two PNG files per image there.

    Verdicts depend on `threshold`, by default the one that at most 1 % of validation normals reach;
    they are `unknown` when the checkpoint lacks it. UserError for a path that does not exist, or
    when there is no image at all.
    """
    if threshold not in THRESHOLDS:
        raise UserError(f"a threshold is one of {', '.join(THRESHOLDS)}; got {threshold!r}")
    # All checks of arguments come before the model is loaded.
    paths = list(find_images(images, maps))
    if maps is not None:
        require_writable(maps)
    restored = load(checkpoint, device, precision)
    watcher = watcher or Watcher()
    writer = _MapWriter(maps, restored.card) if maps is not None else None
    done: list[Prediction] = []
    failures: dict[str, str] = {}
    started = time.perf_counter()
    # Files are decoded batch by batch, so memory does not grow with their number.
    watcher.begin("images", len(paths))
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        done += _scored(batch, restored, threshold, failures, writer)
        watcher.step(start + len(batch), {})
    watcher.end()
    notes = {}
    # Without the threshold there are scores but no verdicts; the calibration knows why.
    if thresholds_of(restored.card.calibration).get(threshold) is None:
        why = restored.card.calibration.notes.get(threshold, "it was not calibrated")
        notes["verdict"] = f"the checkpoint has no {threshold}: {why}"
    found = Predictions(
        restored.card, threshold, tuple(done), failures, restored.compute.describe(),
        time.perf_counter() - started, writer.scale if writer else None, notes,
    )  # fmt: skip
    if maps is not None:
        text = json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n"
        with named_disk_errors(maps):
            write_atomic(maps / MAPS_JSON, text.encode())
    return found


def find_images(places: Iterable[Path], maps: Path | None = None) -> Iterator[Path]:
    """The named files, and the images inside named folders in alphabetical order; each file once.

    Files in the folder `maps` are outputs of earlier runs and are skipped. UserError for a path
    that does not exist, and when nothing was found.
    """
    seen: set[Path] = set()
    places = list(places)
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such file or folder")
        # A named file is taken as it is; in folders only names of images count.
        inside = [place]
        if place.is_dir():
            inside = sorted(
                path for path in place.rglob("*") if is_image_name(path) and path.is_file()
            )
        for path in inside:
            # Files named explicitly are never skipped.
            ours = maps is not None and path != place and path.is_relative_to(maps)
            # A file may be named twice, or directly and through its folder or a link.
            if path.resolve() not in seen and not ours:
                seen.add(path.resolve())
                yield path
    if not seen:
        named = ", ".join(map(str, places)) or "nothing was named"
        raise UserError(f"no image to score in: {named}")


def _scored(
    paths: Sequence[Path],
    restored: Restored,
    threshold: str,
    failures: dict[str, str],
    writer: "_MapWriter | None",
) -> Iterator[Prediction]:
    """The predictions of one batch of files; errors of unreadable ones are added to `failures`."""
    card = restored.card
    with ThreadPoolExecutor(_READERS) as pool:
        # `map` keeps the order of the files.
        loaded = list(pool.map(lambda path: _read(path, card.version.image_size), paths))
    # Unreadable files leave the batch.
    usable = []
    for path, content in zip(paths, loaded, strict=True):
        if isinstance(content, ImageError):
            failures[str(path)] = str(content)
        else:
            usable.append((path, content))
    if not usable:
        return
    scored = score(
        restored.detector, restored.compute, stack_images([pixels for _, pixels in usable])
    )
    thresholds = thresholds_of(card.calibration)
    for (path, _), value, map_SS in zip(
        usable, scored.scores_B.tolist(), scored.maps_BHW, strict=True
    ):
        over_ = {name: value >= limit for name, limit in thresholds.items()}
        verdict: Verdict = "unknown"
        if threshold in over_:
            verdict = "anomalous" if over_[threshold] else "normal"
        files = writer.write(path, map_SS) if writer else {}
        yield Prediction(str(path), value, verdict, over_, **files)


def _read(path: Path, size_HW: tuple[int, int] | None) -> np.ndarray | ImageError:
    """(H, W, 3) uint8 pixels, or the error of the image; errors of the disk are raised."""
    try:
        return load_image(path, size_HW)
    except ImageError as error:
        return error


class _MapWriter:
    """Writes the map of an image as 16-bit grey, and as heat over the image."""

    def __init__(self, folder: Path, card: Card) -> None:
        self.folder = folder
        self.taken: set[str] = set()
        # The scale of normal maps, so that heat means the same in every run.
        heat = card.calibration.heat
        self.scale = Scale(*heat) if heat else None
        with named_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, map_SS: np.ndarray) -> dict[str, Any]:
        """Write both files; returns their names and the ends of the grey scale."""
        # The file is decoded again at its full size: scoring only kept the stored size.
        image_HW3 = load_image(path)
        size_HW = image_HW3.shape[0], image_HW3.shape[1]
        map_HW = resize_maps(torch.from_numpy(map_SS)[None], size_HW)[0].numpy()
        grey_HW, ends = to_uint16(map_HW)
        # Without validation normals there is no scale of normal maps; the first map supplies it.
        self.scale = self.scale or ends
        stem = self._stem(path)
        files = {"map": f"{stem}_map.png", "overlay": f"{stem}_heat.png"}
        # PNG level 3 is faster than the default of 6, for slightly larger files.
        for name, pixels in (
            (files["map"], grey_HW),
            (files["overlay"], overlay(image_HW3, map_HW, self.scale)),
        ):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png", compress_level=3)
            with named_disk_errors(self.folder):
                write_atomic(self.folder / name, buffer.getvalue())
        return {**files, "low": ends.low, "high": ends.high}

    def _stem(self, path: Path) -> str:
        """A file name from folder and name; more of the path where that name is taken.

        Names are compared without case, for disks that ignore it.
        """
        digest = hashlib.sha256(path.as_posix().encode()).hexdigest()[:12]
        # From the most readable name to a unique one.
        for text in (f"{path.parent.name}/{path.name}", path.as_posix(), f"{path.stem}@{digest}"):
            stem = slug(text)
            if stem.lower() not in self.taken:
                self.taken.add(stem.lower())
                return stem
        # The digest covers the whole path, and no file is scored twice.
        raise AssertionError(path)

"""Prediction: score image files with a checkpoint; files that cannot be read are recorded.

    found = predict(checkpoint, [Path("camera/")], maps=Path("maps"))
    [(one.path, one.score, one.verdict) for one in found.images]

A photograph of any size and mode takes the way of the training images: read by
`pipeline.imaging.decode`, resized to the size the version was stored at, then to the detector's.
Maps come back at the size of the photograph.

Shapes: B batch; H, W photograph upright; 3 colour (RGB).
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
from detectors.heatmaps import DEEP, Scale, deep_grey, over
from detectors.scoring import enlarged, score, stacked
from detectors.training.checkpoint import Card, Restored, load
from detectors.training.progress import Watcher
from pipeline.errors import ImageError, UserError
from pipeline.imaging.decode import is_image_name, load_image
from pipeline.utils.files import naming_the_disk, require_writable, slug, write_whole

Verdict = Literal["normal", "anomalous", "unknown"]
MAPS_JSON = "maps.json"
_READERS = 4
_SCALE_RULE = (
    f"map value = low + grey / {DEEP} * (high - low), with the low and high of each file; the heat "
    "overlays share one scale"
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image. `over` has every threshold of the checkpoint; an alarm is `score >= threshold`.

    `map` and `overlay` are file names inside the folder of maps; `low` and `high` are the map
    values that grey 0 and 65535 stand for.
    """

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
    """All images that could be read, in order, and what was wrong with the others, by path."""

    card: Card
    threshold: str
    images: tuple[Prediction, ...]
    failures: Mapping[str, str]
    device: str
    seconds: float
    heat: Scale | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
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
            flags = [int(one.over[name]) if name in one.over else "" for name in THRESHOLDS]
            row = [one.path, repr(one.score), one.verdict, *flags]
            writer.writerow([*row, one.map or "", one.overlay or "", ""])
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
    """Score files and all images inside folders; with `maps`, write two PNG per image there.

    The verdict hangs on `threshold`, by default the one that 1 % of validation normals reach;
    `unknown` when the checkpoint lacks it. UserError for a path that does not exist, or when there
    is no image at all.
    """
    if threshold not in THRESHOLDS:
        raise UserError(f"a threshold is one of {', '.join(THRESHOLDS)}; got {threshold!r}")
    paths = list(found_images(images, maps))
    if maps is not None:
        require_writable(maps)
    restored = load(checkpoint, device, precision)
    watcher = watcher or Watcher()
    writer = _MapWriter(maps, restored.card) if maps is not None else None
    done: list[Prediction] = []
    failures: dict[str, str] = {}
    started = time.perf_counter()
    watcher.begin("images", len(paths))
    for start in range(0, len(paths), batch_size):
        lot = paths[start : start + batch_size]
        done += _scored(lot, restored, threshold, failures, writer)
        watcher.step(start + len(lot), {})
    watcher.end()
    notes = {}
    if thresholds_of(restored.card.calibration).get(threshold) is None:
        why = restored.card.calibration.notes.get(threshold, "it was not calibrated")
        notes["verdict"] = f"the checkpoint has no {threshold}: {why}"
    found = Predictions(
        restored.card, threshold, tuple(done), failures, restored.compute.describe(),
        time.perf_counter() - started, writer.scale if writer else None, notes,
    )  # fmt: skip
    if maps is not None:
        text = json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n"
        with naming_the_disk(maps):
            write_whole(maps / MAPS_JSON, text.encode())
    return found


def found_images(places: Iterable[Path], maps: Path | None = None) -> Iterator[Path]:
    """The files that were named, and the images inside the folders, by name; each file once.

    What lies in the folder `maps` is ours, and left out of folders. UserError for a path that does
    not exist, and when nothing was found.
    """
    seen: set[Path] = set()
    places = list(places)
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: there is no such file or folder")
        inside = [place]
        if place.is_dir():
            inside = sorted(
                path for path in place.rglob("*") if is_image_name(path) and path.is_file()
            )
        for path in inside:
            ours = maps is not None and path != place and path.is_relative_to(maps)
            if path.resolve() not in seen and not ours:
                seen.add(path.resolve())
                yield path
    if not seen:
        named = ", ".join(map(str, places)) or "nothing was named"
        raise UserError(f"there is no image to score: {named}")


def _scored(
    paths: Sequence[Path],
    restored: Restored,
    threshold: str,
    failures: dict[str, str],
    writer: "_MapWriter | None",
) -> Iterator[Prediction]:
    """The predictions of one batch of files; what cannot be read goes to `failures`."""
    card = restored.card
    with ThreadPoolExecutor(_READERS) as pool:
        loaded = list(pool.map(lambda path: _read(path, card.version.image_size), paths))
    usable = []
    for path, content in zip(paths, loaded, strict=True):
        if isinstance(content, ImageError):
            failures[str(path)] = str(content)
        else:
            usable.append((path, content))
    if not usable:
        return
    scored = score(restored.detector, restored.compute, stacked([pixels for _, pixels in usable]))
    lines = thresholds_of(card.calibration)
    for (path, _), value, map_SS in zip(
        usable, scored.scores_B.tolist(), scored.maps_BHW, strict=True
    ):
        over_ = {name: value >= line for name, line in lines.items()}
        verdict: Verdict = "unknown"
        if threshold in over_:
            verdict = "anomalous" if over_[threshold] else "normal"
        files = writer.write(path, map_SS) if writer else {}
        yield Prediction(str(path), value, verdict, over_, **files)


def _read(path: Path, size_HW: tuple[int, int] | None) -> np.ndarray | ImageError:
    """Pixels, or what is wrong; a disk that fails is no error of the picture and is raised."""
    try:
        return load_image(path, size_HW)
    except ImageError as error:
        return error


class _MapWriter:
    """Writes the map of an image as 16-bit grey and as heat over the photograph."""

    def __init__(self, folder: Path, card: Card) -> None:
        self.folder = folder
        self.taken: set[str] = set()
        heat = card.calibration.heat
        self.scale = Scale(*heat) if heat else None
        with naming_the_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, map_SS: np.ndarray) -> dict[str, Any]:
        """The names of the two files, and the ends of the grey scale."""
        image_HW3 = load_image(path)
        size_HW = image_HW3.shape[0], image_HW3.shape[1]
        map_HW = enlarged(torch.from_numpy(map_SS)[None], size_HW)[0].numpy()
        grey_HW, ends = deep_grey(map_HW)
        # Without validation normals there is nothing to hold a map against but the first one.
        self.scale = self.scale or ends
        stem = self._stem(path)
        files = {"map": f"{stem}_map.png", "overlay": f"{stem}_heat.png"}
        for name, pixels in (
            (files["map"], grey_HW),
            (files["overlay"], over(image_HW3, map_HW, self.scale)),
        ):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png", compress_level=3)
            with naming_the_disk(self.folder):
                write_whole(self.folder / name, buffer.getvalue())
        return {**files, "low": ends.low, "high": ends.high}

    def _stem(self, path: Path) -> str:
        """Folder and name of the file; more of its path where another file has these too."""
        digest = hashlib.sha256(path.as_posix().encode()).hexdigest()[:12]
        for text in (f"{path.parent.name}/{path.name}", path.as_posix(), f"{path.stem}@{digest}"):
            stem = slug(text)
            if stem.lower() not in self.taken:
                self.taken.add(stem.lower())
                return stem
        raise AssertionError(path)  # no file is scored twice

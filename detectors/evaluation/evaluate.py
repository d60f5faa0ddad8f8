"""Evaluation: a checkpoint scores the real test split of a version, and every number is told.

    found = evaluate(checkpoint, version, out)     # out gets report.json, .md, .html, images.csv
    found.to_json()["image_auroc"]

Test images decide nothing: the thresholds are those of the checkpoint. Ground truth stays at its
stored size and maps are enlarged to it.

Shapes: H, W image as stored; K ground-truth regions.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectors.data.batches import Feed
from detectors.data.dataset import VersionDataset
from detectors.evaluation.report import write_report
from detectors.evaluation.results import (
    THRESHOLDS,
    Alarms,
    EvaluationReport,
    ImageRow,
    thresholds_of,
)
from detectors.metrics.evaluation import Evaluation
from detectors.metrics.image import image_metrics
from detectors.metrics.per_type import group_names, group_of
from detectors.scoring import score, stacked
from detectors.training.calibration import Calibration, scores_of
from detectors.training.checkpoint import Card, Restored, load
from detectors.training.precision import name_of
from detectors.training.progress import Watcher
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.utils.files import require_writable

IAP_SIZE = (256, 256)
"""(H, W) at which DeSTSeg takes IAP."""
LOCO_SIZES = {
    "breakfast_box": (1280, 1600), "juice_bottle": (1600, 800), "pushpins": (1000, 1700),
    "screw_bag": (1100, 1600), "splicing_connectors": (850, 1700),
}  # fmt: skip
"""(H, W) of MVTec LOCO's images, in whose pixels its `defects_config.json` gives areas."""
FEW = 30
"""Fewer good or anomalous test images than this get a remark: one of them moves a rate by 3 %."""

_Item = tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


def evaluate(
    checkpoint: Path,
    version: Version,
    out: Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    original_size: tuple[int, int] | None = None,
    watcher: Watcher | None = None,
) -> EvaluationReport:
    """Score a version's test split; with `out`, write the report there too.

    `original_size` is the (H, W) of the images before they were stored, which absolute saturation
    areas of AU-sPRO are given in; MVTec LOCO's own are known. UserError when the images have
    another shape than those of the training, or when `out` cannot be written.
    """
    if out is not None:
        require_writable(out)
    restored = load(checkpoint, device, precision)
    found = measure(
        restored, version, batch_size=batch_size, original_size=original_size, watcher=watcher
    )
    if out is not None:
        write_report(found, version, restored, out)
    return found


def measure(
    restored: Restored,
    version: Version,
    *,
    batch_size: int = 16,
    original_size: tuple[int, int] | None = None,
    watcher: Watcher | None = None,
) -> EvaluationReport:
    """What `evaluate` does once the checkpoint is read; writes nothing."""
    watcher = watcher or Watcher()
    card, calibration = restored.card, restored.card.calibration
    require_same_shape(card, version)
    scale, scale_note = saturation_scale(version, original_size)
    evaluation = Evaluation(version.index["defects_config"], saturation_scale=scale)
    named = _defect_names(version)
    rows: list[ImageRow] = []
    started = time.perf_counter()
    watcher.begin("test images", sum(shard.images for shard in version.test_shards))
    for lot in _lots(version.test_images(), batch_size):
        scored = score(
            restored.detector,
            restored.compute,
            stacked([pixels for pixels, *_ in lot]),
            version.image_size,
        )
        for (_, masks_KHW, values_K, record), value, map_HW in zip(
            lot, scored.scores_B.tolist(), scored.maps_BHW, strict=True
        ):
            name, type_ = record["name"], record["defect"]
            evaluation.add(value, map_HW, masks_KHW, values_K, type_, name)
            defects = dict.fromkeys(named[v] for v in values_K.tolist() if v in named)
            over = {key: value >= line for key, line in thresholds_of(calibration).items()}
            rows.append(ImageRow(name, type_, tuple(defects), value, over))
        watcher.step(len(rows), {})
    seconds = time.perf_counter() - started
    watcher.end()
    result = evaluation.result()
    return EvaluationReport(
        card=card,
        version=_facts(version),
        result=result,
        rows=tuple(rows),
        alarms=alarms(rows, calibration),
        per_defect=_per_defect(rows),
        validation_scores=_validation_scores(restored, version, batch_size),
        notes=result.notes | _remarks(rows, card, version) | scale_note,
        device=restored.compute.describe(),
        precision=name_of(restored.compute),
        batch_size=batch_size,
        seconds=seconds,
    )


def alarms(rows: Sequence[ImageRow], calibration: Calibration) -> dict[str, Alarms | None]:
    """The checkpoint's thresholds on the test images; None for one that it does not have."""
    lines = thresholds_of(calibration)
    good = [row for row in rows if not row.label]
    bad = [row for row in rows if row.label]
    found: dict[str, Alarms | None] = dict.fromkeys(THRESHOLDS)
    for name, line in lines.items():
        recall_by_type = {
            group: float(np.mean([row.over[name] for row in bad if row.group == group]))
            for group in group_names(row.type for row in bad)
        }
        found[name] = Alarms(
            line, sum(row.over[name] for row in good), len(good),
            sum(row.over[name] for row in bad), len(bad), recall_by_type,
        )  # fmt: skip
    return found


def require_same_shape(card: Card, version: Version) -> None:
    """UserError unless images have the proportions of those that the detector was trained on."""
    (height, width), (rows, columns) = card.version.image_size, version.image_size
    # Sides are multiples of 8, so the same proportions may differ by a rounding.
    if abs(height * columns - width * rows) > 8 * max(height, width, rows, columns):
        raise UserError(
            f"{version.dir} has images of {columns} x {rows} px, the detector was trained on "
            f"{width} x {height} px: objects would have another shape; generate a version with "
            f"image_size [{height}, {width}]"
        )


def saturation_scale(
    version: Version, original_size: tuple[int, int] | None
) -> tuple[float, dict[str, str]]:
    """Stored pixels per original pixel, as an area, and a note where it had to be assumed."""
    config = version.index["defects_config"]
    if config is None or all(defect["relative_saturation"] for defect in config):
        return 1.0, {}
    licence = version.index.get("licence") or ""
    known = LOCO_SIZES.get(version.category) if licence.startswith("CC BY-NC-SA") else None
    size = original_size or version.index.get("original_size") or known
    if size is None:
        return 1.0, {
            "saturation": "absolute saturation areas of defects_config.json were taken to be in "
            "pixels of the stored images; where images were stored smaller than they were, spro "
            "asks for more than it should: name their original size"
        }
    height, width = version.image_size
    return height * width / (size[0] * size[1]), {}


def _remarks(rows: Sequence[ImageRow], card: Card, version: Version) -> dict[str, str]:
    notes = {}
    if tuple(version.image_size) != IAP_SIZE:
        height, width = version.image_size
        notes["iap_size"] = (
            f"iap and iap90 are taken at the stored {height} x {width} px, published ones at "
            "256 x 256"
        )
    good = sum(not row.label for row in rows)
    if not rows:
        notes["test"] = "the version has no real test split, so there is nothing to measure"
    elif good == len(rows):
        notes["test"] = "the test split holds good images only"
    elif min(good, len(rows) - good) < FEW:
        notes["few_images"] = (
            f"{good} good and {len(rows) - good} anomalous test images are few: mind the intervals"
        )
    trained = card.version
    if trained.category != version.category:
        notes["category"] = (
            f"the detector was trained on {trained.category!r}, these are images of "
            f"{version.category!r}"
        )
    elif trained.digest != version.digest:
        notes["version"] = (
            f"the detector was trained on version {trained.name}, with another content; its "
            "training images may be among this version's"
        )
    if tuple(trained.image_size) != version.image_size:
        notes["image_size"] = (
            f"images are stored at {version.image_size[1]} x {version.image_size[0]} px, in "
            f"training at {trained.image_size[1]} x {trained.image_size[0]} px: they were resized "
            "by other steps"
        )
    if not thresholds_of(card.calibration):
        notes["thresholds"] = "the checkpoint has no thresholds: " + "; ".join(
            dict.fromkeys(card.calibration.notes.values())
        )
    if card.parity.verdict == "differs":
        notes["parity"] = (
            f"in training, scores in {card.parity.precision} differed from float32 by up to "
            f"{card.parity.difference:.2g} standard deviations"
        )
    return notes


def _per_defect(rows: Sequence[ImageRow]) -> dict[str, dict[str, Any]]:
    """Image AUROC of every named defect against all good images."""
    good = [row.score for row in rows if not row.label]
    found = {}
    for name in sorted({defect for row in rows for defect in row.defects}):
        bad = [row for row in rows if name in row.defects]
        labels = [0] * len(good) + [1] * len(bad)
        metrics = image_metrics(labels, [*good, *(row.score for row in bad)])
        found[name] = {
            "images": len(bad),
            "group": group_of(bad[0].type),
            "image_auroc": metrics.image_auroc,
            "recall": {
                line: float(np.mean([row.over[line] for row in bad])) for line in bad[0].over
            },
        }
    return found


def _validation_scores(restored: Restored, version: Version, batch_size: int) -> tuple[float, ...]:
    """Scores of the validation normals, if they are those that the thresholds were made from."""
    if restored.card.version.digest != version.digest:
        return ()
    normals = VersionDataset.normals(version, "validation")
    size = restored.detector.settings.size
    feed = Feed(normals, batch_size, size, restored.compute.device, numbered=False)
    scores_N, _ = scores_of(restored.detector, feed, restored.compute)
    return tuple(scores_N.tolist())


def _facts(version: Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "digest": version.digest,
        "category": version.category,
        "image_size": list(version.image_size),
        "licence": version.index.get("licence") or "",
        "test": dict(version.index["counts"]["test"]),
    }


def _defect_names(version: Version) -> Mapping[int, str]:
    config = version.index["defects_config"] or ()
    return {defect["pixel_value"]: defect["defect_name"] for defect in config}


def _lots(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    lot: list[_Item] = []
    for item in items:
        lot.append(item)
        if len(lot) == size:
            yield lot
            lot = []
    if lot:
        yield lot

"""Evaluation: score the real test split of a version with a checkpoint, and measure everything.

    found = evaluate(checkpoint, version, out)     # out gets report.json, .md, .html, images.csv
    found.to_json()["image_auroc"]

Nothing is tuned on test images: the thresholds are those of the checkpoint. Ground truth stays at
its stored size, and anomaly maps are resized to it.

Shapes: H, W image as stored; K ground-truth regions.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from detectors.evaluation.report import write_report
from detectors.evaluation.results import (
    THRESHOLDS,
    EvaluationReport,
    ImageRow,
    ThresholdResult,
    thresholds_of,
)
from detectors.metrics.evaluation import Evaluation
from detectors.metrics.image import image_metrics
from detectors.metrics.per_type import group_names, group_of
from detectors.scoring import score, stack_images
from detectors.training.calibration import Calibration
from detectors.training.checkpoint import Card, Restored, load
from detectors.training.precision import precision_name
from detectors.training.progress import Watcher
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.utils.files import require_writable

# (H, W) at which DeSTSeg computes IAP.
IAP_SIZE = (256, 256)
# (H, W) of MVTec LOCO's images, in whose pixels its `defects_config.json` states areas.
LOCO_SIZES = {
    "breakfast_box": (1280, 1600), "juice_bottle": (1600, 800), "pushpins": (1000, 1700),
    "screw_bag": (1100, 1600), "splicing_connectors": (850, 1700),
}  # fmt: skip
# Fewer good or anomalous test images than this get a remark: one of them changes a rate by 3 %.
FEW = 30

# An item of `Version.test_images`: pixels_HW3, masks_KHW, values_K, record.
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
    """Score a version's test split; with `out`, also write the report there.

    `original_size` is the (H, W) of the images before they were stored: absolute saturation areas
    of AU-sPRO count their pixels. For MVTec LOCO it is known. UserError when the images have
    another aspect ratio than those of the training, or when `out` cannot be written.
    """
    # Before any image is scored: an evaluation can take an hour.
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
    """The evaluation of a loaded checkpoint; writes nothing."""
    watcher = watcher or Watcher()
    # Thresholds belong to the precision in which the checkpoint was loaded.
    card, calibration = restored.card, restored.card.calibration
    require_same_shape(card, version)
    # Needed before the first image, because AU-sPRO is computed while images arrive.
    scale, scale_note = saturation_scale(version, original_size)
    evaluation = Evaluation(version.index["defects_config"], saturation_scale=scale)
    named = _defect_names(version)
    # Maps are not kept: only a row per image, and what the metrics need.
    rows: list[ImageRow] = []
    started = time.perf_counter()
    watcher.begin("test images", sum(shard.images for shard in version.test_shards))
    for batch in _batches(version.test_images(), batch_size):
        # Maps come back at the stored size, at which the ground truth is.
        scored = score(
            restored.detector,
            restored.compute,
            stack_images([pixels for pixels, *_ in batch]),
            version.image_size,
        )
        for (_, masks_KHW, values_K, record), value, map_HW in zip(
            batch, scored.scores_B.tolist(), scored.maps_BHW, strict=True
        ):
            name, type_ = record["name"], record["defect"]
            evaluation.add(value, map_HW, masks_KHW, values_K, type_, name)
            # A dict removes duplicates and keeps the order: channels of one defect share a name.
            defects = dict.fromkeys(named[v] for v in values_K.tolist() if v in named)
            over = {key: value >= limit for key, limit in thresholds_of(calibration).items()}
            rows.append(ImageRow(name, type_, tuple(defects), value, over))
        watcher.step(len(rows), {})
    # The rate includes decoding and the pixel metrics.
    seconds = time.perf_counter() - started
    watcher.end()
    result = evaluation.result()
    return EvaluationReport(
        card=card,
        version=_facts(version),
        result=result,
        rows=tuple(rows),
        at_thresholds=detections(rows, calibration),
        per_defect=_per_defect(rows),
        held_out_scores=_held_out_scores(restored, version),
        notes=result.notes | _remarks(rows, card, version) | scale_note,
        device=restored.compute.describe(),
        precision=precision_name(restored.compute),
        batch_size=batch_size,
        seconds=seconds,
    )


def detections(
    rows: Sequence[ImageRow], calibration: Calibration
) -> dict[str, ThresholdResult | None]:
    """Detections on the test images per threshold; None for one that the checkpoint lacks."""
    good = [row for row in rows if not row.label]
    bad = [row for row in rows if row.label]
    found: dict[str, ThresholdResult | None] = dict.fromkeys(THRESHOLDS)
    for name, threshold in thresholds_of(calibration).items():
        # Recall by group: groups of many images would dominate the pooled one.
        recall_by_type = {
            group: float(np.mean([row.over[name] for row in bad if row.group == group]))
            for group in group_names(row.type for row in bad)
        }
        found[name] = ThresholdResult(
            threshold, sum(row.over[name] for row in good), len(good),
            sum(row.over[name] for row in bad), len(bad), recall_by_type,
        )  # fmt: skip
    return found


def require_same_shape(card: Card, version: Version) -> None:
    """UserError unless images have the aspect ratio of those that the detector was trained on."""
    # Another size is fine, since images are resized; another shape would distort objects.
    (height, width), (rows, columns) = card.version.image_size, version.image_size
    # Stored sides are rounded to multiples of 8, so equal aspect ratios may differ by that much.
    if abs(height * columns - width * rows) > 8 * max(height, width, rows, columns):
        raise UserError(
            f"{version.dir} has images of {columns} x {rows} px, the detector was trained on "
            f"{width} x {height} px: objects would have another shape; generate a version with "
            f"image_size [{height}, {width}]"
        )


def saturation_scale(
    version: Version, original_size: tuple[int, int] | None
) -> tuple[float, dict[str, str]]:
    """Stored pixels per original pixel, as an area, and a note where it had to be assumed.

    1.0 where no defect has an absolute saturation area.
    """
    config = version.index["defects_config"]
    # Relative areas do not depend on the size.
    if config is None or all(defect["relative_saturation"] for defect in config):
        return 1.0, {}
    # A category may be called `pushpins` without being MVTec's; its licence tells.
    licence = version.index.get("licence") or ""
    known = LOCO_SIZES.get(version.category) if licence.startswith("CC BY-NC-SA") else None
    # The named size first, then that of the version, then that of the known dataset.
    size = original_size or version.index.get("original_size") or known
    if size is None:
        return 1.0, {
            "saturation": "absolute saturation areas of defects_config.json were taken in pixels "
            "of the stored images; where these are smaller than the original ones, the areas are "
            "too large and spro is too low: name the original size"
        }
    height, width = version.image_size
    return height * width / (size[0] * size[1]), {}


def _remarks(rows: Sequence[ImageRow], card: Card, version: Version) -> dict[str, str]:
    """What limits the numbers: few images, other sizes, versions, missing thresholds."""
    notes = {}
    # Small regions vanish and borders change with the size, so IAP is not comparable.
    if tuple(version.image_size) != IAP_SIZE:
        height, width = version.image_size
        notes["iap_size"] = (
            f"iap and iap90 are computed at the stored {height} x {width} px, published ones at "
            "256 x 256"
        )
    good = sum(not row.label for row in rows)
    # Test images: none, of one class, or few.
    if not rows:
        notes["test"] = "the version has no real test split, so there is nothing to measure"
    elif good == len(rows):
        notes["test"] = "the test split holds good images only"
    elif min(good, len(rows) - good) < FEW:
        notes["few_images"] = (
            f"{good} good and {len(rows) - good} anomalous test images are few: see the intervals"
        )
    # Version of the training against this one.
    trained = card.version
    if trained.category != version.category:
        notes["category"] = (
            f"the detector was trained on {trained.category!r}, these are images of "
            f"{version.category!r}"
        )
    elif trained.digest != version.digest:
        notes["version"] = (
            f"the detector was trained on version {trained.name}, with another content; its "
            "training images may be among the images of this one"
        )
    if tuple(trained.image_size) != version.image_size:
        notes["image_size"] = (
            f"images are stored at {version.image_size[1]} x {version.image_size[0]} px, those of "
            f"the training at {trained.image_size[1]} x {trained.image_size[0]} px: they were "
            "resized differently"
        )
    # Missing thresholds, with the reasons of the calibration.
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
    """Images, recall per threshold and image AUROC of every named defect, against all good images.

    An image with several defects counts for each of them.
    """
    good = [row.score for row in rows if not row.label]
    found = {}
    for name in sorted({defect for row in rows for defect in row.defects}):
        bad = [row for row in rows if name in row.defects]
        # Every defect against all good images, as the types.
        labels = [0] * len(good) + [1] * len(bad)
        metrics = image_metrics(labels, [*good, *(row.score for row in bad)])
        found[name] = {
            "images": len(bad),
            "group": group_of(bad[0].type),
            "image_auroc": metrics.image_auroc,
            "recall": {
                threshold: float(np.mean([row.over[threshold] for row in bad]))
                for threshold in bad[0].over
            },
        }
    return found


def _held_out_scores(restored: Restored, version: Version) -> tuple[float, ...]:
    """Scores of the normals that the thresholds were computed from, if they are of this version."""
    # Another version has other normals, and the chart would mix both.
    if restored.held_out is None or restored.card.version.digest != version.digest:
        return ()
    return tuple(restored.held_out.normal_scores_N.tolist())


def _facts(version: Version) -> dict[str, Any]:
    """The version as JSON for the report."""
    return {
        "name": version.name,
        "digest": version.digest,
        "category": version.category,
        "image_size": list(version.image_size),
        "licence": version.index.get("licence") or "",
        "test": dict(version.index["counts"]["test"]),
    }


def _defect_names(version: Version) -> Mapping[int, str]:
    """Names of defects by the grey value of their masks; empty without a defects_config.json."""
    config = version.index["defects_config"] or ()
    return {defect["pixel_value"]: defect["defect_name"] for defect in config}


def _batches(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of `size` items; the last one may be shorter."""
    while batch := list(islice(items, size)):
        yield batch

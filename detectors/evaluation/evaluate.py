"""Evaluation: score a test set with a checkpoint, and measure everything.

    found = evaluate(checkpoint, version, out)     # out gets report.json, .md, .html, images.csv
    found = evaluate(checkpoint, OwnFolders((good,), (bad,)), out)    # images without any version
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

from detectors.evaluation.labelled_images import (
    FolderImages,
    LabelledImage,
    LabelledImages,
    VersionImages,
)
from detectors.evaluation.own_folders import OwnFolders, list_own
from detectors.evaluation.report import write_report
from detectors.evaluation.results import (
    THRESHOLDS,
    EvaluationReport,
    ImageRow,
    MaskInDoubt,
    ThresholdResult,
    nothing_to_compare,
    thresholds_of,
)
from detectors.metrics.evaluation import Evaluation, EvaluationResult
from detectors.metrics.image import image_metrics, one_class
from detectors.metrics.per_type import group_names, group_of
from detectors.scoring import score, stack_images
from detectors.training.calibration import Calibration
from detectors.training.checkpoint import Card, Restored, load
from detectors.training.precision import precision_name
from detectors.training.progress import Watcher
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.imaging.mask_doubts import mask_doubt
from pipeline.utils.files import require_writable
from pipeline.utils.repeated import repeated

# (H, W) at which DeSTSeg computes IAP.
IAP_SIZE = (256, 256)
# (H, W) of MVTec LOCO's images, in whose pixels its `defects_config.json` states areas.
LOCO_SIZES = {
    "breakfast_box": (1280, 1600), "juice_bottle": (1600, 800), "pushpins": (1000, 1700),
    "screw_bag": (1100, 1600), "splicing_connectors": (850, 1700),
}  # fmt: skip
# Fewer good or anomalous test images than this get a remark: one of them changes a rate by 3 %.
FEW = 30


def evaluate(
    checkpoint: Path,
    tested: Version | OwnFolders,
    out: Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    original_size: tuple[int, int] | None = None,
    watcher: Watcher | None = None,
) -> EvaluationReport:
    """Score a version's test split, or a user's own folders; with `out`, also write the report.

    `original_size` is the (H, W) of the images before they were stored: absolute saturation areas
    of AU-sPRO count their pixels. For MVTec LOCO it is known. UserError when the images have
    another aspect ratio than those of the training, or when `out` cannot be written.
    """
    # Before any image is scored: an evaluation can take an hour.
    if out is not None:
        require_writable(out, by_libraries=True)
    # Before the checkpoint is loaded: folders are often named wrongly.
    listed = list_own(tested) if isinstance(tested, OwnFolders) else tested
    restored = load(checkpoint, device, precision)
    images: LabelledImages
    if isinstance(listed, Version):
        images = VersionImages(listed)
    else:
        trained = restored.card.version
        images = FolderImages(listed, trained.category, trained.image_size)
    found = measure(
        restored, images, batch_size=batch_size, original_size=original_size, watcher=watcher
    )
    if out is not None:
        write_report(found, images, restored, out)
    return found


def measure(
    restored: Restored,
    images: LabelledImages,
    *,
    batch_size: int = 16,
    original_size: tuple[int, int] | None = None,
    watcher: Watcher | None = None,
) -> EvaluationReport:
    """The evaluation of a loaded checkpoint; writes nothing."""
    watcher = watcher or Watcher()
    # Thresholds belong to the precision in which the checkpoint was loaded.
    card, calibration = restored.card, restored.card.calibration
    scale, scale_note = 1.0, dict[str, str]()
    if isinstance(images, VersionImages):
        require_same_shape(card, images.version)
        # Needed before the first image, because AU-sPRO is computed while images arrive.
        scale, scale_note = saturation_scale(images.version, original_size)
    evaluation = Evaluation(images.defects_config, saturation_scale=scale)
    named = _defect_names(images)
    # Maps are not kept: only a row per image, and what the metrics need.
    rows: list[ImageRow] = []
    doubts: list[MaskInDoubt] = []
    started = time.perf_counter()
    watcher.begin("test images", len(images))
    for batch in _batches(images.images(), batch_size):
        # Maps come back at the stored size, at which the ground truth is.
        scored = score(
            restored.detector,
            restored.compute,
            stack_images([image.pixels_HW3 for image in batch]),
            images.size_HW,
            explain="words",
        )
        for image, value, map_HW, reasons in zip(
            batch, scored.scores_B.tolist(), scored.maps_BHW, scored.reasons, strict=True
        ):
            masks_KHW, values_K = image.masks_KHW, image.values_K
            evaluation.add(value, map_HW, masks_KHW, values_K, image.type, image.name)
            # A dict removes duplicates and keeps the order: channels of one defect share a name.
            defects = dict.fromkeys(named[v] for v in values_K.tolist() if v in named)
            over = {key: value >= limit for key, limit in thresholds_of(calibration).items()}
            words = tuple(map(str, reasons))
            rows.append(
                ImageRow(image.name, image.type, tuple(defects), value, over, image.place, words)
            )
            doubts += _doubts(image)
        watcher.step(len(rows), {})
    # The rate includes decoding and the pixel metrics.
    seconds = time.perf_counter() - started
    watcher.end()
    result = evaluation.result()
    return EvaluationReport(
        card=card,
        tested=images.facts(),
        result=result,
        rows=tuple(rows),
        at_thresholds=detections(rows, calibration),
        per_defect=_per_defect(rows),
        held_out_scores=_held_out_scores(restored, images),
        notes=result.notes | _remarks(rows, card, images, result) | scale_note | _mask_note(doubts),
        device=restored.compute.describe(),
        precision=precision_name(restored.compute),
        batch_size=batch_size,
        seconds=seconds,
        failures=dict(images.failures),
        mask_doubts=tuple(doubts),
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


def _remarks(
    rows: Sequence[ImageRow], card: Card, images: LabelledImages, result: EvaluationResult
) -> dict[str, str]:
    """What limits the numbers: few images, other sizes, versions, missing thresholds."""
    notes = {}
    good = sum(not row.label for row in rows)
    # Test images: none, of one class, or few.
    if one_class(good, len(rows) - good):
        notes["test"] = nothing_to_compare(good, len(rows) - good)
    elif min(good, len(rows) - good) < FEW:
        notes["few_images"] = (
            f"{good} good and {len(rows) - good} anomalous test images are few: see the intervals"
        )
    if isinstance(images, VersionImages):
        notes |= _version_remarks(card, images.version)
        # Small regions vanish and borders change with the size, so IAP is not comparable.
        if tuple(images.size_HW) != IAP_SIZE and result.metrics["iap"] is not None:
            height, width = images.size_HW
            notes["iap_size"] = (
                f"iap and iap90 are computed at the stored {height} x {width} px, published ones "
                "at 256 x 256"
            )
    else:
        notes |= images.own.notes
    # Missing thresholds, with the reasons of the calibration.
    why = card.calibration.notes
    if not thresholds_of(card.calibration):
        notes["thresholds"] = "the checkpoint has no thresholds: " + "; ".join(
            dict.fromkeys(why.values())
        )
    else:
        # A threshold from few normals promises less than its name says.
        notes |= {name: f"{name}: {why[name]}" for name in THRESHOLDS if name in why}
        notes |= {name: why[name] for name in ("drift",) if name in why}
    if card.parity.verdict == "differs":
        notes["parity"] = (
            f"in training, scores in {card.parity.precision} differed from float32 by up to "
            f"{card.parity.difference:.2g} standard deviations"
        )
    return notes


def _version_remarks(card: Card, version: Version) -> dict[str, str]:
    """Another version, category or size than that of the training."""
    notes = {}
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


def _held_out_scores(restored: Restored, images: LabelledImages) -> tuple[float, ...]:
    """Scores of the normals that the thresholds were computed from, if they are of this version.

    Of a user's own folders always: both are images of the same product.
    """
    # Another version has other normals, and the chart would mix both.
    other = (
        isinstance(images, VersionImages) and restored.card.version.digest != images.version.digest
    )
    if restored.held_out is None or other:
        return ()
    return tuple(restored.held_out.normal_scores_N.tolist())


def _doubts(image: LabelledImage) -> list[MaskInDoubt]:
    """What is doubtful about the mask of an anomalous image."""
    if image.mask_fault:
        return [MaskInDoubt(image.name, None, image.mask_fault)]
    # Images without masks are counted elsewhere.
    if not len(image.masks_KHW):
        return []
    found = mask_doubt(image.name, np.asarray(image.masks_KHW.any(0)))
    return [MaskInDoubt(found.name, found.share, found.reason)] if found else []


def _mask_note(doubts: Sequence[MaskInDoubt]) -> dict[str, str]:
    """One remark on all masks in doubt."""
    if not doubts:
        return {}
    lines = repeated(((doubt.name, doubt.why) for doubt in doubts), "masks")
    return {"mask_doubts": "masks in doubt: " + "; ".join(lines)}


def _defect_names(images: LabelledImages) -> Mapping[int, str]:
    """Names of defects by the grey value of their masks; empty without a defects_config.json."""
    return {defect["pixel_value"]: defect["defect_name"] for defect in images.defects_config or ()}


def _batches(items: Iterator[LabelledImage], size: int) -> Iterator[list[LabelledImage]]:
    """Lists of `size` items; the last one may be shorter."""
    while batch := list(islice(items, size)):
        yield batch

"""The example images of a report: which test images are shown, and their anomaly maps.

Three sections: false alarms (good images with the highest scores), misses (anomalous images with
the lowest) and typical hits (around the median of each anomaly type). Maps of these few images are
computed again, so that an evaluation need not keep them all.

Shapes: H, W image as stored; 3 colour (RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.base import Reason
from detectors.evaluation.labelled_images import LabelledImages
from detectors.evaluation.reason_marks import marked
from detectors.evaluation.results import ImageRow
from detectors.heatmaps import Scale, outline_mask, overlay, scale_of
from detectors.metrics.per_type import group_names
from detectors.scoring import score, stack_images
from detectors.training.checkpoint import Restored
from pipeline.utils.html import thumbnail_uri

# Images in the sections of false alarms and misses, and of typical hits.
EACH = 4
TYPICAL = 6
# WebP quality; a page with all images stays below two megabytes.
QUALITY = 82
_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One test image with its map: uint8 RGB and float32 at the stored size.

    `mask_HW` (bool) is the union of its regions, None without any. `reasons` are in pixels of an
    input of side `size`.
    """

    row: ImageRow
    image_HW3: np.ndarray
    map_HW: np.ndarray
    mask_HW: np.ndarray | None
    reasons: Sequence[Reason] = ()
    size: int = 1

    def data_uris(self, scale: Scale) -> dict[str, str]:
        """Data URIs of the image, its heat overlay, and its ground truth (empty without)."""
        truth = (
            ""
            if self.mask_HW is None
            else thumbnail_uri(outline_mask(self.image_HW3, self.mask_HW))
        )
        return {
            "image": thumbnail_uri(self.image_HW3, QUALITY),
            "heat": thumbnail_uri(
                marked(overlay(self.image_HW3, self.map_HW, scale), self.size, self.reasons),
                QUALITY,
            ),
            "truth": truth,
        }


def choose(rows: Sequence[ImageRow]) -> dict[str, list[int]]:
    """Indices of the images to show, by section; the same for the same scores."""
    good = [place for place, row in enumerate(rows) if not row.label]
    bad = [place for place, row in enumerate(rows) if row.label]
    # Ties keep the order of the test split, so the choice is reproducible.
    by_score = sorted(bad, key=lambda place: rows[place].score)
    misses = by_score[:EACH]
    groups = group_names(rows[place].type for place in bad)
    # A few of each type, TYPICAL in total where there are fewer types.
    typical: list[int] = []
    for group in groups[:TYPICAL]:
        members = [place for place in by_score if rows[place].group == group]
        wanted = max(1, TYPICAL // len(groups))
        # Evenly spaced quantiles without the ends: one image is the median of its type.
        middles = np.linspace(0, 1, wanted + 2)[1:-1] * (len(members) - 1)
        typical += [members[place] for place in dict.fromkeys(middles.round().astype(int).tolist())]
    return {
        "false_alarms": sorted(good, key=lambda place: -rows[place].score)[:EACH],
        "misses": misses,
        # An image of a small type can be a miss already.
        "hits": [place for place in typical if place not in misses],
    }


def examples(
    rows: Sequence[ImageRow], images: LabelledImages, restored: Restored
) -> dict[str, list[Example]]:
    """The chosen images with their pixels, maps and ground truth, by section."""
    chosen = choose(rows)
    # An image may be in several sections; it is scored once.
    places = sorted({place for section in chosen.values() for place in section})
    made = {}
    for start in range(0, len(places), _BATCH):
        batch = places[start : start + _BATCH]
        read = [images.read(rows[place].place) for place in batch]
        pixels = stack_images([image.pixels_HW3 for image in read])
        scored = score(restored.detector, restored.compute, pixels, images.size_HW, explain="words")
        size = restored.detector.settings.size
        for place, image, map_HW, reasons in zip(
            batch, read, scored.maps_BHW, scored.reasons, strict=True
        ):
            # The union of its regions.
            mask_HW = np.asarray(image.masks_KHW.any(0)) if len(image.masks_KHW) else None
            made[place] = Example(rows[place], image.pixels_HW3, map_HW, mask_HW, reasons, size)
    return {name: [made[place] for place in section] for name, section in chosen.items()}


def heat_scale(restored: Restored, shown: Sequence[Example]) -> Scale | None:
    """The colour scale of the checkpoint; without validation normals, of the good images shown."""
    heat = restored.card.calibration.heat
    if heat is not None:
        return Scale(*heat)
    # Good images, because a scale from anomalies would hide them.
    maps = [one.map_HW for one in shown if not one.row.label] or [one.map_HW for one in shown]
    return scale_of(maps) if maps else None

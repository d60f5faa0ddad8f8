"""The pictures of a report: which test images to look at, and how they are drawn.

Three drawers: false alarms (good images with the highest scores), misses (anomalous images with the
lowest) and typical hits (around the middle of each anomaly type). Maps are made again for these few
images, so that an evaluation need not keep them all.

Shapes: H, W image as stored; 3 colour (RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.evaluation.results import ImageRow
from detectors.heatmaps import Scale, outlined, over, scale_of
from detectors.metrics.per_type import group_names
from detectors.scoring import score, stacked
from detectors.training.checkpoint import Restored
from pipeline.dataset.version import Version
from pipeline.utils.html import photo

EACH = 4
TYPICAL = 6
QUALITY = 82
"""Of WebP; small enough that a page with all pictures stays below a megabyte or two."""
_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One test image with its map; `mask_HW` is the union of its regions, None without any."""

    row: ImageRow
    image_HW3: np.ndarray
    map_HW: np.ndarray
    mask_HW: np.ndarray | None

    def pictures(self, scale: Scale) -> dict[str, str]:
        """Data URIs of the image, of its heat, and of its ground truth (empty without)."""
        truth = "" if self.mask_HW is None else photo(outlined(self.image_HW3, self.mask_HW))
        return {
            "image": photo(self.image_HW3, QUALITY),
            "heat": photo(over(self.image_HW3, self.map_HW, scale), QUALITY),
            "truth": truth,
        }


def choose(rows: Sequence[ImageRow]) -> dict[str, list[int]]:
    """Places of the images to show, by drawer; the same for the same scores."""
    good = [place for place, row in enumerate(rows) if not row.label]
    bad = [place for place, row in enumerate(rows) if row.label]
    by_score = sorted(bad, key=lambda place: rows[place].score)
    misses = by_score[:EACH]
    groups = group_names(rows[place].type for place in bad)
    typical: list[int] = []
    for group in groups[:TYPICAL]:
        members = [place for place in by_score if rows[place].group == group]
        wanted = max(1, TYPICAL // len(groups))
        middles = np.linspace(0, 1, wanted + 2)[1:-1] * (len(members) - 1)
        typical += [members[place] for place in dict.fromkeys(middles.round().astype(int).tolist())]
    return {
        "false_alarms": sorted(good, key=lambda place: -rows[place].score)[:EACH],
        "misses": misses,
        "hits": [place for place in typical if place not in misses],
    }


def examples(
    rows: Sequence[ImageRow], version: Version, restored: Restored
) -> dict[str, list[Example]]:
    """The chosen images with their pixels, maps and ground truth, by drawer."""
    chosen = choose(rows)
    places = sorted({place for drawer in chosen.values() for place in drawer})
    made = {}
    for start in range(0, len(places), _BATCH):
        lot = places[start : start + _BATCH]
        read = [_read(version, place) for place in lot]
        images = stacked([image_HW3 for image_HW3, _ in read])
        scored = score(restored.detector, restored.compute, images, version.image_size)
        for place, (image_HW3, mask_HW), map_HW in zip(lot, read, scored.maps_BHW, strict=True):
            made[place] = Example(rows[place], image_HW3, map_HW, mask_HW)
    return {name: [made[place] for place in drawer] for name, drawer in chosen.items()}


def _read(version: Version, place: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels of one test image, and the union of its regions."""
    for shard in version.test_shards:
        if place < shard.images:
            masks_KHW, _ = shard.masks(place)
            mask_HW = np.asarray(masks_KHW.any(0))
            return shard.original(place), mask_HW if len(masks_KHW) else None
        place -= shard.images
    raise IndexError(place)


def heat_scale(restored: Restored, shown: Sequence[Example]) -> Scale | None:
    """The scale of the checkpoint; without validation normals that of the good images shown."""
    heat = restored.card.calibration.heat
    if heat is not None:
        return Scale(*heat)
    maps = [one.map_HW for one in shown if not one.row.label] or [one.map_HW for one in shown]
    return scale_of(maps) if maps else None

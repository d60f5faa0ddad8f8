"""Pixel metrics of images that arrive one at a time: exact, in bounded memory, in any order.

Two things are kept of each image: the scores of its region pixels (few), and the values of its
defect-free pixels, merged into one table per anomaly type (`value_counts` states the memory).

An anomalous image without a marked pixel has no ground truth for localisation, so it is left out of
every pixel metric, and counted; so is an image without a map.

Shapes: H, W map and masks; K ground-truth channels.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from detectors.metrics.aupro import AUPRO_LIMIT, LIMITS, Regions, ThresholdCounts, overlap_area
from detectors.metrics.instance_ap import iap, iap_at, instance_precisions
from detectors.metrics.per_type import group_of
from detectors.metrics.pixel import pixel_ap, pixel_auroc
from detectors.metrics.spro import SPRO_LIMIT, defects_by_value, saturated_regions
from detectors.metrics.validate import bool_masks, finite_map
from detectors.metrics.value_counts import BUFFER, ValueCounts
from pipeline.errors import UserError
from pipeline.records import GOOD

# Names of the metrics, and reasons for those that do not exist.
METRICS = ("pixel_auroc", "pixel_ap", "aupro", "iap", "iap90", "spro")
NO_MAP = "the detector gave no map"
NO_MARKS = "no marked pixel"
NO_CONFIG = "no defects_config.json with saturation areas (only MVTec LOCO layouts have one)"


@dataclass(frozen=True, slots=True, eq=False)
class PixelMetrics:
    """Pixel metrics in [0, 1] under the names of `METRICS`, with a reason for each that is None.

    `aupro_at` and `spro_at` are the areas up to each false positive rate of `LIMITS`; `aupro` is
    the one up to 0.3, `spro` the one up to 0.05. `regions` counts 8-connected components.
    """

    values: dict[str, float | None]
    reasons: dict[str, str]
    aupro_at: dict[float, float]
    spro_at: dict[float, float]
    regions: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PixelResult:
    """Pixel metrics of each group with all good images, and of all images pooled.

    `pooled` has one exception: as in the official MVTec LOCO evaluator, its `spro` is the plain
    mean over groups.
    """

    pooled: PixelMetrics
    groups: dict[str, PixelMetrics]


@dataclass(slots=True)
class _GroupPixels:
    """What is kept of the images of one group; the good images form a group too."""

    outside: ValueCounts
    parts: list[Regions] = field(default_factory=list)
    channels: list[Regions] = field(default_factory=list)


class PixelStream:
    """Takes maps with their ground truth, one image at a time; `result` may be called any time.

    `saturation_scale`: mask pixels per original pixel, as an area, where masks are smaller than the
    original images, in whose pixels `defects_config` states absolute saturation areas. `buffer`:
    see `ValueCounts`.
    """

    def __init__(
        self,
        defects_config: Sequence[Mapping[str, Any]] | None = None,
        saturation_scale: float = 1.0,
        buffer: int = BUFFER,
    ) -> None:
        self._defects = None if defects_config is None else defects_by_value(defects_config)
        self._scale = saturation_scale
        self._pixels: dict[str, _GroupPixels] = defaultdict(
            lambda: _GroupPixels(ValueCounts(buffer))
        )
        self._groups: set[str] = set()
        self.left_out: Counter[str] = Counter()

    def add(
        self,
        map_HW: np.ndarray | None,
        masks_KHW: np.ndarray,
        values_K: np.ndarray,
        type: str,
        name: str = "the image",
    ) -> None:
        """Add one image: a finite float32 map at the masks' size, bool masks, uint8 grey values.

        K is 0 for good images and for sources without masks. UserError when the arrays do not fit;
        the stream is then unchanged.
        """
        # All checks come before the first change.
        bool_masks(masks_KHW, values_K, name)
        mask_HW = np.asarray(masks_KHW.any(0))
        # A good image with a mask is a mistake in the data, and would count as false positives.
        if type == GOOD and mask_HW.any():
            raise UserError(
                f"{name} is {GOOD!r}, but {int(mask_HW.sum())} of its pixels are marked as "
                "defective; correct its type or its masks"
            )
        if map_HW is not None:
            finite_map(map_HW, mask_HW.shape, name)
        # MVTec LOCO types become `logical` and `structural`.
        group = group_of(type)
        if map_HW is None or (type != GOOD and not mask_HW.any()):
            self.left_out[NO_MAP if map_HW is None else NO_MARKS] += 1
        else:
            # First what may raise, then what changes the stream.
            channels = None
            if self._defects is not None:
                channels = saturated_regions(
                    map_HW, masks_KHW, values_K, self._defects, self._scale
                )
            pixels = self._pixels[group]
            # Defect-free pixels of anomalous images count towards the false positive rate as well.
            pixels.outside.add(map_HW[~mask_HW])
            if type != GOOD:
                pixels.parts.append(Regions.of(map_HW, mask_HW))
                pixels.channels += [channels] if channels is not None else []
        if type != GOOD:
            # Also for an image that was left out: its group then has reasons instead of numbers.
            self._groups.add(group)

    def result(self) -> PixelResult:
        """Every pixel metric of every group, and of all images pooled."""
        groups = {group: self._measure([group]) for group in sorted(self._groups)}
        pooled = self._measure(sorted(self._groups))
        # sPRO of the pool is the mean over groups, if all groups have it.
        areas = [part.spro_at for part in groups.values()]
        if areas and all(areas):
            mean = {limit: sum(area[limit] for area in areas) / len(areas) for limit in LIMITS}
            values = pooled.values | {"spro": mean[SPRO_LIMIT]}
            pooled = replace(pooled, values=values, spro_at=mean)
        elif any(areas):
            # A mean over some of the groups would look like the official number without being it.
            without = next(name for name, part in groups.items() if not part.spro_at)
            reason = f"{without}: {groups[without].reasons['spro']}"
            pooled = replace(pooled, reasons=pooled.reasons | {"spro": reason})
        return PixelResult(pooled, groups)

    def _measure(self, groups: Sequence[str]) -> PixelMetrics:
        """The metrics of some groups together with the good images."""
        # `in` first: the defaultdict would create an empty group.
        members = [self._pixels[name] for name in groups if name in self._pixels]
        good = [self._pixels[GOOD]] if GOOD in self._pixels else []
        outside = [pixels.outside for pixels in members + good]
        regions = Regions.joined([part for pixels in members for part in pixels.parts])
        reason = self._nothing(groups, len(regions.sizes_K), sum(part.total for part in outside))
        if reason:
            return PixelMetrics(dict.fromkeys(METRICS), dict.fromkeys(METRICS, reason), {}, {})
        # All metrics but sPRO share these counts.
        counts = ThresholdCounts.of(regions, outside)
        precisions_K = instance_precisions(regions, counts)
        aupro_at = {limit: overlap_area(counts, limit) for limit in LIMITS}
        spro_at = {}
        # sPRO is defined per group only; `result` takes the mean over groups.
        channels = [part for pixels in members for part in pixels.channels]
        if channels and len(groups) == 1:
            saturated = ThresholdCounts.of(Regions.joined(channels), outside)
            spro_at = {limit: overlap_area(saturated, limit) for limit in LIMITS}
        values = {
            "pixel_auroc": pixel_auroc(counts),
            "pixel_ap": pixel_ap(counts),
            "aupro": aupro_at[AUPRO_LIMIT],
            "iap": iap(precisions_K),
            "iap90": iap_at(precisions_K),
            "spro": spro_at.get(SPRO_LIMIT),
        }
        # Without a configuration only sPRO is missing.
        reasons = {"spro": NO_CONFIG} if self._defects is None else {}
        return PixelMetrics(values, reasons, aupro_at, spro_at, len(regions.sizes_K))

    def _nothing(self, groups: Sequence[str], regions: int, outside: int) -> str:
        """The reason why there are no pixel metrics; empty when there are."""
        if not groups:
            return "there is no anomalous image"
        if not regions:
            return (
                NO_MAP
                if not self.left_out[NO_MARKS]
                else "no anomalous image has a mask with marked pixels"
            )
        return "" if outside else "every pixel is marked as defective"

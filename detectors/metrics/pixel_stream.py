"""Pixel metrics from images that come one after another: exact, in bounded memory, any order.

Of each image two things stay: the scores of its marked pixels (few), and its defect-free pixels
merged into the table of their anomaly type (metrics_values says what that costs).

An anomalous image without a marked pixel says nothing about where its defect is, so it is left out
of every pixel metric, and counted; so is an image without a map.

Shapes: H, W map and masks; K ground-truth channels.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from detectors.metrics.aupro import AUPRO_LIMIT, LIMITS, Ladder, Regions, overlap_area
from detectors.metrics.instance_ap import iap, iap_at, instance_precisions
from detectors.metrics.per_type import group_of
from detectors.metrics.pixel import pixel_ap, pixel_auroc
from detectors.metrics.spro import SPRO_LIMIT, defects_by_value, saturated_regions
from detectors.metrics.validate import bool_masks, finite_map
from detectors.metrics.value_counts import BUFFER, ValueCounts
from pipeline.errors import UserError
from pipeline.records import GOOD

METRICS = ("pixel_auroc", "pixel_ap", "aupro", "iap", "iap90", "spro")
NO_MAP = "the detector gave no map"
NO_MARKS = "no marked pixel"
NO_CONFIG = "no defects_config.json with saturation areas (only MVTec LOCO layouts have one)"


@dataclass(frozen=True, slots=True, eq=False)
class PixelMetrics:
    """Pixel metrics in [0, 1] under the names of `METRICS`, with a reason for each that is None.

    `aupro_at` and `spro_at` are the areas up to each false positive rate of `LIMITS`; `aupro` is
    the one up to 0.3, `spro` up to 0.05. `regions` counts 8-connected components.
    """

    values: dict[str, float | None]
    reasons: dict[str, str]
    aupro_at: dict[float, float]
    spro_at: dict[float, float]
    regions: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PixelResult:
    """Pixel metrics of each group with all good images, and of everything together.

    The pool's `spro` is not pooled: as in the official evaluator it is the plain mean over groups.
    """

    pooled: PixelMetrics
    groups: dict[str, PixelMetrics]


@dataclass(slots=True)
class _Seen:
    """What stays of the images of one group; `good` is one of them."""

    outside: ValueCounts
    parts: list[Regions] = field(default_factory=list)
    channels: list[Regions] = field(default_factory=list)


class PixelStream:
    """Takes maps with their ground truth, one image at a time; `result` may be asked for any time.

    `saturation_scale`: mask pixels per original pixel, as an area, where masks were made smaller
    than the images that `defects_config` counts its absolute saturation areas in. `buffer`: see
    `ValueCounts`.
    """

    def __init__(
        self,
        defects_config: Sequence[Mapping[str, Any]] | None = None,
        saturation_scale: float = 1.0,
        buffer: int = BUFFER,
    ) -> None:
        self._defects = None if defects_config is None else defects_by_value(defects_config)
        self._scale = saturation_scale
        self._seen: dict[str, _Seen] = defaultdict(lambda: _Seen(ValueCounts(buffer)))
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
        """Take in one image: a finite float32 map at the masks' size, bool masks, grey values.

        K is 0 for good images and for sources without masks. UserError when the parts do not fit,
        and then nothing was taken in.
        """
        bool_masks(masks_KHW, values_K, name)
        mask_HW = np.asarray(masks_KHW.any(0))
        if type == GOOD and mask_HW.any():
            raise UserError(
                f"{name} is {GOOD!r}, but {int(mask_HW.sum())} of its pixels are marked as "
                "defective; correct its type or its masks"
            )
        if map_HW is not None:
            finite_map(map_HW, mask_HW.shape, name)
        group = group_of(type)
        if map_HW is None or (type != GOOD and not mask_HW.any()):
            self.left_out[NO_MAP if map_HW is None else NO_MARKS] += 1
        else:
            channels = None
            if self._defects is not None:
                channels = saturated_regions(
                    map_HW, masks_KHW, values_K, self._defects, self._scale
                )
            seen = self._seen[group]
            seen.outside.add(map_HW[~mask_HW])
            if type != GOOD:
                seen.parts.append(Regions.of(map_HW, mask_HW))
                seen.channels += [channels] if channels is not None else []
        if type != GOOD:
            self._groups.add(group)

    def result(self) -> PixelResult:
        """Every pixel metric of every group, and of the pool."""
        groups = {group: self._measure([group]) for group in sorted(self._groups)}
        pooled = self._measure(sorted(self._groups))
        areas = [part.spro_at for part in groups.values()]
        if areas and all(areas):
            mean = {limit: sum(area[limit] for area in areas) / len(areas) for limit in LIMITS}
            values = pooled.values | {"spro": mean[SPRO_LIMIT]}
            pooled = replace(pooled, values=values, spro_at=mean)
        elif any(areas):
            without = next(name for name, part in groups.items() if not part.spro_at)
            reason = f"{without}: {groups[without].reasons['spro']}"
            pooled = replace(pooled, reasons=pooled.reasons | {"spro": reason})
        return PixelResult(pooled, groups)

    def _measure(self, groups: Sequence[str]) -> PixelMetrics:
        """The metrics of some groups together with the good images."""
        members = [self._seen[name] for name in groups if name in self._seen]
        good = [self._seen[GOOD]] if GOOD in self._seen else []
        outside = [seen.outside for seen in members + good]
        regions = Regions.joined([part for seen in members for part in seen.parts])
        reason = self._nothing(groups, len(regions.sizes_K), sum(part.total for part in outside))
        if reason:
            return PixelMetrics(dict.fromkeys(METRICS), dict.fromkeys(METRICS, reason), {}, {})
        ladder = Ladder.of(regions, outside)
        precisions_K = instance_precisions(regions, ladder)
        aupro_at = {limit: overlap_area(ladder, limit) for limit in LIMITS}
        spro_at = {}
        channels = [part for seen in members for part in seen.channels]
        if channels and len(groups) == 1:
            steps = Ladder.of(Regions.joined(channels), outside)
            spro_at = {limit: overlap_area(steps, limit) for limit in LIMITS}
        values = {
            "pixel_auroc": pixel_auroc(ladder),
            "pixel_ap": pixel_ap(ladder),
            "aupro": aupro_at[AUPRO_LIMIT],
            "iap": iap(precisions_K),
            "iap90": iap_at(precisions_K),
            "spro": spro_at.get(SPRO_LIMIT),
        }
        reasons = {"spro": NO_CONFIG} if self._defects is None else {}
        return PixelMetrics(values, reasons, aupro_at, spro_at, len(regions.sizes_K))

    def _nothing(self, groups: Sequence[str], regions: int, outside: int) -> str:
        """Why there are no pixel metrics, or nothing."""
        if not groups:
            return "there are no anomalous images"
        if not regions:
            return NO_MAP if not self.left_out[NO_MARKS] else "no anomalous image has marked pixels"
        return "" if outside else "every pixel is marked as defective"

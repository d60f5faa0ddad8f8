"""What good products of one category look like: a bank of patches, and limits for the gate.

Learned once per plan from at most `planning.CALIBRATION_IMAGES` training normals. Limits are
quantiles over regions that nobody touched: the outlines of parts, where they are and anywhere
else, each looked at as if it were the mask of an edit. Each image is held against the others,
never against itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.gate.patch_bank import PatchBank, build_bank, coverage, weighted
from pipeline.imaging.artifacts import clipped_share, noise_ratio, outline_ratio
from pipeline.imaging.masks import dilated, window
from pipeline.records import ObjectProposals, bounding_box
from pipeline.settings import pixels_at
from pipeline.utils.hashing import sha256_file

IN_PLACE, ANYWHERE = 4, 8
"""Regions per image: own parts where they are, and parts of any studied image at random places."""
TAIL = 0.005
"""Share of untouched regions that a limit may lie beyond, on its side."""
SLACK = 1.05
"""Limits are widened by this factor: they come from a few hundred regions."""
GRAIN_SLACK = 1.5
"""The same for grain, which is measured on whatever small and odd piece of ground was painted."""
USUAL_GRAIN = (0.4, 2.5)
"""Ratios of grain that are allowed whatever was learned: small patches of paint vary that much."""
MOST_GRAIN = 4.0
"""Ratio that is refused whatever was learned: in busy scenes regions of normals hold parts, whose
texture is no measure of grain."""
MAX_PARTS = 0.1
"""Share of a region and its surroundings that parts may cover where ground's grain is measured."""
MIN_GROUND = 40
"""Regions of ground without which grain is taken from all regions."""
MARKS = ("outline", "noise", "any_noise", "patch", "clipped")
CLIPPED_MORE = 0.02
"""Clipped share that is allowed beyond what the normals show."""

Sight = Callable[[], tuple[np.ndarray, ObjectProposals]]
"""Gives a normal's (H, W, 3) uint8 pixels and its parts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds that the category's own normals set; None where nothing could be learned.

    Their names are those of the fields of `GateSettings` that they stand in for.
    """

    max_outline_ratio: float | None = None
    min_noise_ratio: float | None = None
    max_noise_ratio: float | None = None
    max_patch_distance: float | None = None
    max_clipped: float | None = None
    images: int = 0
    regions: int = 0
    teacher: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class NormalModel:
    """A category's bank of patches (None without the network) and its limits."""

    patches: PatchBank | None = None
    limits: Limits = Limits()

    def without(self, digest: str) -> "NormalModel":
        """The same for judging samples of one image: its own patches prove nothing."""
        return self if self.patches is None else replace(self, patches=self.patches.without(digest))


def learn(sights: Mapping[str, Sight], teacher: Path | None, dilation: int = 4) -> NormalModel:
    """Study normals, given by the digests of their files; without a `teacher` no patches.

    `dilation` (pixels at 256) is how far a removal reaches beyond its object. Every image is
    loaded anew for each pass, so memory does not grow with their size.
    """
    ordered = {digest: sights[digest] for digest in sorted(sights)}
    bank = None
    if teacher is not None and ordered:
        bank = build_bank({digest: _pixels_of(sight) for digest, sight in ordered.items()}, teacher)
    shapes = _shapes(ordered, dilation)
    marks: dict[str, list[float]] = {name: [] for name in MARKS}
    regions = 0
    for digest, sight in ordered.items():
        image_HW3, proposals = sight()
        masks = list(_regions(digest, image_HW3.shape[:2], proposals, shapes, dilation))
        regions += len(masks)
        busy_HW = np.any(proposals.masks_NHW, axis=0)
        for mask_HW in masks:
            near = window(mask_HW)
            crop_HW3, where_HW = image_HW3[near], mask_HW[near]
            marks["outline"].append(outline_ratio(crop_HW3, where_HW))
            if np.mean(busy_HW[near]) <= MAX_PARTS:
                marks["noise"].append(noise_ratio(crop_HW3, where_HW, where_HW))
            marks["any_noise"].append(noise_ratio(crop_HW3, where_HW, where_HW))
            marks["clipped"].append(clipped_share(crop_HW3, where_HW))
        if bank is not None and len(ordered) > 1 and masks:
            asked_HW = np.logical_or.reduce(masks)
            distances_hw = bank.without(digest).distances(image_HW3, asked_HW)
            marks["patch"] += [weighted(distances_hw, coverage(mask_HW)) for mask_HW in masks]
    limits = _limits(marks)
    return NormalModel(bank, replace(
        limits, images=len(ordered), regions=regions,
        teacher=sha256_file(teacher) if teacher is not None else "",
    ))  # fmt: skip


def _limits(marks: Mapping[str, list[float]]) -> Limits:
    def high(name: str, slack: float = SLACK) -> float | None:
        values = marks[name]
        return float(np.quantile(values, 1 - TAIL)) * slack if values else None

    def low(name: str, slack: float = SLACK) -> float | None:
        values = marks[name]
        return float(np.quantile(values, TAIL)) / slack if values else None

    clipped = high("clipped")
    grain = "noise" if len(marks["noise"]) >= MIN_GROUND else "any_noise"
    lowest, highest = low(grain, GRAIN_SLACK), high(grain, GRAIN_SLACK)
    return Limits(
        max_outline_ratio=_rounded(high("outline")),
        min_noise_ratio=None if lowest is None else round(min(lowest, USUAL_GRAIN[0]), 5),
        max_noise_ratio=None
        if highest is None
        else round(min(max(highest, USUAL_GRAIN[1]), MOST_GRAIN), 5),
        max_patch_distance=_rounded(high("patch")),
        max_clipped=None if clipped is None else round(min(1.0, clipped + CLIPPED_MORE), 5),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _pixels_of(sight: Sight) -> Callable[[], np.ndarray]:
    return lambda: sight()[0]


def _shapes(sights: Mapping[str, Sight], dilation: int) -> list[np.ndarray]:
    """The outlines of a few parts of each image, cropped, as an edit's mask would have them."""
    shapes = []
    for digest, sight in sights.items():
        _, proposals = sight()
        rng = np.random.default_rng(int(digest[:16], 16))
        for index in rng.permutation(len(proposals))[:IN_PLACE]:
            mask_HW = grown(proposals.masks_NHW[index], dilation)
            x0, y0, x1, y1 = bounding_box(mask_HW)
            shapes.append(mask_HW[y0:y1, x0:x1])
    return shapes


def _regions(
    digest: str,
    size_HW: tuple[int, int],
    proposals: ObjectProposals,
    shapes: list[np.ndarray],
    dilation: int,
) -> Iterator[np.ndarray]:
    """Masks (H, W) of regions that nobody touched; which ones depends on digests alone."""
    rng = np.random.default_rng(int(digest[:16], 16))
    height, width = size_HW
    for index in rng.permutation(len(proposals))[:IN_PLACE]:
        yield grown(proposals.masks_NHW[index], dilation)
    for _ in range(ANYWHERE if shapes else 0):
        shape_hw = shapes[int(rng.integers(len(shapes)))]
        rows, columns = shape_hw.shape
        top = int(rng.integers(0, max(1, height - rows + 1)))
        left = int(rng.integers(0, max(1, width - columns + 1)))
        mask_HW = np.zeros(size_HW, np.bool_)
        mask_HW[top : top + rows, left : left + columns] = shape_hw[: height - top, : width - left]
        yield mask_HW


def grown(mask_HW: np.ndarray, dilation: int) -> np.ndarray:
    """A part's mask grown as a removal grows it; `dilation` in pixels at 256."""
    height, width = mask_HW.shape
    return dilated(mask_HW, round(pixels_at(dilation, (height, width))))


def pack(normality: NormalModel) -> tuple[dict[str, np.ndarray], Any]:
    """Arrays and facts for the stage cache."""
    facts: dict[str, Any] = {"limits": normality.limits.to_json(), "digests": None}
    bank = normality.patches
    if bank is None:
        return {}, facts
    arrays = {
        "cells": bank.cells_NC, "owners": bank.owners_N, "pooled": bank.pooled_KC,
        "scale": bank.scale_C,
    }  # fmt: skip
    return arrays, facts | {"digests": list(bank.digests)}


def unpack(arrays: dict[str, np.ndarray], facts: Any, teacher: Path | None) -> NormalModel:
    """The inverse of `pack`; the teacher's file is where this machine has it."""
    limits, digests = Limits(**facts["limits"]), facts["digests"]
    if digests is None or teacher is None:
        return NormalModel(None, limits)
    bank = PatchBank(
        arrays["cells"], arrays["owners"], arrays["pooled"], arrays["scale"],
        tuple(digests), teacher,
    )  # fmt: skip
    return NormalModel(bank, limits)

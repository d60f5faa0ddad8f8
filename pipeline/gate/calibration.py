"""Calibrate the gate on normal images of one category: a patch bank, and limits of the checks.

It runs once per plan on at most `cache_keys.CALIBRATION_IMAGES` normal training images. Limits are
quantiles over untouched regions: outlines of objects at their own place and at random places, each
measured as if it were the mask of an edit. Patches of an image are compared with those of the other
images, never with its own.

Shapes: H, W image; h, w crop or grid of cells; 3 colour (RGB, uint8).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.gate.limits import USUAL_NOISE, Limits
from pipeline.gate.patch_bank import PatchBank, build_bank, coverage, weighted
from pipeline.imaging.artifacts import clipped_share, noise_ratio, outline_ratio
from pipeline.imaging.masks import MaskCrop, dilated, window
from pipeline.imaging.part_shape import circle_share
from pipeline.part_kinds import kinds as part_kinds
from pipeline.part_kinds.kinds import Observed, PartKinds
from pipeline.records import ObjectProposals, bounding_box
from pipeline.settings import pixels_at
from pipeline.utils.file_hash import sha256_file

# Regions per image: own objects at their place, and objects of any calibration image at random
# places.
OWN_REGIONS, RANDOM_REGIONS = 4, 8
# Share of untouched regions that may exceed a limit.
TAIL = 0.005
# Limits are widened by this factor, because they are extreme quantiles of a few hundred regions.
SLACK = 1.05
# The same for noise ratios, which vary more: the inpainted region of an edit can be small.
NOISE_SLACK = 1.5
# Noise ratio that is always rejected. In busy scenes the regions of normals hold objects, whose
# texture would be taken for noise.
MAX_NOISE_RATIO = 4.0
# Largest share of a region and its surroundings that objects may cover for background noise.
MAX_OBJECT_SHARE = 0.1
# With fewer background regions than this, noise ratios are taken from all regions.
MIN_BACKGROUND_REGIONS = 40
# What is measured per region: `noise` on background only, `any_noise` everywhere.
ARTIFACTS = ("outline", "noise", "any_noise", "patch", "clipped")
# Clipped share that is accepted beyond what the normal images show.
CLIPPED_MORE = 0.02

# Loads a normal image: (H, W, 3) uint8 pixels and its proposals.
NormalImage = Callable[[], tuple[np.ndarray, ObjectProposals]]


@dataclass(frozen=True, slots=True, eq=False)
class NormalModel:
    """What is known about a category: patch bank (None without the network), limits, part kinds."""

    patches: PatchBank | None = None
    limits: Limits = field(default_factory=Limits)
    # None where too few images were studied, or their parts were not embedded.
    part_kinds: PartKinds | None = None

    def without(self, digest: str) -> "NormalModel":
        """The model for samples of one image (SHA-256 of its file), without its own patches."""
        return self if self.patches is None else replace(self, patches=self.patches.without(digest))


def learn(
    normals: Mapping[str, NormalImage], teacher: Path | None, dilation: int = 4
) -> NormalModel:
    """Calibrate on normal images, given by the SHA-256 of their files.

    `teacher` is the weights file of the network; without it there is no patch bank. `dilation`
    (pixels at 256) is how far a removal reaches beyond its object. Images are loaded again in every
    pass, so memory does not grow with their number.
    """
    # Sorted by digest, so that the order of the images cannot change the result.
    ordered = {digest: normals[digest] for digest in sorted(normals)}
    bank = None
    if teacher is not None and ordered:
        bank = build_bank(
            {digest: _pixels_of(normal) for digest, normal in ordered.items()}, teacher
        )
    shapes = _shapes(ordered, dilation)
    observed: list[Observed] = []
    measured: dict[str, list[float]] = {name: [] for name in ARTIFACTS}
    regions = 0
    for digest, normal in ordered.items():
        image_HW3, proposals = normal()
        seen = observed_parts(proposals)
        observed += [] if seen is None else [seen]
        masks = list(_regions(digest, image_HW3.shape[:2], proposals, shapes, dilation))
        regions += len(masks)
        # Artifacts of each region, measured as the gate measures an edit's mask.
        busy_HW = np.any(proposals.masks_NHW[~proposals.product_N], axis=0)
        for mask_HW in masks:
            near = window(mask_HW)
            crop_HW3, where_HW = image_HW3[near], mask_HW[near]
            measured["outline"].append(outline_ratio(crop_HW3, where_HW))
            if np.mean(busy_HW[near]) <= MAX_OBJECT_SHARE:
                measured["noise"].append(noise_ratio(crop_HW3, where_HW, where_HW))
            measured["any_noise"].append(noise_ratio(crop_HW3, where_HW, where_HW))
            measured["clipped"].append(clipped_share(crop_HW3, where_HW))
        # One pass of the network for all regions of the image; its own patches are excluded.
        if bank is not None and len(ordered) > 1 and masks:
            region_HW = np.logical_or.reduce(masks)
            distances_hw = bank.without(digest).distances(image_HW3, region_HW)
            measured["patch"] += [weighted(distances_hw, coverage(mask_HW)) for mask_HW in masks]
    limits = _limits(measured)
    limits = replace(
        limits, images=len(ordered), regions=regions,
        teacher=sha256_file(teacher) if teacher is not None else "",
    )  # fmt: skip
    return NormalModel(bank, limits, part_kinds.learn(observed))


def observed_parts(proposals: ObjectProposals) -> Observed | None:
    """What the study of part kinds needs of one image; None where parts were not embedded."""
    if proposals.vectors_NC is None:
        return None
    height, width = proposals.foreground_HW.shape
    # Pieces of parts are never edited, and would link kinds that share a piece.
    studied_N = np.flatnonzero(proposals.whole_N | proposals.product_N)
    centres = [MaskCrop.of(proposals.masks_NHW[index]).centre for index in studied_N]
    return Observed(
        proposals.vectors_NC[studied_N],
        np.array(centres, np.float64).reshape(-1, 2) / (width, height),
        proposals.beside_N[studied_N],
        bool(proposals.product_N.any()),
        np.array([circle_share(proposals.masks_NHW[index]) for index in studied_N]),
    )


def _limits(measured: Mapping[str, list[float]]) -> Limits:
    """Quantiles of the measured values, widened and bounded, with five decimals."""

    def high(name: str, slack: float = SLACK) -> float | None:
        values = measured[name]
        return float(np.quantile(values, 1 - TAIL)) * slack if values else None

    def low(name: str, slack: float = SLACK) -> float | None:
        values = measured[name]
        return float(np.quantile(values, TAIL)) / slack if values else None

    clipped = high("clipped")
    noise = "noise" if len(measured["noise"]) >= MIN_BACKGROUND_REGIONS else "any_noise"
    lowest, highest = low(noise, NOISE_SLACK), high(noise, NOISE_SLACK)
    return Limits(
        max_outline_ratio=_rounded(high("outline")),
        min_noise_ratio=None if lowest is None else round(min(lowest, USUAL_NOISE[0]), 5),
        max_noise_ratio=None
        if highest is None
        else round(min(max(highest, USUAL_NOISE[1]), MAX_NOISE_RATIO), 5),
        max_patch_distance=_rounded(high("patch")),
        max_clipped=None if clipped is None else round(min(1.0, clipped + CLIPPED_MORE), 5),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _pixels_of(normal: NormalImage) -> Callable[[], np.ndarray]:
    return lambda: normal()[0]


def _shapes(normals: Mapping[str, NormalImage], dilation: int) -> list[np.ndarray]:
    """Masks (h, w) of a few objects of each image, dilated as an edit's mask would be."""
    shapes = []
    for digest, normal in normals.items():
        _, proposals = normal()
        # Seeded by the image's digest: the choice depends on nothing else.
        rng = np.random.default_rng(int(digest[:16], 16))
        for index in rng.permutation(_parts(proposals))[:OWN_REGIONS]:
            mask_HW = grown(proposals.masks_NHW[index], dilation)
            x0, y0, x1, y1 = bounding_box(mask_HW)
            shapes.append(mask_HW[y0:y1, x0:x1])
    return shapes


def _parts(proposals: ObjectProposals) -> np.ndarray:
    """Indices of the objects on the product; of the product itself where it has none."""
    parts_N = np.flatnonzero(~proposals.product_N)
    return parts_N if len(parts_N) else np.arange(len(proposals))


def _regions(
    digest: str,
    size_HW: tuple[int, int],
    proposals: ObjectProposals,
    shapes: list[np.ndarray],
    dilation: int,
) -> Iterator[np.ndarray]:
    """Masks (H, W) of untouched regions; the choice depends only on digests."""
    rng = np.random.default_rng(int(digest[:16], 16))
    height, width = size_HW
    for index in rng.permutation(_parts(proposals))[:OWN_REGIONS]:
        yield grown(proposals.masks_NHW[index], dilation)
    # Shapes of any image at random places; they cover background, objects and both.
    for _ in range(RANDOM_REGIONS if shapes else 0):
        shape_hw = shapes[int(rng.integers(len(shapes)))]
        rows, columns = shape_hw.shape
        top = int(rng.integers(0, max(1, height - rows + 1)))
        left = int(rng.integers(0, max(1, width - columns + 1)))
        mask_HW = np.zeros(size_HW, np.bool_)
        mask_HW[top : top + rows, left : left + columns] = shape_hw[: height - top, : width - left]
        yield mask_HW


def grown(mask_HW: np.ndarray, dilation: int) -> np.ndarray:
    """An object's mask dilated as a removal dilates it; `dilation` in pixels at 256."""
    height, width = mask_HW.shape
    return dilated(mask_HW, round(pixels_at(dilation, (height, width))))


def pack(normal_model: NormalModel) -> tuple[dict[str, np.ndarray], Any]:
    """Arrays and JSON facts for the stage cache."""
    facts: dict[str, Any] = {"limits": normal_model.limits.to_json(), "digests": None}
    arrays: dict[str, np.ndarray] = {}
    if normal_model.part_kinds is not None:
        arrays, facts["part_kinds"] = part_kinds.pack(normal_model.part_kinds)
    bank = normal_model.patches
    if bank is None:
        return arrays, facts
    arrays |= {
        "cells": bank.cells_NC, "owners": bank.owners_N, "pooled": bank.pooled_KC,
        "scale": bank.scale_C,
    }  # fmt: skip
    return arrays, facts | {"digests": list(bank.digests)}


def unpack(arrays: dict[str, np.ndarray], facts: Any, teacher: Path | None) -> NormalModel:
    """The inverse of `pack`; `teacher` is the path of the weights on this machine."""
    limits, digests = Limits(**facts["limits"]), facts["digests"]
    kinds = part_kinds.unpack(arrays, facts["part_kinds"]) if "part_kinds" in facts else None
    if digests is None or teacher is None:
        return NormalModel(None, limits, kinds)
    bank = PatchBank(
        arrays["cells"], arrays["owners"], arrays["pooled"], arrays["scale"],
        tuple(digests), teacher,
    )  # fmt: skip
    return NormalModel(bank, limits, kinds)

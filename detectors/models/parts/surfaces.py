"""Surfaces of parts under magnification: how far their patches are from those of good parts.

A scratch, a chip, a stain leave a part what it is, and at 256 px take a few pixels. So every
recognised part is cut out and enlarged before the frozen network sees it, and its patches are
compared with those of good parts of its kind alone (`detectors.networks.patch_memory`, after
PatchCore). Its worst patches count, in the spread of good parts of that kind.

Shapes: H, W image; 3 colour (RGB); K kinds; N parts of one kind in an image; S, S enlarged window;
h, w cells of stride 8; P cells of a part; C channels; M patches in the bank.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.base import Batches
from detectors.models.parts.windows import Window, window_around
from detectors.networks.any_shape import AnyShape
from detectors.networks.patch_memory import Pair, described, level_scales, nearest_distances
from pipeline.imaging.masks import bounding_box

# Side of an enlarged window in pixels; larger where the image itself shows the part larger.
ENLARGED, LARGEST = 192, 512
# Side of a window in longest sides of the usual part. It is rounded to so many pixels, so that most
# folds see the same windows, whose features are remembered.
MARGIN, ROUNDED = 1.35, 8
# Patches per kind.
BANK = 4000
# Share of a part's cells, the worst ones, whose mean distance counts; share of a cell that the part
# must cover.
WORST, COVERED = 0.05, 0.5
# Smallest spread of good parts: as a share of their mean, and in units in which the patches of a
# level have a mean square length of 1. Rendered parts may all be alike to the last bit.
LEAST, LEAST_ALIKE = 0.05, 0.02
# Parts of which most may share what changes all of them. On good scenes that were resampled once
# more false alarms at the 5 % line fell from 37 to 7 %, and AUROC on broken parts by 0.002.
SEVERAL = 3
# Windows that the network sees at once.
BATCH = 16

# Levels of windows, uint8 (N, 3, S, S).
Describe = Callable[[Tensor], Pair]
# The masks of an image's parts, (N, H, W) bool, and the kind of each, -1 where it has none.
Known = tuple[np.ndarray, Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """A part, by its number: `off` is how many standard deviations it is beyond good ones.

    What most parts of the image are beyond them does not count. `times` is its distance in units of
    the usual one, `cells_hw` are the distances in the window, 0 beside the part.
    """

    number: int
    kind: int
    off: float
    times: float
    window: Window
    cells_hw: np.ndarray

    def map_HW(self, shape: tuple[int, int]) -> np.ndarray:
        """The distances in an image of this shape, float32, as shares of the highest one."""
        map_HW = self.window.put_back(self.cells_hw, shape)
        return map_HW / max(float(map_HW.max()), 1e-9)


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """A part, its window, and the cells of it that the part covers."""

    number: int
    kind: int
    window: Window
    inside_hw: Tensor


class Surfaces(AnyShape):
    """Patches of good parts, `kind_M` and `image_M` of each; what is usual for each kind.

    `window_K` are sides of windows in pixels, 0 for kinds that too few good images show. `mean_K`
    and `deviation_K` are those of distances to the patches of other images.
    """

    bank_MC: Tensor
    scale_C: Tensor
    kind_M: Tensor
    image_M: Tensor
    window_K: Tensor
    mean_K: Tensor
    deviation_K: Tensor

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("bank_MC", torch.zeros(0, sum(channels)))
        self.register_buffer("scale_C", torch.ones(sum(channels)))
        for name in ("kind_M", "image_M"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))
        for name in ("window_K", "mean_K", "deviation_K"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def learn(
        self, normals: Batches, known: Sequence[Known], kinds: int, describe: Describe
    ) -> list[list[Surface]]:
        """Keep patches of good parts; returns the surfaces of these, judged by other images."""
        self._set_windows(known, kinds)
        counts = np.bincount([k for _, of in known for k in of if k >= 0], minlength=kinds)
        rng = np.random.default_rng(0)
        # The same share of each part, so that large ones do not fill the bank.
        kept = [
            (one.kind, own, _drawn(rng, patches_PC, math.ceil(BANK / counts[one.kind])))
            for own, of in enumerate(self._cuts(_images(normals), known, describe))
            for one, patches_PC in of
        ]
        self._keep(kept)
        judged = [
            [(one, self._distances(one.kind, patches_PC, own)) for one, patches_PC in of]
            for own, of in enumerate(self._cuts(_images(normals), known, describe))
        ]
        for kind in range(kinds):
            worst = [_worst(far_P) for of in judged for one, far_P in of if one.kind == kind]
            if worst:
                mean, deviation = float(np.mean(worst)), float(np.std(worst))
                self.mean_K[kind] = max(mean, 1e-6)
                self.deviation_K[kind] = max(deviation, LEAST * mean, LEAST_ALIKE)
        return [_apart([self._surface(*pair) for pair in of]) for of in judged]

    def of(
        self, images_B3HW: Tensor, known: Sequence[Known], describe: Describe
    ) -> list[list[Surface]]:
        """The surfaces of the parts of every image, of kinds that are known."""
        return [
            _apart([
                self._surface(one, self._distances(one.kind, patches_PC)) for one, patches_PC in of
            ])
            for of in self._cuts([images_B3HW], known, describe)
        ]  # fmt: skip

    def _keep(self, kept: Sequence[tuple[int, int, Tensor]]) -> None:
        """Fill the bank; kind, image and patches of every part."""
        if not kept:
            return
        kinds, images, patches = zip(*kept, strict=True)
        patches_MC = torch.cat(patches)
        self.scale_C = level_scales(patches_MC, self.channels)
        self.bank_MC = patches_MC / self.scale_C
        sizes = torch.tensor([len(one) for one in patches])
        device = patches_MC.device
        self.kind_M = torch.tensor(kinds).repeat_interleave(sizes).to(device)
        self.image_M = torch.tensor(images).repeat_interleave(sizes).to(device)

    def _set_windows(self, known: Sequence[Known], kinds: int) -> None:
        sides: list[list[float]] = [[] for _ in range(kinds)]
        shown = [0] * kinds
        for masks_NHW, of in known:
            for kind in {k for k in of if k >= 0}:
                shown[kind] += 1
            for mask_HW, kind in zip(masks_NHW, of, strict=True):
                if kind >= 0:
                    x0, y0, x1, y1 = bounding_box(mask_HW)
                    sides[kind].append(max(x1 - x0, y1 - y0))
        # A good image is judged by others, so there must be two.
        windows = [
            ROUNDED * max(1, round(MARGIN * float(np.median(of)) / ROUNDED)) if count > 1 else 0
            for of, count in zip(sides, shown, strict=True)
        ]
        device = self.bank_MC.device
        self.window_K = torch.tensor(windows, dtype=torch.float64, device=device)
        self.mean_K, self.deviation_K = (torch.ones_like(self.window_K) for _ in range(2))

    def _cuts(
        self, images: Iterable[Tensor], known: Sequence[Known], describe: Describe
    ) -> Iterator[list[tuple[_Cut, Tensor]]]:
        """The parts of each image with their patches (P, C), not yet scaled."""
        each = (image_3HW for images_B3HW in images for image_3HW in images_B3HW)
        for image_3HW, (masks_NHW, of) in zip(each, known, strict=True):
            image_HW3 = image_3HW.permute(1, 2, 0).contiguous().cpu().numpy()
            cuts = []
            for kind, side in enumerate(self.window_K.tolist()):
                numbers = [number for number, one in enumerate(of) if one == kind and side]
                pixels = min(max(ENLARGED, 32 * math.ceil(side / 32)), LARGEST)
                windows = [window_around(masks_NHW[number], side) for number in numbers]
                crops = [torch.from_numpy(one.cut(image_HW3, pixels)) for one in windows]
                patches = (
                    patches_Chw
                    for at in range(0, len(crops), BATCH)
                    for patches_Chw in described(
                        *describe(_stacked(crops[at : at + BATCH], image_3HW.device))
                    )
                )
                for number, window, patches_Chw in zip(numbers, windows, patches, strict=True):
                    mask_SS = window.cut(masks_NHW[number].astype(np.float32), pixels)
                    inside_hw = _covered(mask_SS, *patches_Chw.shape[1:])
                    inside = inside_hw.to(patches_Chw.device)
                    cut = _Cut(number, kind, window, inside_hw)
                    cuts.append((cut, patches_Chw.permute(1, 2, 0)[inside]))
            yield cuts

    def _distances(self, kind: int, patches_PC: Tensor, own: int = -1) -> Tensor:
        """Of every patch to the nearest of its kind in other images than `own`, (P,)."""
        known_M = (self.kind_M == kind) & (self.image_M != own)
        return nearest_distances(patches_PC / self.scale_C, self.bank_MC[known_M]).cpu()

    def _surface(self, one: _Cut, far_P: Tensor) -> Surface:
        distance = _worst(far_P)
        mean, deviation = float(self.mean_K[one.kind]), float(self.deviation_K[one.kind])
        cells_hw = torch.zeros(one.inside_hw.shape)
        cells_hw[one.inside_hw] = far_P
        off, times = (distance - mean) / deviation, distance / mean
        return Surface(one.number, one.kind, off, times, one.window, cells_hw.numpy())


def _images(normals: Batches) -> Iterator[Tensor]:
    return (batch["image"] for batch in normals)


def _apart(surfaces: list[Surface]) -> list[Surface]:
    """The parts of an image without what most of them share: light or focus changes all alike."""
    if len(surfaces) < SEVERAL:
        return surfaces
    shared = max(0.0, float(np.median([one.off for one in surfaces])))
    return [replace(one, off=one.off - shared) for one in surfaces]


def _worst(far_P: Tensor) -> float:
    return float(far_P.topk(max(1, round(WORST * len(far_P)))).values.mean())


def _drawn(rng: np.random.Generator, patches_PC: Tensor, most: int) -> Tensor:
    """At most so many of a part's patches."""
    rows = np.sort(rng.permutation(len(patches_PC))[:most])
    return patches_PC[torch.from_numpy(rows).to(patches_PC.device)]


def _stacked(crops: Sequence[Tensor], device: torch.device) -> Tensor:
    """(N, 3, S, S) of (S, S, 3)."""
    return torch.stack(list(crops)).permute(0, 3, 1, 2).contiguous().to(device)


def _covered(mask_SS: np.ndarray, height: int, width: int) -> Tensor:
    """The cells that the part covers, (h, w) bool; at least that which it covers most."""
    share_hw = F.adaptive_avg_pool2d(torch.from_numpy(mask_SS)[None], (height, width))[0]
    return share_hw >= min(COVERED, float(share_hw.max()))

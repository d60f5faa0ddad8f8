"""The detectability report: which kinds does a frozen patch baseline see at once, and which never?

The baseline is PatchCore's idea without any training (`detectors/models/nearest` in small): the
cells of some normal images as the bundled teacher describes them, and for each picture the
distance of its strangest cell to the nearest of them. Its AUROC per kind says what that kind is
worth: one that is trivial for it teaches a detector nothing about logic, one near 0.5 looks normal
everywhere, which is what a logical anomaly should do, and is hard to learn.

Bank and pictures never share an image. The validation split is scored where it has enough images,
else every image by the bank of the other folds; scores of different banks are not compared.

Shapes: B batch; H, W picture; 3 colour (RGB); h, w cells; P = h * w; C channels; N bank entries.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np

from pipeline.dataset.version import Version
from pipeline.kinds import is_control
from pipeline.reports.audit.probe import Area, area
from pipeline.reports.audit.shortcut import FEWEST, Row, rows_of, spread

HELD_OUT = 12
"""Validation images from which on they alone are scored."""
FOLDS = 3
NORMALS, PER_KIND = 48, 20
"""Pictures that are scored, at most; fewer per kind than `FEWEST` are too few to tell."""
STUDIED, BANK = 32, 2048
"""Normal images and cells that the baseline knows."""
LONGEST = 192
"""Larger pictures are shrunk to this side: the baseline is a yardstick, not a detector."""
TRIVIAL = 0.95
BATCH = 8
SEED = 0

Describe = Callable[[np.ndarray], Sequence[np.ndarray]]
"""(B, H, W, 3) uint8 to one (B, P, C) float32 array of cells per level."""
Cells = list[np.ndarray]
"""One picture's cells, (P, C) float32 per level."""


@dataclass(frozen=True, slots=True, eq=False)
class _Normal:
    """One normal image of the version: how to read it, no pixels."""

    name: str
    validation: bool
    read: Callable[[], np.ndarray]


def detectability(version: Version, describe: Describe | None = None) -> dict[str, Any]:
    """AUROC, interval, samples and a word for every kind, controls too; `describe` is for tests."""
    describe = describe or bundled_trunk()
    normals = _normals(version)
    held_out = [normal for normal in normals if normal.validation]
    if len(held_out) >= HELD_OUT:
        rounds = [([n for n in normals if not n.validation], held_out)]
        how = f"{len(held_out)} validation images"
    else:
        parts = [_few(normals, len(normals))[fold::FOLDS] for fold in range(FOLDS)]
        rounds = [([n for n in normals if n not in part], part) for part in parts]
        how = f"{len(normals)} images in {FOLDS} folds"
    if any(not known or not asked for known, asked in rounds):
        return {"kinds": {}, "images": how, "notes": [f"{len(normals)} images are too few"]}
    samples = _chosen(version, {normal.name for _, asked in rounds for normal in asked})
    found: list[tuple[str, str, int, float]] = []
    seen: dict[str, Cells] = {}

    def cells_of(some: Sequence[_Normal]) -> list[Cells]:
        new = [normal for normal in some if normal.name not in seen]
        cells = described((normal.read() for normal in new), describe)
        seen.update(zip((normal.name for normal in new), cells, strict=True))
        return [seen[normal.name] for normal in some]

    for fold, (known, asked) in enumerate(rounds):
        bank = Bank.of(cells_of(_few(known, STUDIED)))
        shown = _few(asked, -(-NORMALS // len(rounds)))
        for normal, score in zip(shown, bank.scores(cells_of(shown)), strict=True):
            found.append(("", normal.name, fold, score))
        names = {normal.name for normal in asked}
        rows = [row for row in samples if row.image in names]
        pictures = described((row.shard.edited(row.sample) for row in rows), describe)
        for row, score in zip(rows, bank.scores(pictures), strict=True):
            found.append((row.kind, row.image, fold, score))
    kinds = {
        kind: _line(kind, [entry for entry in found if entry[0] in ("", kind)])
        for kind in sorted({row.kind for row in samples})
    }
    return {"kinds": kinds, "images": how, "notes": []}


def word_for(kind: str, measured: Area) -> str:
    """What an AUROC says about a kind, in a word or two."""
    if measured.interval is None or min(measured.positives, measured.negatives) < FEWEST // 2:
        return "too few to tell"
    low, _ = measured.interval
    if is_control(kind):
        return "stands out" if low > 0.5 else "looks normal"
    if low >= TRIVIAL:
        return "trivial"
    return "near impossible" if low <= 0.5 else "learnable"


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Cells of normal images, each level divided by its power, to measure distances to."""

    cells_NC: np.ndarray
    scales: tuple[float, ...]

    @classmethod
    def of(cls, pictures: Sequence[Cells]) -> "Bank":
        """A bank of random cells, equally many of each picture."""
        rng, share = np.random.default_rng(SEED), max(1, BANK // len(pictures))
        picks = [rng.permutation(len(cells[0]))[:share] for cells in pictures]
        parts = [
            np.concatenate([cells[k][pick] for cells, pick in zip(pictures, picks, strict=True)])
            for k in range(len(pictures[0]))
        ]
        scales = tuple(float(np.sqrt(np.square(p).sum(1).mean())) or 1.0 for p in parts)
        return cls(_joined(parts, scales), scales)

    def scores(self, pictures: Iterable[Cells]) -> list[float]:
        """Of each picture, the distance of its strangest cell."""
        lengths_N, minus_twice_CN = np.square(self.cells_NC).sum(1), -2 * self.cells_NC.T
        found: list[float] = []
        for cells in pictures:
            cells_PC = _joined(cells, self.scales)
            distances_PN = cells_PC @ minus_twice_CN
            distances_PN += lengths_N
            nearest_P = distances_PN.min(1) + np.square(cells_PC).sum(1)
            # Rounded, so that equal pictures tie on every machine.
            found.append(round(float(np.sqrt(max(0.0, nearest_P.max()))), 4))
        return found


def described(images: Iterable[np.ndarray], describe: Describe) -> Iterator[Cells]:
    """The cells of each picture, shrunk, a few pictures through the network at a time."""
    shrunk = map(_shrunk, images)
    while some := list(islice(shrunk, BATCH)):
        yield from map(list, zip(*describe(np.stack(some)), strict=True))


def _joined(parts: Sequence[np.ndarray], scales: Sequence[float]) -> np.ndarray:
    return np.concatenate([part / scale for part, scale in zip(parts, scales, strict=True)], -1)


def bundled_trunk() -> Describe:
    """The bundled teacher's layer2 and layer3 cells, averaged 3x3, over one another."""
    import torch
    import torch.nn.functional as F

    from pipeline.models.backbone import normalise, small_teacher
    from pipeline.models.weights import store as weights

    layout = {"memory_format": torch.channels_last}  # a fifth less time
    trunk = small_teacher(weights.require("bundled-teacher")).to(**layout)

    def describe(images_BHW3: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(images_BHW3)).permute(0, 3, 1, 2)
            levels = trunk(normalise(images).contiguous(**layout))[1:]
            middle, coarse = (F.avg_pool2d(level.float(), 3, 1, 1) for level in levels)
            coarse = F.interpolate(coarse, middle.shape[2:], mode="bilinear", align_corners=False)
            return [level.flatten(2).transpose(1, 2).numpy() for level in (middle, coarse)]

    return describe


def _line(kind: str, found: Sequence[tuple[str, str, int, float]]) -> dict[str, Any]:
    labels = [int(bool(name)) for name, _, _, _ in found]
    measured = area(
        np.array([score for *_, score in found]),
        labels,
        [image for _, image, _, _ in found],
        [fold for _, _, fold, _ in found],
    )
    line = measured.to_json()
    return {
        "auroc": line["auroc"],
        "interval": line["interval"],
        "samples": measured.positives,
        "normals": measured.negatives,
        "word": word_for(kind, measured),
    }


def _normals(version: Version) -> list[_Normal]:
    found = []
    for shard in version.shards:
        for i in range(shard.images):
            record = shard.image_record(i)
            read = lambda shard=shard, i=i: shard.original(i)  # noqa: E731  bound now
            found.append(_Normal(record["name"], record["split"] == "validation", read))
    return found


def _few(normals: Sequence[_Normal], count: int) -> list[_Normal]:
    """Those whose names have the smallest digests: a random choice that stays."""
    return sorted(normals, key=lambda n: hashlib.sha256(n.name.encode()).hexdigest())[:count]


def _chosen(version: Version, images: set[str]) -> list[Row]:
    kinds: dict[str, list[Row]] = {}
    for row in rows_of(version):
        if row.image in images:
            kinds.setdefault(row.kind, []).append(row)
    return [row for kind in sorted(kinds) for row in spread(kinds[kind], PER_KIND)]


def _shrunk(image_HW3: np.ndarray) -> np.ndarray:
    longest = max(image_HW3.shape[:2])
    if longest <= LONGEST:
        return image_HW3
    scale = LONGEST / longest
    return cv2.resize(image_HW3, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

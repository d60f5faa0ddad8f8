"""The detectability report: which kinds does a frozen patch baseline detect, and which not at all?

The baseline is a training-free PatchCore (Roth et al. 2022; `detectors/models/nearest` in small): a
bank of patch features ("cells") of some normal images from the bundled teacher, and for each image
the distance of its most unusual cell to the nearest one in the bank. A kind that is trivial for it
teaches a detector nothing about logic. A kind near AUROC 0.5 looks normal everywhere locally, as a
logical anomaly should, and is hard to learn.

The bank and the scored images are disjoint. The validation split is scored where it has enough
images, else every image is scored with the bank of the other folds; scores of different banks are
not compared.

Shapes: B batch; H, W image; 3 colour (RGB); h, w cells; P = h * w; C channels; N bank entries.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np

from pipeline.dataset.version import Version
from pipeline.gate.patch_bank import nearest_distances
from pipeline.kinds import is_control
from pipeline.reports.audit.probe import Area, area
from pipeline.reports.audit.shortcut import FEWEST, Row, rows_of, spread

# With at least this many validation images only those are scored; with fewer, all in FOLDS.
HELD_OUT = 12
FOLDS = 3
# Images that are scored at most: normals, and edited ones per kind.
NORMALS, PER_KIND = 48, 20
# Normal images that the bank is made from, and its cells.
BANK_IMAGES, BANK = 32, 2048
# Larger images are downscaled to this side in px. 256 took twice the time and changed no verdict
# (docs/audit.md).
LONGEST = 192
# Lower bound of the AUROC from which a kind is called trivial.
TRIVIAL = 0.95
# Images per call of the network.
BATCH = 8
# Seed of the choice of the bank's cells.
SEED = 0

# (B, H, W, 3) uint8 to one (B, P, C) float32 array of cells per level.
Describe = Callable[[np.ndarray], Sequence[np.ndarray]]
# The cells of one image, (P, C) float32 per level.
Cells = list[np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class _Normal:
    """One normal image of the version: how to read it, no pixels."""

    name: str
    validation: bool
    read: Callable[[], np.ndarray]


def detectability(version: Version, describe: Describe | None = None) -> dict[str, Any]:
    """AUROC, interval, samples and verdict for every kind, controls too; `describe` is for
    tests."""
    describe = describe or bundled_trunk()
    normals = _normals(version)
    # Rounds of (images of the bank, images to score).
    held_out = [normal for normal in normals if normal.validation]
    if len(held_out) >= HELD_OUT:
        rounds = [([n for n in normals if not n.validation], held_out)]
        how = f"{len(held_out)} validation images"
    else:
        parts = [_subset(normals, len(normals))[fold::FOLDS] for fold in range(FOLDS)]
        rounds = [([n for n in normals if n not in part], part) for part in parts]
        how = f"{len(normals)} images in {FOLDS} folds"
    if any(not known or not scored for known, scored in rounds):
        return {"kinds": {}, "images": how, "notes": [f"{len(normals)} images are too few"]}
    samples = _chosen(version, {normal.name for _, scored in rounds for normal in scored})
    # Kind (empty for normals), image, round and score.
    found: list[tuple[str, str, int, float]] = []
    # Cells by image: a normal may be in several banks.
    seen: dict[str, Cells] = {}

    def cells_of(some: Sequence[_Normal]) -> list[Cells]:
        new = [normal for normal in some if normal.name not in seen]
        cells = described((normal.read() for normal in new), describe)
        seen.update(zip((normal.name for normal in new), cells, strict=True))
        return [seen[normal.name] for normal in some]

    for fold, (known, scored) in enumerate(rounds):
        bank = Bank.of(cells_of(_subset(known, BANK_IMAGES)))
        some = _subset(scored, -(-NORMALS // len(rounds)))
        for normal, score in zip(some, bank.scores(cells_of(some)), strict=True):
            found.append(("", normal.name, fold, score))
        # Only samples of images that are not in this bank.
        names = {normal.name for normal in scored}
        rows = [row for row in samples if row.image in names]
        edited = described((row.shard.edited(row.sample) for row in rows), describe)
        for row, score in zip(rows, bank.scores(edited), strict=True):
            found.append((row.kind, row.image, fold, score))
    # Every kind is compared with the same normals.
    kinds = {
        kind: _line(kind, [entry for entry in found if entry[0] in ("", kind)])
        for kind in sorted({row.kind for row in samples})
    }
    return {"kinds": kinds, "images": how, "notes": []}


def word_for(kind: str, measured: Area) -> str:
    """The verdict on a kind; controls should look normal. docs/audit.md explains each."""
    # Half of the shortcut audit's minimum: no probe is fitted to these samples.
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
    """Cells of normal images, each level divided by its RMS norm, to measure distances to."""

    cells_NC: np.ndarray
    scales: tuple[float, ...]

    @classmethod
    def of(cls, images: Sequence[Cells]) -> "Bank":
        """A bank of random cells, equally many of each image."""
        rng, share = np.random.default_rng(SEED), max(1, BANK // len(images))
        picks = [rng.permutation(len(cells[0]))[:share] for cells in images]
        parts = [
            np.concatenate([cells[k][pick] for cells, pick in zip(images, picks, strict=True)])
            for k in range(len(images[0]))
        ]
        # Levels have activations of different size; scaled, they count alike in a distance.
        scales = tuple(float(np.sqrt(np.square(p).sum(1).mean())) or 1.0 for p in parts)
        return cls(_joined(parts, scales), scales)

    def scores(self, images: Iterable[Cells]) -> list[float]:
        """For each image, the distance of its most unusual cell to its nearest in the bank."""
        found: list[float] = []
        for cells in images:
            distances_P = nearest_distances(_joined(cells, self.scales), self.cells_NC)
            # Rounded, so equal images tie on every machine.
            found.append(round(float(distances_P.max()), 4))
        return found


def described(images: Iterable[np.ndarray], describe: Describe) -> Iterator[Cells]:
    """The cells of each image, downscaled, a batch through the network at a time."""
    small = map(_downscaled, images)
    while some := list(islice(small, BATCH)):
        yield from map(list, zip(*describe(np.stack(some)), strict=True))


def _joined(parts: Sequence[np.ndarray], scales: Sequence[float]) -> np.ndarray:
    """The scaled levels of the cells as one (P, C) array."""
    return np.concatenate([part / scale for part, scale in zip(parts, scales, strict=True)], -1)


def bundled_trunk() -> Describe:
    """The bundled teacher's layer2 and layer3 cells, averaged 3x3 as in PatchCore, on one grid."""
    # Imported here: torch takes seconds to load, and tests describe images without it.
    import torch
    import torch.nn.functional as F

    from pipeline.models.backbone import normalise, small_teacher
    from pipeline.models.weights import store as weights

    # Convolutions take a fifth less time on the CPU in this layout.
    layout = {"memory_format": torch.channels_last}
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
    """One kind's line of the report, from its scores and those of the normals."""
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
            # The defaults bind the loop's present values; a plain closure would see the last.
            read = lambda shard=shard, i=i: shard.original(i)  # noqa: E731
            found.append(_Normal(record["name"], record["split"] == "validation", read))
    return found


def _subset(normals: Sequence[_Normal], count: int) -> list[_Normal]:
    """Those whose names have the smallest digests: a random choice that is reproducible."""
    return sorted(normals, key=lambda n: hashlib.sha256(n.name.encode()).hexdigest())[:count]


def _chosen(version: Version, images: set[str]) -> list[Row]:
    """At most PER_KIND samples of every kind, of the given images only."""
    kinds: dict[str, list[Row]] = {}
    for row in rows_of(version):
        if row.image in images:
            kinds.setdefault(row.kind, []).append(row)
    return [row for kind in sorted(kinds) for row in spread(kinds[kind], PER_KIND)]


def _downscaled(image_HW3: np.ndarray) -> np.ndarray:
    longest = max(image_HW3.shape[:2])
    if longest <= LONGEST:
        return image_HW3
    scale = LONGEST / longest
    return cv2.resize(image_HW3, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

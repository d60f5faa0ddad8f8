"""One sample of a version: find it, report its lineage, and draw it as a triptych."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.dataset.shard_reader import ShardReader, pack
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.records import bounding_box
from pipeline.utils.hashing import sha256_array

# White pixels between the images.
GAP = 8
LABELS = ("original", "edited", "change mask")
# Pink, which hardly any product has.
_TINT = np.array((255, 46, 136), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class StoredSample:
    """One sample: where it is stored, and its record."""

    shard: ShardReader
    row: int
    record: dict[str, Any]


def find_sample(version: Version, wanted: str) -> StoredSample:
    """The sample with that id, accepted or a kept reject, or the accepted sample of that number.

    Numbers count accepted samples from 0 in the order of the version. UserError when there is none.
    """
    # Ids of accepted samples so far; their number is the position in this list.
    known: list[str] = []
    number = int(wanted) if wanted.isdecimal() else None
    for shard, j, accepted in _rows(version):
        record = shard.record(j)
        if record["id"] == wanted or (accepted and len(known) == number):
            return StoredSample(shard, j, record)
        if accepted:
            known.append(record["id"])
    # The error shows what an id looks like.
    few = f", the first is {known[0]}" if known else ""
    raise UserError(
        f"{version.dir}: no sample {wanted!r}; it holds {len(known)}, numbered from 0{few}"
    )


def lineage(version: Version, shown: StoredSample) -> dict[str, Any]:
    """Everything that is recorded about the generation of a sample, as a JSON-able mapping.

    Besides its record: the masks and proposals it was made with (digests of their bits, as
    docs/format.md defines them), its duration, the attempts that were rejected before it, and the
    weights, code and software of its version. `seconds` covers planning, compositing and judging
    one attempt. Foreground and proposals are computed once per image and not included.
    """
    shard, record = shown.shard, shown.record
    source = shard.source(shown.row)
    image = shard.image_record(source)
    at = (record["source"]["name"], record["number"])
    # All attempts at the same sample number of the same image.
    tries = [row for row in version.attempts() if (row["image"], row["number"]) == at]
    # Earlier attempts were rejected or could not be planned; this one has a row of its own.
    before = [row for row in tries if row["attempt"] < record["attempt"]]
    own = [row for row in tries if row["attempt"] == record["attempt"]]
    return record | {
        "seconds": own[0]["seconds"] if own else None,
        "refused_before": [
            {name: row[name] for name in ("attempt", "kind", "reason", "seconds")} for row in before
        ],
        "change_mask": _mask(shard.mask(shown.row)),
        "object_mask": _mask(shard.object_mask(shown.row)),
        "foreground": image["foreground"] | _mask(shard.foreground(source)),
        "proposals": _targets(shard, source, record["edit"]["targets"]),
        "category": version.category,
        "version": version.name,
        "dataset_digest": version.digest,
        "weights": version.index["weights"],
        "code_version": version.index["code_version"],
        "software": version.index["software"],
    }


def triptych(shown: StoredSample) -> np.ndarray:
    """(H + bar, 3 W + 2 gaps, 3) uint8: original, edited, edited under its mask, with labels."""
    shard, j = shown.shard, shown.row
    original_HW3, edited_HW3 = shard.original(shard.source(j)), shard.edited(j)
    images = (original_HW3, edited_HW3, overlay(edited_HW3, shard.mask(j)))
    labels = [f"edited: {shown.record['kind']}" if n == "edited" else n for n in LABELS]
    return side_by_side(images, labels)


def side_by_side(images: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
    """Images of one size in a row, (H + bar, n W + gaps, 3) uint8, each under its label."""
    height, width = images[0].shape[:2]
    gap_HW3 = np.full((height, GAP, 3), 255, np.uint8)
    # A gap before each image; the first gap is dropped.
    parts = [part for image in images for part in (gap_HW3, image)][1:]
    return np.concatenate([_bar(labels, width), np.concatenate(parts, 1)], 0)


def bar_height(width: int) -> int:
    """Height in px of the strip of labels above images of one width."""
    return max(16, width // 12)


def overlay(image_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The image with the mask tinted and outlined."""
    # Imported here: OpenCV is needed by this function only.
    import cv2

    # The outline is the mask's border, one pixel wide, in full colour; the inside is tinted.
    inner = cv2.erode(mask_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    share_HW1 = np.where(mask_HW & ~inner, 1.0, np.where(mask_HW, 0.35, 0.0))[..., None]
    return (image_HW3 * (1 - share_HW1) + _TINT * share_HW1).round().astype(np.uint8)


def _bar(labels: Sequence[str], width: int) -> np.ndarray:
    """A white strip with one label above each image, cut off where the image ends."""
    from PIL import Image, ImageDraw, ImageFont

    height = bar_height(width)
    # Each label is drawn into its own cell, so a long one cannot run into the next.
    strip = Image.new("RGB", (len(labels) * (width + GAP) - GAP, height), "white")
    font = ImageFont.load_default(size=height * 0.62)
    for column, label in enumerate(labels):
        cell = Image.new("RGB", (width, height), "white")
        place = (height // 5, height // 2)
        ImageDraw.Draw(cell).text(place, label, fill=(23, 26, 33), font=font, anchor="lm")
        strip.paste(cell, (column * (width + GAP), 0))
    return np.asarray(strip)


def _targets(shard: ShardReader, image: int, targets: list[int]) -> list[dict[str, Any]]:
    """The edited proposals. `id` is the index among those of the image, best first."""
    masks_NHW, scores_N = shard.proposals(image)
    return [
        {"id": target, "score": float(scores_N[target]), **_mask(masks_NHW[target])}
        for target in targets
    ]


def _mask(mask_HW: np.ndarray) -> dict[str, Any]:
    """Digest of a mask's bits, its box (x0 y0 x1 y1, exclusive end) and its share of the image."""
    return {
        "digest": sha256_array(pack(mask_HW)),
        "box": list(bounding_box(mask_HW)),
        "area": round(float(mask_HW.mean()), 6),
    }


def _rows(version: Version) -> Iterator[tuple[ShardReader, int, bool]]:
    """Every stored sample as shard, row and whether it was accepted; kept rejects last."""
    for shard in version.shards:
        for j in range(shard.samples):
            yield shard, j, True
    if version.rejects is not None:
        for j in range(version.rejects.samples):
            yield version.rejects, j, False

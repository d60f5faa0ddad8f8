"""What an export is made of: the pictures of a version, one after the other, with safe names.

Three roles: `normal` (a good image, untouched), `edited` (a synthetic sample: an anomaly, or a
control that stays normal) and `real` (an image of the source's own test split). The order is the
version's own, and so are the names: equal versions give equal exports.
"""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from pipeline.dataset.version import Version
from pipeline.records import GOOD, is_control

Role = Literal["normal", "edited", "real"]

LONGEST_NAME = 80
"""Characters of a picture's name; a tar header holds 100 for the whole file name."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture. Shapes: H, W image; 3 colour (RGB, uint8, 0-255); K ground-truth regions.

    `name` is unique in an export and a file stem on every system. `kind` is the kind of edit, the
    defect of a real image (`real_` before it where an edit has that name), or `good`. `mask_HW` is
    bool, where the picture is not normal: the change mask of an anomaly, the union of the
    ground-truth regions of a real image, all False for label 0. `original_HW3` is there for edited
    pictures only, `regions` (mask and grey value, one per ground-truth region) for real ones.
    """

    name: str
    role: Role
    split: str
    kind: str
    label: int
    image_HW3: np.ndarray
    mask_HW: np.ndarray
    record: dict[str, Any]
    original_HW3: np.ndarray | None = None
    regions: tuple[tuple[np.ndarray, int], ...] = ()

    def lineage(self) -> dict[str, Any]:
        """What the version knows about this picture, without pixels."""
        plain = {"role": self.role, "split": self.split, "kind": self.kind, "label": self.label}
        return plain | {"record": self.record}

    def facts(self) -> dict[str, Any]:
        """Flat columns for tools that want a table: text and numbers below 2^63 only."""
        source = self.record.get("source", self.record)
        return {
            "role": self.role,
            "split": self.split,
            "kind": self.kind,
            "label": self.label,
            "sample_id": self.record.get("id", source["name"]),
            "source_name": source["name"],
            "source_sha256": source["digest"],
            "seed": str(self.record.get("seed", "")),  # a seed needs all 64 bits: text
        }


def pictures(version: Version, *, controls: bool = True, real: bool = True) -> Iterator[Picture]:
    """Every picture of a version: the normals, the samples made from them, the real test split."""
    names, kinds = Names(), version.index["counts"]["by_kind"]
    nothing_HW = np.zeros(version.image_size, np.bool_)
    for image_HW3, record in version.images():
        name = names.take(record["name"])
        yield Picture(name, "normal", record["split"], GOOD, 0, image_HW3, nothing_HW, record)
    for original_HW3, edited_HW3, changed_HW, record in version.samples():
        if not controls and not record["label"]:
            continue
        yield Picture(
            names.take(record["id"]), "edited", record["source"]["split"], record["kind"],
            record["label"], edited_HW3, changed_HW if record["label"] else nothing_HW, record,
            original_HW3,
        )  # fmt: skip
    for image_HW3, masks_KHW, values_K, record in version.test_images() if real else ():
        yield Picture(
            names.take(record["name"]), "real", "test", _apart(record["defect"], kinds),
            int(record["defect"] != GOOD), image_HW3, np.asarray(masks_KHW.any(0)), record,
            regions=tuple(zip(masks_KHW, values_K.tolist(), strict=True)),
        )  # fmt: skip


def picture_count(version: Version, *, controls: bool = True, real: bool = True) -> int:
    """How many pictures `pictures` will give; from the index alone."""
    counts = version.index["counts"]
    samples = counts["accepted"] if controls else counts["anomalous"]
    return counts["images"] + samples + (counts["test"]["images"] if real else 0)


def anomaly_kinds(version: Version) -> list[str]:
    """The synthetic kinds that a version holds at least one anomaly of, sorted."""
    kinds = version.index["counts"]["by_kind"].items()
    return sorted(kind for kind, row in kinds if row["accepted"] and not is_control(kind))


def real_defects(version: Version) -> list[str]:
    """The kinds of the real pictures, sorted, without `good`."""
    counts = version.index["counts"]
    defects = sorted(set(counts["test"]["by_defect"]) - {GOOD})
    return [_apart(defect, counts["by_kind"]) for defect in defects]


def _apart(defect: str, kinds: Container[str]) -> str:
    """A real defect is never taken for a synthetic kind of the same name."""
    return f"real_{defect}" if defect in kinds else defect


class Names:
    """File stems from ids: letters, digits, `-` and `_` only, and never the same one twice.

    `train/good/000.png@2.0` becomes `train_good_000_2_0`. Two ids that would share a stem are told
    apart by the digest of the second, also where a file system does not tell A from a.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, sample_id: str) -> str:
        name = slug(sample_id)
        if name.lower() in self._taken:
            name = f"{name[: LONGEST_NAME - 9]}-{sha256(sample_id.encode()).hexdigest()[:8]}"
        self._taken.add(name.lower())
        return name


def slug(text: str) -> str:
    """Text as part of a file name; the ending of a source file (before `@`) is left out."""
    path, at, number = text.partition("@")
    stem = re.sub(r"\.[A-Za-z]{3,4}$", "", path)
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", f"{stem}{at}{number}").strip("_-")
    if len(plain) > LONGEST_NAME or not plain:
        plain = f"{plain[: LONGEST_NAME - 9]}-{sha256(text.encode()).hexdigest()[:8]}".strip("-")
    return plain

"""What an export is made of: the pictures of a version, one after the other, with safe names.

Three roles: `normal` (a good image, untouched), `edited` (a synthetic sample: an anomaly, or a
control that stays normal) and `real` (an image of the source's own test split). The order is the
version's own, and so are the names: equal versions give equal exports.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.dataset.version import Version
from pipeline.kinds import is_control
from pipeline.records import GOOD
from pipeline.utils.files import Names

Role = Literal["normal", "edited", "real"]


@dataclass(frozen=True, slots=True, eq=False)
class ExportImage:
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


def pictures(
    version: Version, *, controls: bool = True, real: bool = True
) -> Iterator[ExportImage]:
    """Every image of a version: the normals, the samples made from them, the real test split."""
    names, kinds = Names(), version.index["counts"]["by_kind"]
    nothing_HW = np.zeros(version.image_size, np.bool_)
    for image_HW3, record in version.images():
        name = names.take(record["name"])
        yield ExportImage(name, "normal", record["split"], GOOD, 0, image_HW3, nothing_HW, record)
    for original_HW3, edited_HW3, changed_HW, record in version.samples():
        if not controls and not record["label"]:
            continue
        yield ExportImage(
            names.take(record["id"]), "edited", record["source"]["split"], record["kind"],
            record["label"], edited_HW3, changed_HW if record["label"] else nothing_HW, record,
            original_HW3,
        )  # fmt: skip
    for image_HW3, masks_KHW, values_K, record in version.test_images() if real else ():
        yield ExportImage(
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

"""The images of a version in order, with safe file names: what every export is made of.

There are three roles: `normal` (a good image, untouched), `edited` (a synthetic sample: an anomaly,
or a control that is still normal) and `real` (an image of the source's test split). Order and names
are those of the version, so equal versions give equal exports.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.dataset.version import Version
from pipeline.kinds import is_control
from pipeline.records import GOOD
from pipeline.utils.files import UniqueNames

Role = Literal["normal", "edited", "real"]


@dataclass(frozen=True, slots=True, eq=False)
class ExportImage:
    """One image. Shapes: H, W image; 3 colour (RGB, uint8, 0-255); K ground-truth regions.

    `name` is unique in an export and a valid file stem on every system. `kind` is the kind of edit,
    the defect of a real image (prefixed `real_` where an edit has that name), or `good`. `mask_HW`
    is bool, True where the image is not normal: the change mask of an anomaly, the union of the
    ground-truth regions of a real image, all False for label 0. Only edited images have
    `original_HW3`, only real ones `regions` (mask and pixel value per ground-truth region).
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
        """What the version records about this image, without pixels."""
        plain = {"role": self.role, "split": self.split, "kind": self.kind, "label": self.label}
        return plain | {"record": self.record}

    def facts(self) -> dict[str, Any]:
        """Flat columns for tools that read tables: text and numbers below 2^63 only."""
        # A normal or real image is its own source.
        source = self.record.get("source", self.record)
        return {
            "role": self.role,
            "split": self.split,
            "kind": self.kind,
            "label": self.label,
            "sample_id": self.record.get("id", source["name"]),
            "source_name": source["name"],
            "source_sha256": source["digest"],
            # A seed is an unsigned 64-bit number, which most tables cannot hold.
            "seed": str(self.record.get("seed", "")),
        }


def export_images(
    version: Version, *, controls: bool = True, real: bool = True
) -> Iterator[ExportImage]:
    """Every image of a version: the normals, their samples, the real test split."""
    # Names are taken in the order of the version, so each image gets the same one every time.
    names, kinds = UniqueNames(), version.index["counts"]["by_kind"]
    nothing_HW = np.zeros(version.image_size, np.bool_)
    for image_HW3, record in version.images():
        name = names.take(record["name"])
        yield ExportImage(name, "normal", record["split"], GOOD, 0, image_HW3, nothing_HW, record)
    for original_HW3, edited_HW3, changed_HW, record in version.samples():
        if not controls and not record["label"]:
            continue
        # A control has a change mask, but nothing in it is anomalous.
        yield ExportImage(
            names.take(record["id"]), "edited", record["source"]["split"], record["kind"],
            record["label"], edited_HW3, changed_HW if record["label"] else nothing_HW, record,
            original_HW3,
        )  # fmt: skip
    # Defects are named by the source, which may use the name of a kind of edit.
    for image_HW3, masks_KHW, values_K, record in version.test_images() if real else ():
        yield ExportImage(
            names.take(record["name"]), "real", "test", _apart(record["defect"], kinds),
            int(record["defect"] != GOOD), image_HW3, np.asarray(masks_KHW.any(0)), record,
            regions=tuple(zip(masks_KHW, values_K.tolist(), strict=True)),
        )  # fmt: skip


def image_count(version: Version, *, controls: bool = True, real: bool = True) -> int:
    """The number of images that `export_images` yields; from the index alone."""
    counts = version.index["counts"]
    # Accepted samples include controls.
    samples = counts["accepted"] if controls else counts["anomalous"]
    return counts["images"] + samples + (counts["test"]["images"] if real else 0)


def anomaly_kinds(version: Version) -> list[str]:
    """The kinds of which a version has at least one synthetic anomaly, sorted."""
    # Kinds whose attempts were all rejected have no image to export.
    kinds = version.index["counts"]["by_kind"].items()
    return sorted(kind for kind, row in kinds if row["accepted"] and not is_control(kind))


def real_defects(version: Version) -> list[str]:
    """The kinds of the real images, sorted, without `good`."""
    counts = version.index["counts"]
    defects = sorted(set(counts["test"]["by_defect"]) - {GOOD})
    return [_apart(defect, counts["by_kind"]) for defect in defects]


def _apart(defect: str, kinds: Container[str]) -> str:
    """The name of a real defect, prefixed where a synthetic kind has the same name."""
    return f"real_{defect}" if defect in kinds else defect

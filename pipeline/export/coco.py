"""COCO instances with run-length masks: one JSON per split, images beside it.

    annotations/instances_SPLIT.json   images/SPLIT/NAME.png

Categories are the kinds of edit and the real defects, with the same ids in every split. Each
anomaly has one annotation whose mask is its change mask, even if that has two components (swapped
objects); a real image has one per ground-truth region. Normal images and controls have none. Masks
are in COCO's compressed run-length encoding, which pycocotools reads and writes.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.dataset.version import Version
from pipeline.export.base import Content, ExportFormat, ExportOptions
from pipeline.export.folder import ExportFolder
from pipeline.export.samples import ExportImage, anomaly_kinds, export_images, real_defects
from pipeline.records import SPLITS, bounding_box
from pipeline.sources.licences import terms_of

# Shapes: H, W image; R runs.


def write_coco(version: Version, options: ExportOptions, out: ExportFolder) -> Content:
    """All splits of a version as COCO instances."""
    categories = coco_categories(version)
    ids = {row["name"]: row["id"] for row in categories}
    images: dict[str, list[dict[str, Any]]] = defaultdict(list)
    annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)
    # Ids count over all splits, so the files can be merged.
    drawn = 0
    for number, image in enumerate(export_images(version, controls=options.controls), 1):
        file_name = f"{image.name}.png"
        path = out.png(f"images/{image.split}/{file_name}", image.image_HW3)
        out.lineage({"file": path, "image_id": number} | image.lineage())
        # Beside COCO's own keys, facts that its tools ignore.
        height, width = image.mask_HW.shape
        images[image.split].append(
            {"id": number, "file_name": file_name, "height": height, "width": width, "license": 1}
            | image.facts()
        )
        for mask_HW, extra in _regions(version, image):
            drawn += 1
            category = ids[image.kind]
            annotations[image.split].append(
                {"id": drawn, "image_id": number, "category_id": category} | annotation(mask_HW)
                | extra
            )  # fmt: skip
    terms = terms_of(version.index)
    # Empty splits get no file.
    for split in [split for split in SPLITS if images[split]]:
        out.json(
            f"annotations/instances_{split}.json",
            {
                "info": {
                    "description": f"{version.category} {version.name}, {split}",
                    "version": version.name,
                    "dataset_digest": version.digest,
                },
                "licenses": [{"id": 1, "name": terms.text, "url": terms.url}],
                "categories": categories,
                "images": images[split],
                "annotations": annotations[split],
            },
        )
    return Content(
        """```text
annotations/instances_SPLIT.json   images, categories and masks of train, validation, test
images/SPLIT/                      the files that `file_name` refers to
```

`test` is the real test split of the source. Beside COCO's own keys each image says its `role`
(normal, edited, real), `kind`, `label`, `sample_id` and where it comes from.""",
        """```python
from pycocotools.coco import COCO

coco = COCO("annotations/instances_train.json")
masks = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds())]   # (H, W) of 0 and 1
```""",
    )


def coco_categories(version: Version) -> list[dict[str, Any]]:
    """Categories with ids from 1: the synthetic kinds, then the real defects."""
    # The names are disjoint: `real_defects` prefixes a defect that is named like a kind of edit.
    synthetic, real = anomaly_kinds(version), real_defects(version)
    return [
        {"id": number, "name": name, "supercategory": "synthetic" if name in synthetic else "real"}
        for number, name in enumerate([*synthetic, *real], 1)
    ]


def annotation(mask_HW: np.ndarray) -> dict[str, Any]:
    """Box (x, y, width, height), area in pixels and run lengths of one (H, W) bool mask."""
    x0, y0, x1, y1 = bounding_box(mask_HW)
    return {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(mask_HW.sum()),
        # With 1, COCO's evaluation would ignore the region.
        "iscrowd": 0,
        "segmentation": {"size": list(mask_HW.shape), "counts": compress(run_lengths(mask_HW))},
    }


def run_lengths(mask_HW: np.ndarray) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, down the columns; the first is of 0 and may be 0."""
    # False on both sides makes the number of changes even.
    flat = np.concatenate([[False], mask_HW.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    # The last run is empty when the mask ends with 1, and is dropped then.
    runs = np.diff(np.concatenate([[0], changes, [mask_HW.size]]))
    return runs[: len(runs) if runs[-1] else -1].tolist()


def compress(runs: list[int]) -> str:
    """COCO's text for run lengths (`rleToString` of pycocotools).

    From the fourth on, each length is stored as the difference from the one two before. A number is
    split into groups of five bits, lowest first; a sixth bit says that more follow, and 48 is added
    to get a printable character. The fifth bit of the last group is the sign.
    """
    text = []
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        while True:
            # Python's shift keeps the sign, so negative numbers end in -1 and others in 0.
            group, value = value & 0x1F, value >> 5
            more = value != (-1 if group & 0x10 else 0)
            text.append(chr((group | (0x20 if more else 0)) + 48))
            if not more:
                break
    return "".join(text)


def _regions(version: Version, image: ExportImage) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """The masks of one image, each with further keys of its annotation."""
    if image.role == "edited" and image.label:
        yield image.mask_HW, {}
    # MVTec LOCO stores the type of a defect as the pixel value of its mask.
    named = {
        row["pixel_value"]: row["defect_name"] for row in version.index["defects_config"] or ()
    }
    for mask_HW, value in image.regions:
        yield mask_HW, {"defect_name": named[value]} if value in named else {}


COCO = ExportFormat(
    name="coco",
    title="COCO instances",
    files="`images/SPLIT`, `annotations/instances_SPLIT.json` with run-length masks",
    readers="pycocotools (2.0.11)",
    write=write_coco,
)

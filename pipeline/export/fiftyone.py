"""A FiftyOne `ImageSegmentationDirectory`: images in one tree, masks in a second like it.

    data/SPLIT/KIND/NAME.png   labels/SPLIT/KIND/NAME.png

FiftyOne's own serialisation is a dump of its database and changes with it, so the documented
folder type is written instead. It holds masks only; split, kind and lineage come from
`lineage.jsonl` by a few lines that the README shows. Images with label 0 have no mask file.
"""

from pipeline.dataset.version import Version
from pipeline.export.base import Content, ExportFormat, ExportOptions
from pipeline.export.folder import ExportFolder
from pipeline.export.samples import export_images
from pipeline.utils.files import slug


def write_fiftyone(version: Version, options: ExportOptions, out: ExportFolder) -> Content:
    """All splits of a version as one image-segmentation directory."""
    without_mask = 0
    for image in export_images(version, controls=options.controls):
        # Both trees have the same relative path; FiftyOne matches by it.
        place = f"{image.split}/{slug(image.kind)}/{image.name}.png"
        image_path, mask_path = out.png(f"data/{place}", image.image_HW3), None
        # An empty mask file would make FiftyOne list the image as annotated.
        if image.mask_HW.any():
            mask_path = out.png(f"labels/{place}", image.mask_HW)
        without_mask += bool(image.label and not mask_path)
        out.lineage({"file": image_path, "mask": mask_path} | image.lineage())
    # Some source data sets label defects without marking them.
    notes = []
    if without_mask:
        notes.append(f"{without_mask} real images of defects have no ground-truth mask")
    return Content(
        """```text
data/SPLIT/KIND/     the images of train, validation and test (the real test split)
labels/SPLIT/KIND/   masks: 0, and 255 where the image of the same name is not normal; normal
                     images and controls have no mask
```""",
        f"""```python
import json, os
import fiftyone as fo   # run in this folder

dataset = fo.Dataset.from_dir(
    dataset_dir=".",
    dataset_type=fo.types.ImageSegmentationDirectory,
    label_field="mask",
    include_all_data=True,   # the normal images too
    name="{version.category}-{version.name}",
)
dataset.default_mask_targets = {{255: "changed"}}
rows = [json.loads(line) for line in open("lineage.jsonl")]
rows = {{os.path.abspath(row["file"]): row for row in rows}}
for sample in dataset.iter_samples(autosave=True):
    row = rows[os.path.abspath(sample.filepath)]
    sample.tags = [row["split"], row["role"]]
    sample["kind"] = fo.Classification(label=row["kind"])
    sample["anomalous"] = bool(row["label"])
```""",
        notes=tuple(notes),
    )


FIFTYONE = ExportFormat(
    name="fiftyone",
    title="a FiftyOne dataset",
    files="`data/SPLIT/KIND`, `labels/SPLIT/KIND` (`ImageSegmentationDirectory`)",
    readers="FiftyOne's importer (1.22.1); see below",
    write=write_fiftyone,
)

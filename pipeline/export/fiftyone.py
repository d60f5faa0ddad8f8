"""A FiftyOne `ImageSegmentationDirectory`: pictures in one tree, masks in a second like it.

    data/SPLIT/KIND/NAME.png   labels/SPLIT/KIND/NAME.png

FiftyOne's own serialisation is a dump of its database and changes with it, so the documented
folder type is written instead. It has room for masks only; split, kind and lineage come from
`lineage.jsonl` in five lines that the README shows. A picture with label 0 has no mask file.
"""

from pipeline.dataset.version import Version
from pipeline.export.base import Content, ExportFormat, ExportOptions
from pipeline.export.folder import ExportFolder
from pipeline.export.samples import pictures
from pipeline.utils.files import slug


def write_fiftyone(version: Version, options: ExportOptions, out: ExportFolder) -> Content:
    """All splits of a version as one image-segmentation directory."""
    without_mask = 0
    for picture in pictures(version, controls=options.controls):
        place = f"{picture.split}/{slug(picture.kind)}/{picture.name}.png"
        image, mask = out.png(f"data/{place}", picture.image_HW3), None
        if picture.mask_HW.any():
            mask = out.png(f"labels/{place}", picture.mask_HW)
        without_mask += bool(picture.label and not mask)
        out.lineage({"file": image, "mask": mask} | picture.lineage())
    notes = []
    if without_mask:
        notes.append(f"{without_mask} real images of defects have no ground-truth mask")
    return Content(
        """```text
data/SPLIT/KIND/     the pictures of train, validation and test (the real test split)
labels/SPLIT/KIND/   0, and 255 where the picture of the same name is not normal; normal ones
                     and controls have no file here
```""",
        f"""```python
import json, os
import fiftyone as fo   # run in this folder

dataset = fo.Dataset.from_dir(
    dataset_dir=".",
    dataset_type=fo.types.ImageSegmentationDirectory,
    label_field="mask",
    include_all_data=True,   # the normal pictures too
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

"""An image folder for Hugging Face `datasets`: images, masks and originals as image columns.

    SPLIT/images/NAME.png  SPLIT/masks/NAME.png  SPLIT/originals/NAME.png  SPLIT/metadata.jsonl

`metadata.jsonl` has one row per image; a column that ends in `file_name` becomes an image.
The README starts with the YAML header that the hub reads: licence, splits, size.
"""

import json
from collections import defaultdict
from typing import Any

from pipeline.dataset.version import Version
from pipeline.export.base import Content, ExportFormat, ExportOptions
from pipeline.export.folder import ExportFolder
from pipeline.export.samples import export_images
from pipeline.records import SPLITS
from pipeline.sources.licences import terms_of
from pipeline.utils.hashing import canonical_json

# The hub's categories of size: fewer rows than the number.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_hf(version: Version, options: ExportOptions, out: ExportFolder) -> Content:
    """All splits of a version as one image folder."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for image in export_images(version, controls=options.controls):
        home, name = image.split, f"{image.name}.png"
        files = {"file_name": f"images/{name}", "mask_file_name": f"masks/{name}"}
        # A column that is empty in a whole split has no type, and `datasets` then fails to join
        # the splits. So an image that was not edited is its own original.
        files["original_file_name"] = files["file_name"]
        out.png(f"{home}/images/{name}", image.image_HW3)
        out.png(f"{home}/masks/{name}", image.mask_HW)
        if image.original_HW3 is not None:
            files["original_file_name"] = f"originals/{name}"
            out.png(f"{home}/originals/{name}", image.original_HW3)
        rows[home].append(files | image.facts())
        # Paths in the rows are relative to the split, those in the lineage to the export.
        where = (f"{home}/{path}" for path in files.values())
        out.lineage(dict(zip(("file", "mask", "original"), where, strict=True)) | image.lineage())
    # Splits without images get no folder.
    splits = [split for split in SPLITS if rows[split]]
    for split in splits:
        lines = b"".join(canonical_json(row) + b"\n" for row in rows[split])
        out.write(f"{split}/metadata.jsonl", lines)
    return Content(
        """```text
SPLIT/metadata.jsonl   one row per image
SPLIT/images/          the images: column `image`
SPLIT/masks/           0, and 255 where the image is not normal: column `mask`
SPLIT/originals/       the normal images that edited ones are based on: column `original`
```

For an image that was not edited, `original` is the image itself. Further columns: `role` (normal,
edited, real), `kind`, `label`, `sample_id`, `source_name`, `source_sha256`, `seed` (text, because
it needs 64 bits). `test` is the real test split.""",
        """```python
from datasets import load_dataset

dataset = load_dataset("imagefolder", data_dir=".")   # or load_dataset(".")
dataset["train"][0]["image"], dataset["train"][0]["mask"]
```""",
        front=_front(version, {split: len(rows[split]) for split in splits}),
    )


def _front(version: Version, counts: dict[str, int]) -> str:
    """The YAML header of a dataset card."""
    # A JSON string is also a YAML string, so `json.dumps` quotes.
    total, terms = sum(counts.values()), terms_of(version.index)
    size = next((word for limit, word in _SIZES if total < limit), "1M<n<10M")
    lines = ["---", f"license: {terms.hub}"]
    # The hub wants a name for licences that it has no id for.
    if terms.hub == "other":
        lines.append(f"license_name: {json.dumps(terms.text)}")
    if terms.url:
        lines.append(f"license_link: {terms.url}")
    lines += [
        f"pretty_name: {json.dumps(f'{version.category} {version.name}')}",
        "task_categories: [image-classification, image-segmentation]",
        "tags: [anomaly-detection, logical-anomalies, synthetic]",
        f"size_categories: [{json.dumps(size)}]",
        "configs:",
        "- config_name: default",
        "  data_files:",
    ]
    lines += [f'  - {{split: {split}, path: "{split}/**"}}' for split in counts]
    return "\n".join([*lines, "---", ""]) + "\n"


HUGGING_FACE = ExportFormat(
    name="hf",
    title="an image folder for Hugging Face datasets",
    files="`SPLIT/images`, `masks`, `originals`, `metadata.jsonl`, a card for the hub",
    readers="Hugging Face `datasets` (5.2.0)",
    write=write_hf,
)

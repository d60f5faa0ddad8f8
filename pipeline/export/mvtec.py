"""A category in the layout of MVTec AD.

train/good  test/good  test/KIND  ground_truth/KIND/STEM_mask.png
"""

from pipeline.dataset.version import Version
from pipeline.export.base import Content, ExportFormat, ExportOptions
from pipeline.export.folder import ExportFolder
from pipeline.export.train_test import Side, write_pair
from pipeline.records import GOOD
from pipeline.utils.files import slug


def write_mvtec(version: Version, options: ExportOptions, out: ExportFolder) -> Content:
    """One category in the layout of MVTec AD: the folder corresponds to its `bottle`."""
    # The category's own name is not part of the tree: it is the name of the folder.
    content = Side(version, options)
    for image, side in content.images():
        mask_path = None
        if side == "train":
            image_path = f"train/{GOOD}/{image.name}.png"
        else:
            # Controls are edited, but normal: they belong to the good images.
            folder = slug(image.kind) if image.label else GOOD
            image_path = f"test/{folder}/{image.name}.png"
            # Some source data sets label defects without marking them.
            if image.label and image.mask_HW.any():
                mask_path = f"ground_truth/{folder}/{image.name}_mask.png"
        write_pair(out, image, image_path, mask_path)
    name = version.category
    return content.finish(
        """```text
train/good/          normal images of the training split
test/good/           normal images that are not trained on, and controls
test/KIND/           anomalies, one folder per kind
ground_truth/KIND/   NAME_mask.png for every NAME.png of test/KIND: 0, and 255 where changed
```""",
        f"""```python
from anomalib.data import MVTecAD   # root is the folder that holds this one, named {name}

datamodule = MVTecAD(root="..", category="{name}")
```

anomalysmith reads it too: `anomalysmith generate --source mvtec_ad:PATH`.""",
    )


MVTEC = ExportFormat(
    name="mvtec",
    title="a category in the layout of MVTec AD",
    files="`train/good`, `test/good`, `test/KIND`, `ground_truth/KIND/NAME_mask.png`",
    readers="anomalib `MVTecAD` (2.7.0), our own `mvtec_ad` reader",
    write=write_mvtec,
    train_test=True,
)

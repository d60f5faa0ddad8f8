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
    """The layout of MVTec AD, for one category: the folder is what other tools call `bottle`."""
    content = Side(version, options)
    for picture, side in content.pictures():
        mask = None
        if side == "train":
            image = f"train/{GOOD}/{picture.name}.png"
        else:
            folder = slug(picture.kind) if picture.label else GOOD
            image = f"test/{folder}/{picture.name}.png"
            if picture.label and picture.mask_HW.any():
                mask = f"ground_truth/{folder}/{picture.name}_mask.png"
        write_pair(out, picture, image, mask)
    name = version.category
    return content.finish(
        """```text
train/good/          normal images of the training split
test/good/           normal images that training does not see, and controls
test/KIND/           anomalies, one folder per kind
ground_truth/KIND/   NAME_mask.png for every NAME.png of test/KIND: 0, and 255 where it was changed
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

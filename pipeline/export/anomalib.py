"""Four flat folders and a data configuration for anomalib's `Folder`.

normal  normal_test  abnormal  mask (image and mask share a name)  anomalib.yaml
"""

import json

from pipeline.dataset.version import Version
from pipeline.export.base import Content, ExportFormat, ExportOptions
from pipeline.export.folder import ExportFolder
from pipeline.export.train_test import Side, write_pair
from pipeline.utils.files import slug


def write_anomalib(version: Version, options: ExportOptions, out: ExportFolder) -> Content:
    """Four flat folders and a data configuration for anomalib's `Folder`."""
    content = Side(version, options)
    for image, side in content.images():
        mask_path = None
        if side == "train":
            image_path = f"normal/{image.name}.png"
        elif image.label:
            # The kind comes first, so kinds stay together when sorted.
            name = f"{slug(image.kind)}-{image.name}"
            image_path = f"abnormal/{name}.png"
            if image.mask_HW.any():
                mask_path = f"mask/{name}.png"
        else:
            image_path = f"normal_test/{image.name}.png"
        write_pair(out, image, image_path, mask_path)
    # The configuration names only the folders that were written.
    folders = {"normal_dir": "normal", "abnormal_dir": "abnormal"}
    # Without this folder anomalib splits the training normals for testing.
    if content.good:
        folders["normal_test_dir"] = "normal_test"
    # `Folder` expects a mask for every anomaly, or no masks at all.
    if not content.without_mask:
        folders["mask_dir"] = "mask"
    arguments = {"name": version.category, "root": "."} | folders
    # A JSON string is also a YAML string and a Python string.
    quoted = {key: json.dumps(value) for key, value in arguments.items()}
    lines = "".join(f"  {key}: {value}\n" for key, value in quoted.items())
    out.text("anomalib.yaml", f"class_path: anomalib.data.Folder\ninit_args:\n{lines}")
    call = "".join(f"    {key}={value},\n" for key, value in quoted.items())
    return content.finish(
        """```text
normal/        normal images of the training split
normal_test/   normal images that are not trained on, and controls
abnormal/      anomalies, KIND-NAME.png
mask/          the mask of the same name: 0, and 255 where the image was changed
anomalib.yaml  the data configuration
```""",
        f"""```python
from anomalib.data import Folder   # run in this folder, or set root

datamodule = Folder(
{call})
```

On the command line, in this folder: `anomalib train --model Patchcore --data anomalib.yaml`.
anomalib uses half of the test side to choose its threshold and evaluates on the other half.""",
    )


ANOMALIB = ExportFormat(
    name="anomalib",
    title="folders for anomalib",
    files="`normal`, `normal_test`, `abnormal`, `mask`, `anomalib.yaml`",
    readers="anomalib `Folder` and `anomalib train` (2.7.0), our own `ok_ng` reader",
    write=write_anomalib,
    train_test=True,
)

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
    for picture, side in content.pictures():
        mask = None
        if side == "train":
            image = f"normal/{picture.name}.png"
        elif picture.label:
            name = f"{slug(picture.kind)}-{picture.name}"  # kinds stay together when sorted
            image = f"abnormal/{name}.png"
            if picture.mask_HW.any():
                mask = f"mask/{name}.png"
        else:
            image = f"normal_test/{picture.name}.png"
        write_pair(out, picture, image, mask)
    folders = {"normal_dir": "normal", "abnormal_dir": "abnormal"}
    if content.good:  # without it anomalib takes its own share of the normals for testing
        folders["normal_test_dir"] = "normal_test"
    if not content.without_mask:
        folders["mask_dir"] = "mask"
    arguments = {"name": version.category, "root": "."} | folders
    quoted = {key: json.dumps(value) for key, value in arguments.items()}  # YAML and Python too
    lines = "".join(f"  {key}: {value}\n" for key, value in quoted.items())
    out.text("anomalib.yaml", f"class_path: anomalib.data.Folder\ninit_args:\n{lines}")
    call = "".join(f"    {key}={value},\n" for key, value in quoted.items())
    return content.finish(
        """```text
normal/        normal images of the training split
normal_test/   normal images that training does not see, and controls
abnormal/      anomalies, KIND-NAME.png
mask/          the mask of the same name: 0, and 255 where it was changed
anomalib.yaml  the data configuration
```""",
        f"""```python
from anomalib.data import Folder   # run in this folder, or set root

datamodule = Folder(
{call})
```

On the command line, in this folder: `anomalib train --model Patchcore --data anomalib.yaml`.
anomalib takes half of the test side to find its threshold and reports on the other half.""",
    )


ANOMALIB = ExportFormat(
    name="anomalib",
    title="folders for anomalib",
    files="`normal`, `normal_test`, `abnormal`, `mask`, `anomalib.yaml`",
    readers="anomalib `Folder` and `anomalib train` (2.7.0)",
    write=write_anomalib,
    train_test=True,
)

"""Folder trees that anomaly-detection tools read: MVTec AD's own, and anomalib's `Folder`.

    mvtec     train/good  test/good  test/KIND  ground_truth/KIND/STEM_mask.png
    anomalib  normal  normal_test  abnormal  mask (flat; image and mask share a name)  anomalib.yaml

Such a tree has a training side (good images only) and a test side, and no third place. A sample
made from a training image would be tested by a detector that has seen all of it but the edit, so
only samples of validation images go to the test side unless the user asks for all of them.
Masks are 0 and 255: tools that divide by 255 and cut would lose any other value.
"""

import json
from collections import Counter
from collections.abc import Iterator

from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.export.base import Content, ExportOptions
from pipeline.export.folder import ExportFolder
from pipeline.export.samples import ExportImage, pictures
from pipeline.records import GOOD
from pipeline.utils.files import slug


def write_mvtec(version: Version, options: ExportOptions, out: ExportFolder) -> Content:
    """The layout of MVTec AD, for one category: the folder is what other tools call `bottle`."""
    content = _Side(version, options)
    for picture, side in content.pictures():
        mask = None
        if side == "train":
            image = f"train/{GOOD}/{picture.name}.png"
        else:
            folder = slug(picture.kind) if picture.label else GOOD
            image = f"test/{folder}/{picture.name}.png"
            if picture.label and picture.mask_HW.any():
                mask = f"ground_truth/{folder}/{picture.name}_mask.png"
        _write(out, picture, image, mask)
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


def write_anomalib(version: Version, options: ExportOptions, out: ExportFolder) -> Content:
    """Four flat folders and a data configuration for anomalib's `Folder`."""
    content = _Side(version, options)
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
        _write(out, picture, image, mask)
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


class _Side:
    """Which pictures go to the training and which to the test side, and what is left out."""

    def __init__(self, version: Version, options: ExportOptions) -> None:
        self.version, self.options = version, options
        self.good = 0
        self.anomalies = 0
        self.without_mask = 0
        self.left_out: Counter[str] = Counter()
        self.notes: list[str] = []
        self.synthetic = options.test in ("synthetic", "both")
        self.real = options.test in ("real", "both")
        self.all_samples = options.samples == "all"
        if self.real and not version.index["counts"]["test"]["images"]:
            raise UserError(f"{version.dir} holds no real test split; export with --test synthetic")
        if self.synthetic and not self.all_samples and not _held_out(version):
            self.all_samples = True
            self.notes.append(
                "no sample was made from a validation image, so the test side holds samples of "
                "training images: a detector trained here has seen all of them but the edit"
            )

    def pictures(self) -> Iterator[tuple[ExportImage, str]]:
        """Each picture that is exported with its side, `train` or `test`."""
        for picture in pictures(self.version, controls=self.options.controls, real=self.real):
            if picture.role == "normal" and picture.split == "train":
                yield picture, "train"
            elif self._wanted(picture):
                self.good += not picture.label
                self.anomalies += picture.label
                self.without_mask += bool(picture.label) and not picture.mask_HW.any()
                yield picture, "test"

    def finish(self, layout: str, opening: str) -> Content:
        if not self.anomalies:
            self.notes.append("the test side holds no anomaly")
        if self.without_mask:
            self.notes.append(
                f"{self.without_mask} real images of defects have no ground-truth mask, so tools "
                "can score images here, not pixels"
            )
        return Content(layout, opening, dict(self.left_out), tuple(self.notes))

    def _wanted(self, picture: ExportImage) -> bool:
        if picture.role == "real":
            return True
        if not self.synthetic:
            self.left_out["synthetic test data, not asked for"] += 1
        elif picture.role == "edited" and picture.split == "train" and not self.all_samples:
            self.left_out["made from training images"] += 1
        else:
            return True
        return False


def _held_out(version: Version) -> int:
    """How many samples were made from validation images."""
    return version.index["counts"]["splits"].get("validation", {}).get("samples", 0)


def _write(out: ExportFolder, picture: ExportImage, image: str, mask: str | None) -> None:
    out.png(image, picture.image_HW3)
    if mask:
        out.png(mask, picture.mask_HW)
    out.lineage({"file": image, "mask": mask} | picture.lineage())

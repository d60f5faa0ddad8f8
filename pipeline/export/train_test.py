"""Which image goes to the training side and which to the test side of a folder tree.

Folder trees that anomaly-detection tools read (MVTec AD's own, anomalib's `Folder`) have a training
side (good images only) and a test side, and no validation split. A sample of a training image would
test a detector on an image that it has seen except for the edit, so only samples of validation
images go to the test side, unless all are requested. Masks are 0 and 255, because tools that divide
by 255 and threshold would lose any other value.
"""

from collections import Counter
from collections.abc import Iterator

from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.export.base import Content, ExportOptions
from pipeline.export.folder import ExportFolder
from pipeline.export.samples import ExportImage, export_images


class Side:
    """Which images go to the training and which to the test side, and what is left out."""

    def __init__(self, version: Version, options: ExportOptions) -> None:
        self.version, self.options = version, options
        # What has gone to the test side so far.
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
        # Without held-out samples the test side would have no anomaly at all.
        if self.synthetic and not self.all_samples and not _held_out(version):
            self.all_samples = True
            self.notes.append(
                "no validation image has a sample, so the test side holds samples of training "
                "images: a detector trained here has seen these images except for the edit"
            )

    def images(self) -> Iterator[tuple[ExportImage, str]]:
        """Each exported image with its side, `train` or `test`."""
        for image in export_images(self.version, controls=self.options.controls, real=self.real):
            # The training side is the same for every choice of the test side.
            if image.role == "normal" and image.split == "train":
                yield image, "train"
            elif self._wanted(image):
                self.good += not image.label
                self.anomalies += image.label
                self.without_mask += bool(image.label) and not image.mask_HW.any()
                yield image, "test"

    def finish(self, layout: str, opening: str) -> Content:
        """The content record, with notes on what a user of the export should know."""
        if not self.anomalies:
            self.notes.append("the test side holds no anomaly")
        # Pixel metrics would count such an image as free of defects.
        if self.without_mask:
            self.notes.append(
                f"{self.without_mask} real images of defects have no ground-truth mask, so tools "
                "can score images here, not pixels"
            )
        return Content(layout, opening, dict(self.left_out), tuple(self.notes))

    def _wanted(self, image: ExportImage) -> bool:
        """Whether an image goes to the test side; counts those that do not, by reason."""
        # Real images are read only when they were requested.
        if image.role == "real":
            return True
        if not self.synthetic:
            self.left_out["synthetic test data, not asked for"] += 1
        elif image.role == "edited" and image.split == "train" and not self.all_samples:
            self.left_out["made from training images"] += 1
        else:
            return True
        return False


def _held_out(version: Version) -> int:
    """The number of accepted samples of validation images."""
    return version.index["counts"]["splits"].get("validation", {}).get("samples", 0)


def write_pair(
    out: ExportFolder, image: ExportImage, image_path: str, mask_path: str | None
) -> None:
    """Write an image, its mask if there is one, and its line of the lineage."""
    out.png(image_path, image.image_HW3)
    if mask_path:
        out.png(mask_path, image.mask_HW)
    out.lineage({"file": image_path, "mask": mask_path} | image.lineage())

"""Which image goes to the training side and which to the test side of a folder tree.

Trees that anomaly-detection tools read (MVTec AD's own, anomalib's `Folder`) have a training side
(good images only) and a test side, and no third place. A sample made from a training image would
be tested by a detector that has seen all of it but the edit, so only samples of validation images
go to the test side unless the user asks for all of them. Masks are 0 and 255: tools that divide by
255 and cut would lose any other value.
"""

from collections import Counter
from collections.abc import Iterator

from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.export.base import Content, ExportOptions
from pipeline.export.folder import ExportFolder
from pipeline.export.samples import ExportImage, pictures


class Side:
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


def write_pair(out: ExportFolder, picture: ExportImage, image: str, mask: str | None) -> None:
    """Write an image, its mask if there is one, and its line of the lineage."""
    out.png(image, picture.image_HW3)
    if mask:
        out.png(mask, picture.mask_HW)
    out.lineage({"file": image, "mask": mask} | picture.lineage())

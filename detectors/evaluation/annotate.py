"""The picture of one image that explains its score: parts by name, what is wrong, what is missing.

Shapes: H, W image; S side of the detector's input; 3 colour (RGB).
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from detectors.base import Box, Reason, Region
from detectors.evaluation.map_files import stems
from detectors.evaluation.reason_marks import PLATE, WRONG, dashed, plate, scaled
from detectors.evaluation.score_table import KeptScore
from pipeline.imaging.decode import load_image
from pipeline.utils.files import named_disk_errors, write_atomic

# Pale green for parts in order.
RIGHT = (120, 200, 120)
# Sides below this are enlarged, so that names can be read.
READABLE = 640
# Height of a line of words, in pixels.
LINE = 22
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5


class PictureWriter:
    """Writes the pictures of images whose paths are all known, so that names depend on these."""

    def __init__(self, folder: Path, paths: Iterable[Path]) -> None:
        self.folder = folder
        self._names = {path: f"{stem}_why.png" for path, stem in stems(paths).items()}
        with named_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def holds(self, path: Path, kept: KeptScore) -> bool:
        """True when the picture of an earlier run is there, under the name of this one."""
        name = self._names[path]
        return kept.why.picture == name and (self.folder / name).is_file()

    def write(
        self, path: Path, size: int, regions: Sequence[Region], reasons: Sequence[Reason]
    ) -> str:
        """Write the picture of an image; returns its file name."""
        buffer = io.BytesIO()
        pixels_HW3 = annotated(load_image(path), size, regions, reasons)
        Image.fromarray(pixels_HW3).save(buffer, "png", compress_level=3)
        with named_disk_errors(self.folder):
            write_atomic(self.folder / self._names[path], buffer.getvalue())
        return self._names[path]


def annotated(
    image_HW3: np.ndarray, size: int, regions: Sequence[Region], reasons: Sequence[Reason]
) -> np.ndarray:
    """The image with outlines and names, dashed places, and a line per reason; uint8 RGB.

    Regions and reasons are in pixels of a square input of side `size`. A region is pink when a
    reason has its box.
    """
    height, width = image_HW3.shape[:2]
    larger = max(1.0, READABLE / max(height, width))
    shape = round(width * larger), round(height * larger)
    drawn_HW3 = cv2.resize(image_HW3, shape, interpolation=cv2.INTER_LINEAR)
    wrong = {box for reason in reasons for box in reason.boxes}
    shown = {_box_of(region.mask_HW) for region in regions}
    names = []
    for region in regions:
        mask = cv2.resize(region.mask_HW.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        x, y, w, h = cv2.boundingRect(mask)
        colour = WRONG if _box_of(region.mask_HW) in wrong else RIGHT
        cv2.drawContours(drawn_HW3, outlines, -1, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.drawContours(drawn_HW3, outlines, -1, colour, 2, cv2.LINE_AA)
        names.append((region.name, x + w // 2, y + h // 2, colour))
    for reason in reasons:
        for box in reason.missing:
            dashed(drawn_HW3, scaled(box, size, drawn_HW3))
        # What no part is around, and so no outline.
        for box in set(reason.boxes) - shown:
            x0, y0, x1, y1 = scaled(box, size, drawn_HW3)
            cv2.rectangle(drawn_HW3, (x0, y0), (x1 - 1, y1 - 1), WRONG, 2)
    # Names last, so that no line crosses them.
    for name, x, y, colour in names:
        plate(drawn_HW3, name, x, y, colour)
    return np.concatenate([drawn_HW3, _words(reasons, shape[0])])


def _box_of(mask_HW: np.ndarray) -> Box:
    x, y, w, h = cv2.boundingRect(mask_HW.astype(np.uint8))
    return (x, y, x + w, y + h)


def _words(reasons: Sequence[Reason], width: int) -> np.ndarray:
    """A strip with the reasons, each on as many lines as it needs."""
    lines = [
        line for reason in reasons for line in _wrapped(str(reason), width - 16)
    ] or ["nothing unusual"]  # fmt: skip
    strip_HW3 = np.full((LINE * len(lines) + 8, width, 3), PLATE, np.uint8)
    for number, line in enumerate(lines):
        at = (8, LINE * number + LINE - 4)
        cv2.putText(strip_HW3, line, at, _FONT, _SCALE, (235, 235, 235), 1, cv2.LINE_AA)
    return strip_HW3


def _wrapped(text: str, width: int) -> list[str]:
    """A text as lines of at most that many pixels, all but the first indented; ASCII."""
    # OpenCV's fonts know ASCII only.
    first, *words = text.encode("ascii", "replace").decode().split(" ")
    lines = [first]
    for word in words:
        longer = f"{lines[-1]} {word}"
        if cv2.getTextSize(longer, _FONT, _SCALE, 1)[0][0] <= width:
            lines[-1] = longer
        else:
            lines.append(f"    {word}")
    return lines

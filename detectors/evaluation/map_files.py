"""The files of an anomaly map: 16-bit grey, and heat over the image.

Shapes: H, W image; S side of the detector's input.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detectors.base import Reason
from detectors.evaluation.reason_marks import marked
from detectors.evaluation.score_table import KeptScore, MapFiles
from detectors.heatmaps import UINT16_MAX, Scale, overlay, to_uint16
from detectors.scoring import resize_maps
from pipeline.imaging.decode import load_image
from pipeline.utils.files import named_disk_errors, slug, write_atomic
from pipeline.utils.names import text_of

# Explains in maps.json how to get map values from the 16-bit files.
SCALE_RULE = (
    f"map value = low + grey / {UINT16_MAX} * (high - low), with the low and high of each file; "
    "the heat overlays share one scale"
)


class MapWriter:
    """Writes the maps of images whose paths are all known, so that names depend on these alone.

    `scale` is that of normal maps, None where the checkpoint has none; then the first map sets it.
    """

    def __init__(self, folder: Path, scale: Scale | None, paths: Iterable[Path]) -> None:
        self.folder, self.scale = folder, scale
        self._stems = stems(paths)
        with named_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def holds(self, path: Path, kept: KeptScore) -> bool:
        """True when the files of an earlier run are there, under the names of this one."""
        if kept.files is None or kept.files.map != f"{self._stems[path]}_map.png":
            return False
        return all((self.folder / name).is_file() for name in (kept.files.map, kept.files.overlay))

    def write(self, path: Path, map_SS: np.ndarray, reasons: Sequence[Reason] = ()) -> MapFiles:
        """Write both files of an image; reasons are marked in the heatmap."""
        # The file is decoded again at its full size: scoring only kept the stored size.
        image_HW3 = load_image(path)
        size_HW = image_HW3.shape[0], image_HW3.shape[1]
        map_HW = resize_maps(torch.from_numpy(map_SS)[None], size_HW)[0].numpy()
        grey_HW, ends = to_uint16(map_HW)
        self.scale = self.scale or ends
        stem = self._stems[path]
        files = MapFiles(f"{stem}_map.png", f"{stem}_heat.png", ends.low, ends.high)
        # PNG level 3 is faster than the default of 6, for slightly larger files.
        for name, pixels in (
            (files.map, grey_HW),
            (files.overlay, marked(overlay(image_HW3, map_HW, self.scale), len(map_SS), reasons)),
        ):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png", compress_level=3)
            with named_disk_errors(self.folder):
                write_atomic(self.folder / name, buffer.getvalue())
        return files


def stems(paths: Iterable[Path]) -> dict[Path, str]:
    """A file name without ending for every path, none twice."""
    taken: set[str] = set()
    return {path: _stem(path, taken) for path in paths}


def _stem(path: Path, taken: set[str]) -> str:
    """A file name from folder and name; more of the path where that name is taken.

    Names are compared without case, for disks that ignore it.
    """
    whole = text_of(path.as_posix())
    digest = hashlib.sha256(whole.encode()).hexdigest()[:12]
    near = text_of(f"{path.parent.name}/{path.name}")
    # From the most readable name to a unique one.
    for text in (near, whole, f"{text_of(path.stem)}@{digest}"):
        stem = slug(text)
        if stem.lower() not in taken:
            taken.add(stem.lower())
            return stem
    # The digest covers the whole path, and no file is scored twice.
    raise AssertionError(path)

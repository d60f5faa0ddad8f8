"""Foreground segmentation: U²-Net through rembg sessions (Qin et al., Pattern Recognition 2020).

rembg stretches each saliency map to its own minimum and maximum, so an image without any object
still gives a full-range mask. The raw peak is therefore recorded before the stretch. An image
without an object falls back to the whole frame, and the record says so.

No network is right on everything: the official one loses some rendered products, the bundled one
most photographs. Each shows it by a map full of values between background and foreground, so of two
networks the one with the clearer map is believed (`ClearerForeground`).

Shapes: H, W image; 3 colour (RGB).
"""

from pipeline import environment as _no_telemetry  # noqa: F401  isort: skip  first

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipeline.errors import DeviceError
from pipeline.models.reduced_network import reduced_network
from pipeline.records import ForegroundMask
from pipeline.utils.free_memory import LARGE
from pipeline.utils.postponed import postponed

# Saliency (0-1, after rembg's stretch) above which a pixel is foreground.
THRESHOLD = 0.5
# Raw saliency (0-1) that the highest pixel must reach; below, the image holds no object.
MIN_PEAK = 0.5
# A foreground below this share of the frame counts as noise.
MIN_AREA = 0.002
# Holes and components below these shares of the foreground are flaws of the mask. Both are smaller
# than the bore of a nut or the smallest proposal; larger values cost IoU on photographs.
MAX_HOLE = 0.005
MIN_COMPONENT = 0.003
# Ambiguity up to which a map is believed without asking the second network. Clear maps of products
# are near 0.05, lost rendered products were at 0.3 or more (docs/weights.md).
CLEAR = 0.15
# An answer without any object has no map to judge: it counts as one that is doubtful throughout.
NO_OBJECT = 1.0
# What rembg imports for cutting products out with soft edges, which nothing here asks for: 80 MB,
# and with Numba's compiler 83 s at its first start.
_MATTING = {"rembg.bg": ("remove",)}


@dataclass(frozen=True, slots=True, eq=False)
class Saliency:
    """A U²-Net's answer before the threshold.

    `map_HW` is uint8, stretched to its own range, 255 on foreground. `peak` is the highest raw
    saliency (0-1), NaN where the network fails.
    """

    map_HW: np.ndarray
    peak: float


class U2NetForeground:
    """A U²-Net ONNX file in a rembg session; call it with an image.

    `backend` is its name in the records. `reduced` runs it in bfloat16 on the CPU; a graph for
    which that is impossible stays in float32. DeviceError when onnxruntime does not provide the
    requested device.
    """

    def __init__(
        self, path: Path, cuda: bool = False, backend: str = "", reduced: bool = False
    ) -> None:
        self.backend = backend
        providers = ["CUDAExecutionProvider"] if cuda else ["CPUExecutionProvider"]
        self._session = _open_session(path, providers)
        # onnxruntime falls back to the CPU without an error.
        active = self._session.inner_session.get_providers()
        if providers[0] not in active:
            raise DeviceError(
                f"{path.name}: requested {providers[0]} from onnxruntime, got {active}; "
                "install onnxruntime-gpu or set models.device: cpu"
            )
        network = reduced_network(path) if reduced and not cuda else None
        self._recorder = _PeakRecorder(network or self._session.inner_session)
        self._session.inner_session = self._recorder
        self._session.normalize = self._normalized

    def __call__(self, image_HW3: np.ndarray) -> ForegroundMask:
        """Foreground of one image, (H, W, 3) RGB uint8 of any size."""
        return foreground_of(self.saliency(image_HW3), self.backend)

    def saliency(self, image_HW3: np.ndarray) -> Saliency:
        """The saliency map of one image, (H, W, 3) RGB uint8, at the size of the image."""
        self._recorder.keeps_memory = image_HW3.shape[0] * image_HW3.shape[1] < LARGE
        found = self._session.predict(Image.fromarray(image_HW3))[0]
        return Saliency(np.asarray(found), self._recorder.peak)

    def _normalized(
        self, image: Image.Image, mean: Any, std: Any, size: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """What the network gets, as rembg's `normalize` gives it, in a fifth of its time.

        `mean` and `std` are those of the three channels (0-1), `size` is width and height.
        """
        small_hw3 = np.array(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        # A channel has 256 values at most: a table of them in rembg's precision, then in the
        # network's.
        levels_256 = np.arange(256) / max(int(small_hw3.max()), 1e-6)
        channels = [
            ((levels_256 - mean[c]) / std[c]).astype(np.float32)[small_hw3[..., c]]
            for c in range(3)
        ]
        return {self._session.inner_session.get_inputs()[0].name: np.stack(channels)[None]}


class ClearerForeground:
    """Two networks: the second is asked where the first is in doubt, and the clearer map is taken.

    The record names the network whose map it is.
    """

    def __init__(self, first: U2NetForeground, second: U2NetForeground) -> None:
        self.first, self.second = first, second

    def __call__(self, image_HW3: np.ndarray) -> ForegroundMask:
        """Foreground of one image, (H, W, 3) RGB uint8 of any size."""
        saliency = self.first.saliency(image_HW3)
        found = foreground_of(saliency, self.first.backend)
        doubt = ambiguity(saliency)
        if doubt <= CLEAR:
            return found
        other = self.second.saliency(image_HW3)
        # Equal doubts leave the word to the better network.
        return foreground_of(other, self.second.backend) if ambiguity(other) < doubt else found


def foreground_of(saliency: Saliency, backend: str = "") -> ForegroundMask:
    """The mask of a saliency map: thresholded and tidied, or the whole frame without an object."""
    mask_HW = tidied(saliency.map_HW > 255 * THRESHOLD)
    why = ""
    if not _has_object(saliency.peak):
        why = f"whole frame, no object: raw saliency peaks at {saliency.peak:.2f}"
    elif mask_HW.mean() < MIN_AREA:
        why = f"whole frame, foreground covers {mask_HW.mean():.2%} only"
    # The record must hold a finite number.
    peak = saliency.peak if np.isfinite(saliency.peak) else 0.0
    return ForegroundMask(mask_HW | bool(why), peak, why, backend)


def ambiguity(saliency: Saliency) -> float:
    """Doubt in a saliency map, relative to the foreground: 0 for a binary map, 1 for hopeless.

    The sum of 4 s (1 - s) over the map, which is 1 at the threshold and 0 at both ends, divided by
    the number of foreground pixels. Smooth outlines alone give about 0.05 for a product.
    """
    area = float((saliency.map_HW > 255 * THRESHOLD).mean())
    if not _has_object(saliency.peak) or area < MIN_AREA:
        return NO_OBJECT
    # 256 levels: a table is faster than floating point on every pixel.
    levels_256 = np.arange(256) / 255
    doubts_HW = (4 * levels_256 * (1 - levels_256))[saliency.map_HW]
    return float(doubts_HW.mean()) / area


def tidied(
    mask_HW: np.ndarray, max_hole: float = MAX_HOLE, min_component: float = MIN_COMPONENT
) -> np.ndarray:
    """The bool mask without its small holes, then without its small components.

    Both limits are shares of the foreground.
    """
    area = int(mask_HW.sum())
    filled_HW = mask_HW | _small_regions(~mask_HW, max_hole * area, inner=True)
    return filled_HW & ~_small_regions(filled_HW, min_component * area, inner=False)


def _small_regions(regions_HW: np.ndarray, limit: float, inner: bool) -> np.ndarray:
    """Pixels of the components below `limit` px; with `inner`, of those that touch no border."""
    # Foreground joins across corners, so background must not.
    _, labels_HW, stats_L5, _ = cv2.connectedComponentsWithStats(
        regions_HW.astype(np.uint8), connectivity=4 if inner else 8
    )
    small_L = stats_L5[:, cv2.CC_STAT_AREA] < limit
    # Label 0 is what is not asked for.
    small_L[0] = False
    if inner:
        for border in (labels_HW[0], labels_HW[-1], labels_HW[:, 0], labels_HW[:, -1]):
            small_L[border] = False
    found_HW: np.ndarray = small_L[labels_HW]
    return found_HW


def _has_object(peak: float) -> bool:
    # False for NaN, too.
    return peak >= MIN_PEAK


class _PeakRecorder:
    """Wraps an onnxruntime session and keeps the maximum of its raw saliency, per thread.

    Beside a large image the session does not keep its memory between two runs, 0.2 GB, which takes
    a tenth of a second.
    """

    def __init__(self, session: Any) -> None:
        import onnxruntime as ort

        self._session = session
        self._seen = threading.local()
        self._giving_back = ort.RunOptions()
        self._giving_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    @property
    def peak(self) -> float:
        return self._seen.peak

    @property
    def keeps_memory(self) -> bool:
        return self._seen.keeps_memory

    @keeps_memory.setter
    def keeps_memory(self, keeps: bool) -> None:
        self._seen.keeps_memory = keeps

    def run(self, names: Any, feed: Any) -> Any:
        options = None if self.keeps_memory else self._giving_back
        outputs = self._session.run(names, feed, options)
        # U²-Net's first output is the fused map d0; rembg uses only this one.
        fused = outputs[0][:, 0]
        self._seen.peak = float(fused.max())
        # A constant map would make rembg divide by zero in its stretch.
        if fused.max() == fused.min():
            outputs[0] = outputs[0].copy()
            outputs[0][..., :1, :1] += 1e-6
        return outputs

    def __getattr__(self, name: str) -> Any:
        # Everything but `run` is the session's own.
        return getattr(self._session, name)


def _open_session(path: Path, providers: list[str]) -> Any:
    """A rembg session on exactly this file, single-threaded, without any download."""
    with postponed(_MATTING):
        from rembg import new_session
    import onnxruntime as ort

    options = ort.SessionOptions()
    # One thread, because sums in another order round differently. Severity 3: errors only.
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # A planned block of memory would come on top of what the first run has taken in pieces, and
    # stay: 0.5 instead of 0.3 GB, in the same time.
    options.enable_mem_pattern = False
    # rembg finds its own two models by name in a home folder. Any other file is passed by path, and
    # so is everything in a folder called `weights` (the bundled files and the user's cache).
    official = path.name in ("u2net.onnx", "u2netp.onnx") and path.parent.name != "weights"
    name = path.stem if official else "u2net_custom"
    with _environment(U2NET_HOME=str(path.parent)):
        arguments = {} if official else {"model_path": str(path)}
        return new_session(name, sess_opts=options, providers=providers, **arguments)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables and restore their earlier values at the end."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

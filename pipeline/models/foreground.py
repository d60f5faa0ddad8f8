"""Foreground segmentation: U²-Net through rembg sessions (Qin et al., Pattern Recognition 2020).

rembg stretches each saliency map to its own minimum and maximum, so an image without any object
still gives a full-range mask. The raw peak is therefore recorded before the stretch. An image
without an object falls back to the whole frame, and the record says so.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import DeviceError
from pipeline.records import ForegroundMask

# Saliency (0-1, after rembg's stretch) above which a pixel is foreground.
THRESHOLD = 0.5
# Raw saliency (0-1) that the highest pixel must reach; below, the image holds no object.
MIN_PEAK = 0.5
# A foreground below this share of the frame counts as noise.
MIN_AREA = 0.002


class U2NetForeground:
    """A U²-Net ONNX file in a rembg session; call it with an image.

    DeviceError when onnxruntime does not provide the requested device.
    """

    def __init__(self, path: Path, cuda: bool = False) -> None:
        providers = ["CUDAExecutionProvider"] if cuda else ["CPUExecutionProvider"]
        self._session = _open_session(path, providers)
        # onnxruntime falls back to the CPU without an error.
        active = self._session.inner_session.get_providers()
        if providers[0] not in active:
            raise DeviceError(
                f"{path.name}: requested {providers[0]} from onnxruntime, got {active}; "
                "install onnxruntime-gpu or set models.device: cpu"
            )
        self._recorder = _PeakRecorder(self._session.inner_session)
        self._session.inner_session = self._recorder

    def __call__(self, image_HW3: np.ndarray) -> ForegroundMask:
        """Foreground of one image, (H, W, 3) RGB uint8 of any size."""
        saliency = self._session.predict(Image.fromarray(image_HW3))[0]
        mask_HW = np.asarray(saliency) > 255 * THRESHOLD
        peak = self._recorder.peak
        if not np.isfinite(peak) or peak < MIN_PEAK:
            return _whole_frame(image_HW3, peak, f"no object: raw saliency peaks at {peak:.2f}")
        if mask_HW.mean() < MIN_AREA:
            return _whole_frame(image_HW3, peak, f"foreground covers {mask_HW.mean():.2%} only")
        return ForegroundMask(mask_HW, peak)


class _PeakRecorder:
    """Wraps an onnxruntime session and keeps the maximum of its raw saliency, per thread."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._seen = threading.local()

    @property
    def peak(self) -> float:
        return self._seen.peak

    def run(self, names: Any, feed: Any) -> Any:
        outputs = self._session.run(names, feed)
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


def _whole_frame(image_HW3: np.ndarray, peak: float, why: str) -> ForegroundMask:
    # The record must hold a finite number.
    peak = peak if np.isfinite(peak) else 0.0
    return ForegroundMask(np.ones(image_HW3.shape[:2], np.bool_), peak, f"whole frame, {why}")


def _open_session(path: Path, providers: list[str]) -> Any:
    """A rembg session on exactly this file, single-threaded, without any download."""
    with _quiet_import():
        from rembg import new_session
    import onnxruntime as ort

    options = ort.SessionOptions()
    # One thread, because sums in another order round differently. Severity 3: errors only.
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # rembg finds its own two models by name in a home folder. Any other file is passed by path, and
    # so is everything in a folder called `weights` (the bundled files and the user's cache).
    official = path.name in ("u2net.onnx", "u2netp.onnx") and path.parent.name != "weights"
    name = path.stem if official else "u2net_custom"
    with _environment(U2NET_HOME=str(path.parent)):
        arguments = {} if official else {"model_path": str(path)}
        return new_session(name, sess_opts=options, providers=providers, **arguments)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Import rembg without compiling its alpha-matting code, which is never called (83 s cold)."""
    with _environment(NUMBA_DISABLE_JIT="1"):
        yield


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

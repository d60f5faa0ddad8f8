"""Where the parts are: U²-Net through rembg sessions (Qin et al., Pattern Recognition 2020).

rembg stretches each saliency map to its own minimum and maximum, so a frame without any object
still gives a full-range mask. The raw peak is watched here, and an empty frame falls back to the
whole image, which the record says (methods dossier, §7.2).
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

THRESHOLD = 0.5
"""Saliency above which a pixel is foreground, after rembg's stretch."""
MIN_PEAK = 0.5
"""Raw saliency that the frame's best pixel must reach to count as an object."""
MIN_AREA = 0.002
"""Share of the frame below which a foreground is taken for noise."""


class U2NetForeground:
    """A U²-Net ONNX file behind a rembg session; call it with an image."""

    def __init__(self, path: Path, cuda: bool = False) -> None:
        providers = ["CUDAExecutionProvider"] if cuda else ["CPUExecutionProvider"]
        self._session = _open_session(path, providers)
        active = self._session.inner_session.get_providers()
        if providers[0] not in active:
            raise DeviceError(
                f"{path.name}: asked onnxruntime for {providers[0]}, got {active}; "
                "install onnxruntime-gpu or set models.device: cpu"
            )
        self._tap = _PeakTap(self._session.inner_session)
        self._session.inner_session = self._tap

    def __call__(self, image_HW3: np.ndarray) -> ForegroundMask:
        """Foreground of one RGB uint8 image."""
        saliency = self._session.predict(Image.fromarray(image_HW3))[0]
        mask_HW = np.asarray(saliency) > 255 * THRESHOLD
        peak = self._tap.peak
        if not np.isfinite(peak) or peak < MIN_PEAK:
            return _whole_frame(image_HW3, peak, f"no object: raw saliency peaks at {peak:.2f}")
        if mask_HW.mean() < MIN_AREA:
            return _whole_frame(image_HW3, peak, f"foreground covers {mask_HW.mean():.2%} only")
        return ForegroundMask(mask_HW, peak)


class _PeakTap:
    """Stands before an onnxruntime session and remembers, per thread, the raw maximum."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._seen = threading.local()

    @property
    def peak(self) -> float:
        return self._seen.peak

    def run(self, names: Any, feed: Any) -> Any:
        outputs = self._session.run(names, feed)
        fused = outputs[0][:, 0]
        self._seen.peak = float(fused.max())
        if fused.max() == fused.min():  # rembg would divide by zero; all of it is one level
            outputs[0] = outputs[0].copy()
            outputs[0][..., :1, :1] += 1e-6
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def _whole_frame(image_HW3: np.ndarray, peak: float, why: str) -> ForegroundMask:
    peak = peak if np.isfinite(peak) else 0.0
    return ForegroundMask(np.ones(image_HW3.shape[:2], np.bool_), peak, f"whole frame, {why}")


def _open_session(path: Path, providers: list[str]) -> Any:
    """A rembg session that reads exactly `path`, one thread, no download."""
    with _quiet_import():
        from rembg import new_session
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # rembg finds its own models below a home folder and trusts the file that lies there.
    official = path.name in ("u2net.onnx", "u2netp.onnx") and path.parent.name != "weights"
    name = path.stem if official else "u2net_custom"
    with _environment(U2NET_HOME=str(path.parent)):
        arguments = {} if official else {"model_path": str(path)}
        return new_session(name, sess_opts=options, providers=providers, **arguments)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Import rembg without compiling its alpha-matting code, which we never call (83 s cold)."""
    with _environment(NUMBA_DISABLE_JIT="1"):
        yield


@contextmanager
def _environment(**values: str) -> Iterator[None]:
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

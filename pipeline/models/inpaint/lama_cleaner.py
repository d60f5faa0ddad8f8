"""lama-cleaner's own `ModelManager` in process, on the same file as our LaMa adapter.

It is the reference for `lama.py`: equal file and hole give equal numbers, except that lama-cleaner
truncates where we round. Its pinned requirements are older than ours; docs/decisions says how to
install it.
"""

from pipeline import environment as _environment  # noqa: F401  isort: skip  first: no telemetry

import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pipeline.errors import WeightsError
from pipeline.models.device import Compute
from pipeline.models.inpaint.base import in_window
from pipeline.models.out_of_memory import retry_once


class LamaCleanerInpainter:
    """`ModelManager("lama")` on a TorchScript file; RGB uint8 in and out."""

    def __init__(self, path: Path, compute: Compute) -> None:
        with warnings.catch_warnings():
            # The import loads many models that are not used here, with their deprecation warnings.
            warnings.simplefilter("ignore")
            with without_imghdr():
                from lama_cleaner import schema
                from lama_cleaner.model import lama
                from lama_cleaner.model_manager import ModelManager
            from loguru import logger

            logger.disable("lama_cleaner")
            # lama-cleaner deletes a file that it cannot load and ends the process. It gets a link
            # to the file, so only the link is lost.
            with tempfile.TemporaryDirectory() as folder:
                link = Path(folder) / path.name
                link.symlink_to(path.resolve())
                # With a path in place of the download address it opens that file, without network.
                lama.LAMA_MODEL_URL = str(link)
                try:
                    self._manager: Any = ModelManager("lama", compute.device)
                except SystemExit:
                    raise WeightsError(
                        f"lama-cleaner cannot load {path}: expected a TorchScript LaMa; "
                        "the file may be cut short, fetch it again"
                    ) from None
        # ORIGINAL: no resizing or cropping by lama-cleaner; `in_window` crops already.
        self._config = schema.Config(
            ldm_steps=1,
            hd_strategy=schema.HDStrategy.ORIGINAL,
            hd_strategy_crop_margin=0,
            hd_strategy_crop_trigger_size=0,
            hd_strategy_resize_limit=0,
        )

    def __call__(
        self, image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
    ) -> np.ndarray:
        return in_window(self._fill, image_HW3, hole_HW)

    def _fill(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        # As in `lama.py`: the profiling executor would change the last bits over time.
        mask_HW = hole_HW.astype(np.uint8) * 255
        with torch.jit.optimized_execution(False):
            filled_bgr = retry_once(
                lambda: self._manager(image_HW3, mask_HW, self._config),
                f"lama-cleaner filled a window of {hole_HW.shape[1]}x{hole_HW.shape[0]} px",
            )
        # It returns BGR in float.
        return np.clip(np.rint(filled_bgr[..., ::-1]), 0, 255).astype(np.uint8)


@contextmanager
def without_imghdr() -> Iterator[None]:
    """An empty `imghdr` while lama-cleaner is imported, where Python (from 3.13) has none.

    Its command line and its server look at uploaded files with that module; we use neither.
    """
    if find_spec("imghdr"):
        yield
        return
    sys.modules["imghdr"] = ModuleType("imghdr")
    try:
        yield
    finally:
        del sys.modules["imghdr"]

"""lama-cleaner's own `ModelManager` in process, reading the very file that our LaMa adapter reads.

It is the oracle for `lama.py`: the same file and hole give the same numbers, of which it cuts the
decimals off where we round. Its pinned requirements are older than ours; docs/decisions says how it
installs.

A file that does not load it deletes, and then ends the process; so it is shown a link.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import WeightsError
from pipeline.models.device import Compute
from pipeline.models.inpaint.base import in_window
from pipeline.models.out_of_memory import with_second_try


class LamaCleanerInpainter:
    """`ModelManager("lama")` on a TorchScript file; RGB uint8 in and out."""

    def __init__(self, path: Path, compute: Compute) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # imports many models that we do not use
            from lama_cleaner import schema
            from lama_cleaner.model import lama
            from lama_cleaner.model_manager import ModelManager
            from loguru import logger

            logger.disable("lama_cleaner")
            with tempfile.TemporaryDirectory() as folder:
                link = Path(folder) / path.name
                link.symlink_to(path.resolve())
                # A path in place of the address: it opens the file and never looks at a network.
                lama.LAMA_MODEL_URL = str(link)
                try:
                    self._manager: Any = ModelManager("lama", compute.device)
                except SystemExit:
                    raise WeightsError(
                        f"lama-cleaner cannot load {path}: expected a TorchScript LaMa; "
                        "the file may be cut short, fetch it again"
                    ) from None
        self._config = schema.Config(
            ldm_steps=1,
            hd_strategy=schema.HDStrategy.ORIGINAL,
            hd_strategy_crop_margin=0,
            hd_strategy_crop_trigger_size=0,
            hd_strategy_resize_limit=0,
        )

    def __call__(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        return in_window(self._fill, image_HW3, hole_HW)

    def _fill(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        mask_HW = hole_HW.astype(np.uint8) * 255
        with torch.jit.optimized_execution(False):
            filled_bgr = with_second_try(
                lambda: self._manager(image_HW3, mask_HW, self._config),
                f"lama-cleaner filled a window of {hole_HW.shape[1]}x{hole_HW.shape[0]} px",
            )
        return np.clip(np.rint(filled_bgr[..., ::-1]), 0, 255).astype(np.uint8)

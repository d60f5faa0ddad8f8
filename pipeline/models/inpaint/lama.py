"""LaMa as TorchScript (Suvorov et al., WACV 2022): the official file or the bundled small one.

Separate from `base.py`, because OpenCV's inpainters work without PyTorch.
"""

from pathlib import Path

import cv2
import numpy as np
import torch

from pipeline.models.device import Compute
from pipeline.models.inpaint.base import MULTIPLE, in_window
from pipeline.models.out_of_memory import retry_once
from pipeline.models.weights.safe_load import load_torchscript

# Longest side of a window that the small LaMa sees. It was trained on 256 px, and in a megapixel a
# single hole would take seconds and a gigabyte; larger windows are reduced for it.
SMALL_SIDE = 384
# Takes away what alternates from pixel to pixel, and little else.
BINOMIAL = np.array([0.25, 0.5, 0.25], np.float32)


class TorchScriptLama:
    """`big-lama.pt` or the bundled small LaMa: `model(image_1CHW, mask_11HW) -> image_1CHW`.

    Windows with a longer side than `longest` are reduced to it, and the fill is enlarged again.
    """

    def __init__(self, path: Path, compute: Compute, longest: int | None = None) -> None:
        self._model = load_torchscript(path, compute.device)
        self._device, self._longest = compute.device, longest

    def __call__(
        self, image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
    ) -> np.ndarray:
        return in_window(self._fill, image_HW3, hole_HW)

    def _fill(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        height, width = hole_HW.shape
        scale = (self._longest or max(height, width)) / max(height, width)
        if scale < 1:
            size = max(1, round(scale * width)), max(1, round(scale * height))
            small_hw3 = cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)
            # Every cell that the hole touches is filled, so no pixel of it shines through.
            small_hw = cv2.resize(hole_HW.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            filled_hw3 = self._fill(small_hw3, small_hw > 0)
            return cv2.resize(filled_hw3, (width, height), interpolation=cv2.INTER_CUBIC)
        return retry_once(
            lambda: self._run(image_HW3, hole_HW), f"LaMa filled a window of {width}x{height} px"
        )

    @torch.inference_mode()
    def _run(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        height, width = hole_HW.shape
        # Padded by mirroring with the edge pixel repeated, as LaMa's training code and
        # lama-cleaner.
        beyond = ((0, -height % MULTIPLE), (0, -width % MULTIPLE))
        image_HW3 = np.pad(image_HW3, (*beyond, (0, 0)), mode="symmetric")
        hole_HW = np.pad(hole_HW, beyond, mode="symmetric")
        image_13HW = torch.from_numpy(image_HW3).to(self._device).permute(2, 0, 1)[None].float()
        mask_11HW = torch.from_numpy(hole_HW).to(self._device)[None, None].float()
        # The profiling executor may rewrite the graph after its first calls, which changes the last
        # bits of the result. A digest must not depend on how many images were processed before.
        with torch.jit.optimized_execution(False):
            filled = self._model(image_13HW / 255, mask_11HW)
        filled_HW3 = filled[0, :, :height, :width].clamp(0, 1).mul(255).permute(1, 2, 0)
        filled_HW3 = filled_HW3.cpu().numpy()
        if self._longest:
            # The transposed convolutions of the small model leave a grid of period 2.
            smooth_HW3 = cv2.sepFilter2D(filled_HW3, -1, BINOMIAL, BINOMIAL)
            filled_HW3 = np.where(hole_HW[:height, :width, None], smooth_HW3, filled_HW3)
        return filled_HW3.round().astype(np.uint8)

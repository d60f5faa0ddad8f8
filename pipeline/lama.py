"""LaMa as TorchScript (Suvorov et al., WACV 2022): the official file or the bundled small one.

Apart from `inpaint.py` because only this needs PyTorch.
"""

from pathlib import Path

import numpy as np
import torch

from pipeline.devices import Compute
from pipeline.inpaint import MULTIPLE, in_window
from pipeline.weights_loading import load_torchscript


class TorchScriptLama:
    """`big-lama.pt` or the bundled small LaMa: `model(image_1CHW, mask_11HW) -> image_1CHW`."""

    def __init__(self, path: Path, compute: Compute) -> None:
        self._model = load_torchscript(path, compute.device)
        self._device = compute.device

    def __call__(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        return in_window(self._fill, image_HW3, hole_HW)

    @torch.inference_mode()
    def _fill(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        height, width = hole_HW.shape
        pad = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        image_13HW = torch.from_numpy(image_HW3).to(self._device).permute(2, 0, 1)[None].float()
        mask_11HW = torch.from_numpy(hole_HW).to(self._device)[None, None].float()
        image_13HW = torch.nn.functional.pad(image_13HW / 255, pad, mode="reflect")
        mask_11HW = torch.nn.functional.pad(mask_11HW, pad, mode="reflect")
        # The profiling executor may rewrite the graph after its first calls, and with it the last
        # bits of the result; a digest must not depend on how many images came before.
        with torch.jit.optimized_execution(False):
            filled = self._model(image_13HW, mask_11HW)
        filled_HW3 = filled[0, :, :height, :width].clamp(0, 1).mul(255).round()
        return filled_HW3.byte().permute(1, 2, 0).cpu().numpy()

"""What TensorBoard shows of a training: terms, rate, learning rate, validation, heat maps.

    tensorboard --logdir out/tensorboard

Shapes: B pictures; H, W picture; 3 colour (RGB).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectors.heatmaps import Scale, over, scale_of

FOLDER = "tensorboard"
PICTURES = 4
"""Validation pairs that are shown at each look."""


class Board:
    """Writes event files below `out/tensorboard`; does nothing when `on` is False."""

    def __init__(self, out: Path, on: bool = True, first_step: int = 0) -> None:
        self._writer: Any = None
        if on:
            from torch.utils.tensorboard import SummaryWriter  # half a second, only when wanted

            # A resumed run repeats some steps; what the killed one wrote of them is dropped.
            self._writer = SummaryWriter(
                str(out / FOLDER), purge_step=first_step or None, flush_secs=30
            )

    def scalars(self, step: int, group: str, values: Mapping[str, float | None]) -> None:
        """Numbers of a step under `group/name`; those that do not exist are left out."""
        if self._writer is not None:
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def pictures(
        self,
        step: int,
        images_B3HW: Tensor,
        maps_BHW: Tensor,
        heat: tuple[float, float] | None = None,
    ) -> None:
        """Images, and below them their maps as heat from and to these two values."""
        if self._writer is not None:
            self._writer.add_image("validation/pairs", sheet(images_B3HW, maps_BHW, heat), step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def sheet(images_B3HW: Tensor, maps_BHW: Tensor, heat: tuple[float, float] | None = None) -> Tensor:
    """(3, 2H, B*W) uint8: images above, heat below; `heat` None: the maps' own scale."""
    maps = maps_BHW.float().cpu().numpy()
    scale = Scale(*heat) if heat else scale_of(maps)
    images = images_B3HW.permute(0, 2, 3, 1).cpu().numpy()
    columns = [
        np.concatenate([image, over(image, one, scale)])
        for image, one in zip(images, maps, strict=True)
    ]
    return torch.from_numpy(np.concatenate(columns, 1)).permute(2, 0, 1)

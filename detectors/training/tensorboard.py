"""TensorBoard output of a training: loss terms, rates, learning rate, validation, anomaly maps.

    tensorboard --logdir out/tensorboard

Shapes: B images; H, W image; 3 colour (RGB).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectors.heatmaps import Scale, overlay, scale_of

FOLDER = "tensorboard"
# Validation pairs that are shown at each validation pass.
BOARD_IMAGES = 4


class Board:
    """Writes event files below `out/tensorboard`; does nothing when `on` is False."""

    def __init__(self, out: Path, on: bool = True, first_step: int = 0) -> None:
        self._writer: Any = None
        if on:
            # Half a second of import, which runs without a board do not pay.
            from torch.utils.tensorboard import SummaryWriter

            # A resumed run repeats some steps; the killed run's events of them are dropped.
            self._writer = SummaryWriter(
                str(out / FOLDER), purge_step=first_step or None, flush_secs=30
            )

    def scalars(self, step: int, group: str, values: Mapping[str, float | None]) -> None:
        """Numbers of a step under `group/name`; None values are left out."""
        if self._writer is not None:
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def images(
        self,
        step: int,
        images_B3HW: Tensor,
        maps_BHW: Tensor,
        heat: tuple[float, float] | None = None,
    ) -> None:
        """Images above their anomaly maps as heat; `heat` is the (low, high) of the scale."""
        if self._writer is not None:
            sheet = image_sheet(images_B3HW, maps_BHW, heat)
            self._writer.add_image("validation/pairs", sheet, step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()


def image_sheet(
    images_B3HW: Tensor, maps_BHW: Tensor, heat: tuple[float, float] | None = None
) -> Tensor:
    """(3, 2H, B*W) uint8: images above, heat below; `heat` None: the scale of these maps."""
    maps = maps_BHW.float().cpu().numpy()
    # Without validation normals the scale follows the shown maps.
    scale = Scale(*heat) if heat else scale_of(maps)
    images = images_B3HW.permute(0, 2, 3, 1).cpu().numpy()
    columns = [
        np.concatenate([image, overlay(image, one, scale)])
        for image, one in zip(images, maps, strict=True)
    ]
    # One column per image; add_image expects the colour channel first.
    return torch.from_numpy(np.concatenate(columns, 1)).permute(2, 0, 1)

"""Work in batches that get smaller when the device runs out of memory, and go on where they were.

How much fits depends on the image size, the model and whoever else uses the GPU, so it is found out
and not asked for. Nothing that was computed is computed again.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.errors import DeviceError

Result = TypeVar("Result")


def in_batches(
    rows: torch.Tensor, batch: int, work: Callable[[torch.Tensor], Result]
) -> tuple[list[Result], int]:
    """What `work` makes of consecutive parts of `rows`, and the batch size that fitted in the end.

    Halved with each torch.OutOfMemoryError; DeviceError when not even one row fits.
    """
    results: list[Result] = []
    done = 0
    while done < len(rows):
        part = rows[done : done + batch]
        try:
            results.append(work(part))
        except torch.OutOfMemoryError as error:
            if len(part) == 1:
                raise DeviceError(
                    f"out of memory on {rows.device}: not even one step fits "
                    f"({_first_line(error)}); free it, use smaller images, or set "
                    "models.device: cpu",
                    passing=True,
                ) from error
            batch = len(part) // 2
        else:
            done += len(part)
            continue
        release()  # after the error is gone, and with it the tensors that it kept alive
    return results, batch


def release() -> None:
    """Give the device's cached memory back; call it when the error that held tensors is gone."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

"""What happens when a GPU has no memory left: smaller batches, or one retry, then a clear error.

How much fits depends on the image size, the model and whoever else uses the GPU, so it is found out
and not configured. Nothing is moved to the CPU by itself: other rounding would make another dataset
under the same settings. An inpainter sees one window at a time and has nothing to divide.
"""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.errors import DeviceError

Result = TypeVar("Result")


def with_second_try(call: Callable[[], Result], doing: str) -> Result:
    """`call()`, and again after emptying the cache when memory ran out; `doing` is for the error.

    The cache holds what earlier, larger calls needed; other programs may have gone meanwhile.
    DeviceError when memory runs out again.
    """
    try:
        return call()
    except RuntimeError as error:
        if not ran_out(error):
            raise
    # Outside the handler: its traceback held the tensors of the failed call.
    gc.collect()
    release()
    try:
        return call()
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise DeviceError(
            f"out of memory on the GPU twice, the second time with an empty cache, while {doing}; "
            "end other programs on it, lower --workers or image_size, or set models.device: cpu",
            passing=True,
        ) from error


def ran_out(error: BaseException) -> bool:
    """True when a CUDA allocation failed. TorchScript turns the type into text on its way out."""
    return isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in str(error)


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

"""Running out of GPU memory: smaller batches, or one retry, then a clear error.

How much fits depends on the image size, the model and other users of the GPU, so it is found by
trying. Nothing is moved to the CPU automatically: different rounding would give a different dataset
from the same settings. An inpainter processes one window at a time and has no batch to divide.
"""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.errors import DeviceError

Result = TypeVar("Result")


def retry_once(call: Callable[[], Result], doing: str) -> Result:
    """`call()`, and once more with an empty cache if GPU memory ran out.

    The cache may hold memory of earlier, larger calls, and other programs may have ended meanwhile.
    DeviceError (transient) when memory runs out again; `doing` completes its "while …".
    """
    try:
        return call()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: there, the traceback still holds the tensors of the failed call.
    gc.collect()
    empty_cache()
    try:
        return call()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(
            f"out of memory on the GPU twice, the second time with an empty cache, while {doing}; "
            "end other programs on it, lower the number of workers or image_size, or set "
            "models.device: cpu",
            transient=True,
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """True when a CUDA allocation failed."""
    # TorchScript raises a plain RuntimeError that has the original one as text.
    return isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in str(error)


def in_batches(
    rows: torch.Tensor, batch: int, work: Callable[[torch.Tensor], Result]
) -> tuple[list[Result], int]:
    """`work` on consecutive batches of `rows`: the results, and the batch size that fitted.

    The batch is halved after each torch.OutOfMemoryError; DeviceError (transient) when not even one
    row fits.
    """
    # A batch that failed is tried again in smaller parts; finished results are kept.
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
                    transient=True,
                ) from error
            # Half of what was tried: the last part may be shorter than `batch`.
            batch = len(part) // 2
        else:
            done += len(part)
            continue
        # After the handler, when the error no longer keeps the tensors alive.
        empty_cache()
    return results, batch


def empty_cache() -> None:
    """Return the cached GPU memory of this process to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

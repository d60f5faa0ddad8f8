"""What happens when a GPU has no memory left: once more with an empty cache, then a clear error.

Nothing is moved to the CPU by itself: other rounding would make another dataset under the same
settings. Stages that work in batches make them smaller instead (`proposals.py`); an inpainter sees
one window at a time and has nothing to divide.
"""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.errors import DeviceError
from pipeline.models.backoff import release

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

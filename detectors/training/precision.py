"""The number formats of detectors: those of `pipeline.models.device`, and TF32 where a GPU has it.

Left alone, PyTorch runs convolutions on CUDA in TF32 while it says float32. Here fp32 means fp32.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from pipeline.errors import DeviceError, UserError
from pipeline.models.device import Compute, choose

Precision = Literal["fp32", "tf32", "bf16"]
PRECISIONS = ("auto", "fp32", "tf32", "bf16")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def resolve(device: str = "auto", precision: str = "auto") -> Compute:
    """Resolve `auto|cpu|cuda|cuda:N` and `auto|fp32|tf32|bf16`, and set PyTorch's TF32 switches.

    DeviceError when the device is absent or cannot do TF32.
    """
    if precision not in PRECISIONS:
        raise UserError(f"a precision is one of {', '.join(PRECISIONS)}; got {precision!r}")
    if not _DEVICE.fullmatch(device):
        raise UserError(f"a device is auto, cpu, cuda or cuda:N; got {device!r}")
    kind, _, number = device.partition(":")
    compute = choose(kind, "fp32" if precision == "tf32" else precision)
    if number:
        if int(number) >= torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise DeviceError(f"{device} was asked for, but torch sees {found} CUDA device(s)")
        compute = Compute(torch.device(device), compute.dtype)
    if precision == "tf32" and not _has_tf32(compute.device):
        raise DeviceError(
            f"precision tf32 needs a CUDA device of compute capability 8 or newer, got "
            f"{compute.describe()}; use precision: fp32, bf16 or auto"
        )
    _allow_tf32(precision == "tf32")
    return compute


def name_of(compute: Compute) -> Precision:
    """What `resolve` made of the precision: `fp32`, `tf32` or `bf16`."""
    if compute.reduced:
        return "bf16"
    return "tf32" if compute.device.type == "cuda" and _tf32_allowed() else "fp32"


@contextmanager
def exact() -> Iterator[None]:
    """Inside, products of float32 numbers are float32 products."""
    before = _tf32_allowed()
    _allow_tf32(False)
    try:
        yield
    finally:
        _allow_tf32(before)


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def _tf32_allowed() -> bool:
    return torch.backends.cudnn.allow_tf32


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed

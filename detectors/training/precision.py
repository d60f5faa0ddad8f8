"""Precisions of detectors: those of `pipeline.models.device`, and TF32 where a GPU has it.

By default PyTorch runs float32 convolutions on CUDA in TF32, which keeps 10 bits of the mantissa.
Here fp32 means fp32, and TF32 is used only where it is named.
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
# Names as PyTorch writes them; other device types are not supported.
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def resolve(device: str = "auto", precision: str = "auto") -> Compute:
    """Resolve `auto|cpu|cuda|cuda:N` and `auto|fp32|tf32|bf16`, and set PyTorch's TF32 switches.

    UserError for another word, DeviceError when the device is absent or has no TF32.
    """
    if precision not in PRECISIONS:
        raise UserError(f"a precision is one of {', '.join(PRECISIONS)}; got {precision!r}")
    if not _DEVICE.fullmatch(device):
        raise UserError(f"a device is auto, cpu, cuda or cuda:N; got {device!r}")
    kind, _, number = device.partition(":")
    # TF32 is float32 storage with faster products, so its tensors are those of fp32.
    compute = choose(kind, "fp32" if precision == "tf32" else precision)
    # `choose` knows kinds of devices; the index is checked here.
    if number:
        if int(number) >= torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise DeviceError(f"expected device {device}, but torch finds {found} CUDA device(s)")
        compute = Compute(torch.device(device), compute.dtype)
    if precision == "tf32" and not _has_tf32(compute.device):
        raise DeviceError(
            f"precision tf32 needs a CUDA device of compute capability 8 or newer, got "
            f"{compute.describe()}; use precision: fp32, bf16 or auto"
        )
    # Global switches: they hold for the whole process until the next `resolve`.
    _allow_tf32(precision == "tf32")
    return compute


def precision_name(compute: Compute) -> Precision:
    """The precision that `resolve` has set: `fp32`, `tf32` or `bf16`."""
    if compute.reduced:
        return "bf16"
    return "tf32" if compute.device.type == "cuda" and _tf32_allowed() else "fp32"


@contextmanager
def exact() -> Iterator[None]:
    """Inside, products of float32 numbers are float32 products, also on CUDA."""
    before = _tf32_allowed()
    _allow_tf32(False)
    try:
        yield
    finally:
        _allow_tf32(before)


def _has_tf32(device: torch.device) -> bool:
    # Ampere, compute capability 8.0, is the first architecture with TF32 tensor cores.
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def _tf32_allowed() -> bool:
    # `_allow_tf32` always sets both switches, so one of them tells.
    return torch.backends.cudnn.allow_tf32


def _allow_tf32(allowed: bool) -> None:
    # PyTorch has separate switches for matrix products and for convolutions.
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed

"""Which device and number format a model runs in: asked for, asserted, never silently replaced."""

import os
from dataclasses import dataclass

import torch

from pipeline.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Compute:
    """A torch device and the dtype its matrix products run in."""

    device: torch.device
    dtype: torch.dtype

    @property
    def reduced(self) -> bool:
        """True when products run in bfloat16 under autocast."""
        return self.dtype == torch.bfloat16

    def autocast(self) -> torch.autocast:
        """The context in which a forward pass belongs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced)

    def describe(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}"


def choose(device: str = "auto", precision: str = "auto") -> Compute:
    """Resolve `auto|cpu|cuda` and `auto|fp32|bf16`.

    `auto` takes CUDA when it is there, and bfloat16 where the processor multiplies it in hardware
    (CUDA with bf16; CPUs with AMX, where it is 3-5 times faster, or with AVX-512 BF16, where it is
    1.7 times faster). DeviceError when the device that was asked for is absent.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device 'cuda' was asked for, but torch sees no CUDA device; "
            "use device: cpu or auto, or check the driver"
        )
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if chosen.type == "cuda" else multiplies_bf16()
        precision = "bf16" if fast else "fp32"
    return Compute(chosen, torch.bfloat16 if precision == "bf16" else torch.float32)


def multiplies_bf16() -> bool:
    """True when this CPU multiplies bfloat16 in hardware, by tiles (AMX) or by vectors."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def one_thread() -> None:
    """One intra-op thread in the calling thread.

    Splitting a sum over threads changes its rounding, so a dataset digest would depend on the
    number of cores; parallelism comes from working on many images at once instead.
    """
    import cv2

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cv2.setNumThreads(1)
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)

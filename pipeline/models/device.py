"""Device and precision of the models: requested, checked, never silently replaced."""

import os
from dataclasses import dataclass

import torch

from pipeline.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Compute:
    """A torch device and the dtype of matrix products on it, float32 or bfloat16."""

    device: torch.device
    dtype: torch.dtype

    @property
    def reduced(self) -> bool:
        """True when products run in bfloat16 under autocast."""
        return self.dtype == torch.bfloat16

    def autocast(self) -> torch.autocast:
        """The context for a forward pass; it changes nothing at float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced)

    def describe(self) -> str:
        """Such as `CPU, bfloat16`; the text is stored in the lineage of a dataset."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}"


def choose(device: str = "auto", precision: str = "auto") -> Compute:
    """Resolve `auto|cpu|cuda` and `auto|fp32|bf16`; DeviceError when `cuda` is not available.

    `auto` takes CUDA when it is there, and bfloat16 where the hardware multiplies it: on CUDA
    devices with bf16, and on CPUs with AMX (3-5 times faster) or AVX-512 BF16 (1.7 times faster).
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device 'cuda' was requested, but torch sees no CUDA device; "
            "use device: cpu or auto, or check the driver"
        )
    # An explicit `cuda` without a device has raised above; only `auto` falls back.
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if precision == "auto":
        # Without hardware support bfloat16 is emulated, which is slower than float32.
        fast = torch.cuda.is_bf16_supported() if chosen.type == "cuda" else multiplies_bf16()
        precision = "bf16" if fast else "fp32"
    return Compute(chosen, torch.bfloat16 if precision == "bf16" else torch.float32)


def multiplies_bf16() -> bool:
    """True when this CPU multiplies bfloat16 in hardware, by tiles (AMX) or by vectors."""
    # Torch has no public name for these checks.
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def one_thread() -> None:
    """Limit torch and OpenCV to one intra-op thread in the calling thread.

    Splitting a sum over threads changes its rounding, so the digest of a dataset would depend on
    the number of cores. Images are processed in parallel instead.
    """
    import cv2

    # For worker processes that are started later, and libraries that are imported later.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cv2.setNumThreads(1)
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def recorded() -> bool:
    """Whether a compiler or an exporter looks on, which must see the same calls for any batch."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()

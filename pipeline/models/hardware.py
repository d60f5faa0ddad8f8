"""What the operating system says of GPU and CPU, for commands that must not wait for PyTorch.

`device` asks PyTorch instead, and decides for a run; the two agree on what this module can see.
"""

from pathlib import Path

# One folder per GPU of the NVIDIA driver, with its name in `information`.
_DRIVER = Path("/proc/driver/nvidia/gpus")
# Inside containers the driver may be visible by its devices alone.
_DEVICES = Path("/dev")
_CPU = Path("/proc/cpuinfo")


def nvidia_gpus(driver: Path = _DRIVER, devices: Path = _DEVICES) -> tuple[str, ...]:
    """The names of the NVIDIA GPUs that the system shows, in the order of their addresses."""
    names = []
    for path in sorted(driver.glob("*/information")):
        # `Model: \t NVIDIA H200`
        lines = (line.partition(":") for line in path.read_text(errors="replace").splitlines())
        names += [value.strip() for key, _, value in lines if key.strip() == "Model"][:1]
    return tuple(names) or tuple("NVIDIA GPU" for _ in devices.glob("nvidia[0-9]*"))


def multiplies_bf16(cpu: Path = _CPU) -> bool:
    """True when the CPU multiplies bfloat16 in hardware, by tiles (AMX) or by vectors."""
    try:
        text = cpu.read_text(errors="replace")
    except OSError:
        return False
    # All cores of a machine have the same flags.
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return "amx_tile" in flags or "avx512_bf16" in flags

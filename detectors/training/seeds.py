"""Random seeds of a training: one per purpose and step, set without `torch.manual_seed`'s cost."""

import hashlib

import torch


def derived_seed(seed: int, step: int, what: str) -> int:
    """A 63-bit seed for one purpose at one step."""
    content = f"{seed}/{step}/{what}".encode()
    # PyTorch's generators take signed 64-bit seeds; the shift keeps them non-negative.
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 1


def set_seeds(seed: int, device: torch.device) -> None:
    """Seed the global generator of the CPU, and that of the device.

    `torch.manual_seed` also queries every other kind of device. Where these are not initialised it
    keeps a stack trace per call: a millisecond each, and memory that grows with every step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)

"""Seeds of a training: one per purpose and step, set without the cost of `torch.manual_seed`."""

import hashlib

import torch


def mixed(seed: int, step: int, what: str) -> int:
    """A 63-bit seed for one purpose at one step."""
    content = f"{seed}/{step}/{what}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 1


def sow(seed: int, device: torch.device) -> None:
    """Seed the global generator of the CPU, and that of the device.

    `torch.manual_seed` also asks for every other kind of device, and where those are not started it
    keeps a stack trace per call: a millisecond each, and memory that grows with every step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)

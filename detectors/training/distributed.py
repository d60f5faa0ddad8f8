"""Several processes that train one detector: who is who, under `torchrun` or alone.

    with joined(device="auto") as ranks:        # one process when torchrun did not start this one
        ...
        stop = ranks.agree(stop)                # what the first process says

Gradients are averaged by PyTorch's DistributedDataParallel over NCCL (CUDA) or Gloo (CPU).
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detectors.base import Batch, Detector

PATIENCE = timedelta(hours=6)
"""How long the others wait for the first process, which also validates and writes."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is number `rank` of `ranks`; the first one writes."""

    rank: int = 0
    ranks: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, device: str) -> str:
        """The device of this process: its own GPU, where there are several processes."""
        several = self.ranks > 1 and device in ("auto", "cuda") and torch.cuda.is_available()
        return f"cuda:{self.local}" if several else device

    def agree(self, number: int) -> int:
        """The number that the first process gives, in every process; also a point to wait at."""
        if self.ranks == 1:
            return number
        kind = "cuda" if dist.get_backend() == "nccl" else "cpu"
        told = torch.tensor([number], dtype=torch.int64, device=kind)
        dist.broadcast(told, 0)
        return int(told.item())


class LossModule(nn.Module):
    """A detector whose forward pass is its losses: what is compiled, and spread over processes."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        return self.detector.losses(batch, step, steps)


def spread_out(detector: Detector, ranks: Ranks, device: torch.device) -> nn.Module:
    """The module to call for losses; with several processes their gradients are averaged.

    Weights and buffers start as those of the first process, and buffers (running means) stay so.
    """
    module = LossModule(detector)
    if ranks.ranks == 1:
        return module
    # 1x1 kernels have two names for one layout; nothing is copied because of it.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
    return nn.parallel.DistributedDataParallel(
        module,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=True,  # some detectors train their parts one after the other
    )


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone without it, or where a group exists."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or not dist.is_available():
        yield Ranks()
        return
    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if ranks.ranks == 1:
        yield ranks
        return
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(ranks.local)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
    try:
        yield ranks
    finally:
        if ours:
            dist.destroy_process_group()

"""Several processes that train one detector: their ranks, under `torchrun` or alone.

    with process_group(device="auto") as ranks:     # one process without torchrun
        ...
        stop = ranks.broadcast(stop)                # the value of rank 0

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

# Longest wait for rank 0, which also validates and writes. PyTorch's default of ten minutes would
# end a run whose validation split is large.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is number `rank` of `ranks`, and number `local` on its machine."""

    rank: int = 0
    ranks: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """True for rank 0, the process that validates and writes."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """The device of this process: a GPU of its own where there are several processes."""
        # `cpu` and a named GPU are kept as they are.
        several = self.ranks > 1 and device in ("auto", "cuda") and torch.cuda.is_available()
        return f"cuda:{self.local}" if several else device

    def broadcast(self, number: int) -> int:
        """The number of rank 0, in every process; also a barrier."""
        if self.ranks == 1:
            return number
        # NCCL transfers CUDA tensors only.
        kind = "cuda" if dist.get_backend() == "nccl" else "cpu"
        shared = torch.tensor([number], dtype=torch.int64, device=kind)
        dist.broadcast(shared, 0)
        return int(shared.item())


class LossModule(nn.Module):
    """A detector whose forward pass is its losses: the module that is compiled and distributed."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        return self.detector.losses(batch, step, steps)


def data_parallel(detector: Detector, ranks: Ranks, device: torch.device) -> nn.Module:
    """The module to call for losses; with several processes their gradients are averaged.

    Weights and buffers start as those of rank 0, and buffers (running means) are kept equal.
    """
    module = LossModule(detector)
    if ranks.ranks == 1:
        return module
    # 1x1 kernels in channels_last have two valid strides for one layout. PyTorch warns about the
    # difference, but nothing is copied because of it.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
    return nn.parallel.DistributedDataParallel(
        module,
        device_ids=[device.index] if device.type == "cuda" else None,
        # Some detectors train their parts one after the other.
        find_unused_parameters=True,
    )


@contextmanager
def process_group(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started; without torchrun this process is alone.

    A process group that the caller has initialised is used and left open.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or not dist.is_available():
        yield Ranks()
        return
    # Environment variables that torchrun sets.
    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if ranks.ranks == 1:
        yield ranks
        return
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        # Before the group exists: NCCL takes the current device.
        torch.cuda.set_device(ranks.local)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
    try:
        yield ranks
    finally:
        if ours:
            dist.destroy_process_group()

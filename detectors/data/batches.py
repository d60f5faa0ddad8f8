"""From a dataset version to batches on the device, at the detector's size, in a fixed order.

There is one resize routine, `fitted`, for training, validation, test and single photographs: a
teacher and its student see a domain shift where two routines differ.

Shapes: B batch; H, W picture as stored; 3 colour (RGB).
"""

from collections.abc import Iterator, Sequence
from itertools import count as counted

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from detectors.data.dataset import Batch, VersionDataset, as_made
from detectors.data.resize import fitted, fitted_masks
from pipeline.errors import UserError


def placed(batch: Batch, size: int, device: torch.device) -> Batch:
    """A batch as detectors take it: on the device, pictures and masks at `size`.

    Nothing here waits for a GPU.
    """
    ready = {}
    for name, tensor in batch.items():
        if device.type == "cuda":
            tensor = tensor.pin_memory().to(device, non_blocking=True)
        if tensor.ndim == 4:
            tensor = fitted(tensor, size)
        elif tensor.ndim == 3:
            tensor = fitted_masks(tensor, size)
        ready[name] = tensor
    return ready


class Feed:
    """Batches of a dataset in its order, as often as one iterates; `indices` chooses and orders.

    With `numbered=False` items have no `index`, so that no detector takes a picture of another
    split for one that it has seen in training.
    """

    def __init__(
        self,
        dataset: VersionDataset,
        batch_size: int,
        size: int,
        device: torch.device,
        workers: int = 0,
        *,
        indices: Sequence[int] | None = None,
        numbered: bool = True,
    ) -> None:
        self.dataset, self.size, self.device, self.workers = dataset, size, device, workers
        self.numbered = numbered
        chosen = range(len(dataset)) if indices is None else indices
        self.lots = [list(chosen[at : at + batch_size]) for at in range(0, len(chosen), batch_size)]

    def __len__(self) -> int:
        return len(self.lots)

    @property
    def items(self) -> int:
        """How many items one pass gives."""
        return sum(map(len, self.lots))

    def __iter__(self) -> Iterator[Batch]:
        for batch in _read(self.dataset, self.lots, self.workers):
            if not self.numbered:
                batch = {name: tensor for name, tensor in batch.items() if name != "index"}
            yield placed(batch, self.size, self.device)


class Stream:
    """Batches of training steps for ever, in the order of a sampler of index lists."""

    def __init__(
        self,
        dataset: VersionDataset,
        sampler: Sampler[list[int]],
        size: int,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        self.dataset, self.sampler, self.workers = dataset, sampler, workers
        self.size, self.device = size, device

    def __iter__(self) -> Iterator[Batch]:
        for batch in _read(self.dataset, self.sampler, self.workers):
            yield placed(batch, self.size, self.device)


class Steps(Sampler[list[int]]):
    """Endless lists of indices from `start_step` on; a subclass says which belong to a step.

    The list of a step depends on the seed, its number and the rank alone. The steps of all ranks
    together walk through one endless order, so ranks take different places of it, and `ranks`
    processes see in a step what one process with a batch `ranks` times as large would see.
    """

    def __init__(self, batch_size: int, seed: int, start_step: int, rank: int, ranks: int) -> None:
        if not 0 <= rank < ranks:
            raise UserError(f"the rank must be 0 to {ranks - 1}, got {rank}")
        self.batch_size, self.seed, self.start_step = batch_size, seed, start_step
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.batch, counted(self.start_step))

    def batch(self, step: int) -> list[int]:
        """The items of one step."""
        raise NotImplementedError

    def first(self, step: int) -> int:
        """Where this rank's part of a step begins in the endless order."""
        return (step * self.ranks + self.rank) * self.batch_size


class StepSampler(Steps):
    """Pass after pass over all items, each in a new order."""

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        start_step: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if length < 1:
            raise UserError("there is no image to train on in this split; choose another version")
        super().__init__(batch_size, seed, start_step, rank, ranks)
        self.length = length
        self._pass, self._order = -1, np.zeros(0, np.int64)

    def batch(self, step: int) -> list[int]:
        first = self.first(step)
        return [self._item(first + place) for place in range(self.batch_size)]

    def _item(self, position: int) -> int:
        number, place = divmod(position, self.length)
        if number != self._pass:
            self._pass = number
            self._order = np.random.default_rng([self.seed, number]).permutation(self.length)
        return int(self._order[place])


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices below `length`, in order, the same on every call.

    Drawn, not evenly apart: samples lie in rounds of kinds, and a step could miss one of them.
    """
    order = np.random.default_rng(0).permutation(length)
    return sorted(order[:count].tolist())


def _read(
    dataset: VersionDataset, lots: Sampler[list[int]] | list[list[int]], workers: int
) -> Iterator[Batch]:
    if workers:
        options = {"batch_sampler": lots, "num_workers": workers, "collate_fn": as_made}
        yield from DataLoader(dataset, **options)  # type: ignore[arg-type]
    else:
        for indices in lots:
            yield as_made(dataset.__getitems__(indices))

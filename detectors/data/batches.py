"""From a dataset version to batches on the device, at the detector's size, in a fixed order.

One resize routine, `resize_images`, serves training, validation, test and single images: different
routines would be a domain shift between a teacher's features and its student's.

Shapes: B batch; H, W stored image; 3 colour (RGB).
"""

from collections.abc import Iterator, Sequence
from itertools import count as counted
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from detectors.data.dataset import Batch, VersionDataset, collate
from detectors.data.resize import resize_images, resize_masks
from pipeline.errors import UserError


def to_device(batch: Batch, size: int, device: torch.device) -> Batch:
    """A batch as detectors take it: on the device, images and masks at `size`.

    Never waits for a GPU.
    """
    ready = {}
    for name, tensor in batch.items():
        if device.type == "cuda":
            # Only copies from pinned memory run beside the computation.
            tensor = tensor.pin_memory().to(device, non_blocking=True)
        # Images have four dimensions, masks three, labels and numbers one.
        if tensor.ndim == 4:
            tensor = resize_images(tensor, size)
        elif tensor.ndim == 3:
            tensor = resize_masks(tensor, size)
        ready[name] = tensor
    return ready


class Feed:
    """Batches of a dataset in its order; can be iterated any number of times.

    `indices` selects items and sets their order. With `numbered=False` batches have no `index`:
    numbers count within a split, and a detector with cached training features would otherwise take
    an image of another split for a training image.
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
        # The last batch can be smaller: evaluation must not drop items.
        chosen = range(len(dataset)) if indices is None else indices
        self.index_batches = [
            list(chosen[at : at + batch_size]) for at in range(0, len(chosen), batch_size)
        ]

    def __len__(self) -> int:
        return len(self.index_batches)

    @property
    def items(self) -> int:
        """Number of items in one pass."""
        return sum(map(len, self.index_batches))

    def __iter__(self) -> Iterator[Batch]:
        for batch in _read(self.dataset, self.index_batches, self.workers):
            # Drop the numbers on the CPU, before anything is copied to the device.
            if not self.numbered:
                batch = {name: tensor for name, tensor in batch.items() if name != "index"}
            yield to_device(batch, self.size, self.device)


class Stream:
    """Endless batches for training steps, in the order of a sampler of index lists."""

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
            yield to_device(batch, self.size, self.device)


class EndlessSampler(Sampler[list[int]]):
    """Endless lists of indices from `start_step` on; a subclass chooses those of each step.

    The list of a step depends only on seed, step number and rank, so a resumed run continues with
    the same batches. All ranks together walk through one endless order: in one step, `ranks`
    processes see what a single process with a batch `ranks` times as large would see.
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
        """Position in the endless order where this rank's part of a step begins."""
        return (step * self.ranks + self.rank) * self.batch_size


class StepSampler(EndlessSampler):
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
        # The order of the latest pass; steps are usually drawn one after another.
        self._pass, self._order = -1, np.zeros(0, np.int64)

    def batch(self, step: int) -> list[int]:
        first = self.first(step)
        return [self._item(first + place) for place in range(self.batch_size)]

    def _item(self, position: int) -> int:
        """The item at a position of the endless order."""
        # Pass number, and the place within it; a step can span two passes.
        number, place = divmod(position, self.length)
        if number != self._pass:
            self._pass = number
            # The order depends on seed and pass only, so any step can be drawn on its own.
            self._order = np.random.default_rng([self.seed, number]).permutation(self.length)
        return int(self._order[place])


def fixed_subset(length: int, count: int) -> list[int]:
    """At most `count` indices below `length`, sorted, the same on every call."""
    # Drawn at random, because samples are stored in rounds of kinds: with evenly spaced indices, a
    # stride that shares a factor with the length of a round would miss some kinds.
    order = np.random.default_rng(0).permutation(length)
    return sorted(order[:count].tolist())


def _read(
    dataset: VersionDataset, index_batches: Sampler[list[int]] | list[list[int]], workers: int
) -> Iterator[Batch]:
    """Batches on the CPU as stored, one per list of indices."""
    if workers:
        options = {"batch_sampler": index_batches, "num_workers": workers, "collate_fn": _arrays}
        for arrays in DataLoader(dataset, **options):  # type: ignore[arg-type]
            yield {name: torch.from_numpy(array) for name, array in arrays.items()}
    else:
        # Without workers a DataLoader would only add overhead.
        for indices in index_batches:
            yield collate(dataset.__getitems__(indices))


def _arrays(items: Any) -> dict[str, np.ndarray]:
    """A batch as arrays, which workers hand over through a pipe.

    Tensors would go through /dev/shm. Where it is full, as in containers with 64 MB of it, the
    batch is lost and the training waits for it forever.
    """
    return {name: tensor.numpy() for name, tensor in collate(items).items()}

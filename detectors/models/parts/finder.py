"""The part finder of a generator's run as a detector uses it: batches, each image found once.

It is the one that rule books are drafted and checked with, so what the generator calls broken the
detector calls broken. Its networks (U²-Net, SAM, the describer's teacher) are frozen and named by
their digests: a checkpoint does not hold them, and refuses others.

Shapes: B images; H, W image; 3 colour (RGB).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from detectors.networks.frozen_levels import FrozenLevels
from detectors.networks.patch_memory import Pair
from pipeline.errors import UserError
from pipeline.models import build as models
from pipeline.models import device as devices
from pipeline.models.settings import ModelSettings
from pipeline.models.trunks import AnyTrunk, trunk_of
from pipeline.rulebook.book import RuleBook
from pipeline.rulebook.descriptors import PartDescriptor
from pipeline.rulebook.parts import PartFinder, Parts, ProductFrame, finder
from pipeline.rulebook.second_look import Finder, look_again

T = TypeVar("T")

# Stages whose networks decide which parts are found, and how far patches are from good ones.
STAGES = ("foreground", "proposals", "features")
# Most images whose parts are found at the same time, each by one thread; 0.3 GB each.
WORKERS = 8
# Images whose parts are remembered, about 0.1 MB each: every fold asks for the same ones.
REMEMBERED = 2000


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Restores the number of PyTorch's threads: it is one of the process, and another detector may
    need them all."""
    allowed = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(allowed)


class MachineFinder:
    """Finds the parts of one image with the best networks of this machine, loaded at first use."""

    @cached_property
    def _files(self) -> models.ModelFiles:
        return models.resolve(ModelSettings())

    @cached_property
    def find(self) -> PartFinder:
        """The finder of a run."""
        # Loading leaves one thread, as the generator works image by image.
        with _threads_kept():
            return finder(models.load(ModelSettings(), files=self._files))

    @cached_property
    def trunk(self) -> AnyTrunk:
        """The frozen network that describes patches."""
        backend, path = self._files.features
        return trunk_of(models.FEATURES[backend], path)

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the networks, by stage and backend."""
        digests = self._files.digests()
        return {name: digest for name, digest in digests.items() if name.split("/")[0] in STAGES}


class Machine(Protocol):
    """What a `BatchFinder` finds parts with; tests have one without networks."""

    @property
    def find(self) -> Finder: ...

    @property
    def trunk(self) -> AnyTrunk: ...

    @property
    def digests(self) -> dict[str, str]: ...


class BatchFinder:
    """Finds the parts of batches; each image once, as long as it is remembered.

    `levels` are the features of patches; of both networks a checkpoint holds digests only.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.levels = FrozenLevels(machine.trunk)
        self._known: dict[bytes, _Packed] = {}
        # Book, images and parts of the last second look.
        self._last: tuple[RuleBook, bytes, list[Parts]] | None = None

    def require(self, digests: dict[str, str]) -> None:
        """UserError unless this machine finds parts with the networks of these digests."""
        present = self.machine.digests
        for stage, digest in digests.items():
            found = present.get(stage, "none")
            if found != digest:
                raise UserError(
                    f"parts: fitted with the network {stage} {digest[:12]}, this machine takes "
                    f"{found[:12] if stage in present else ', '.join(sorted(present)) or found}; "
                    "run `anomalysmith weights pull`, or train again"
                )

    def share(self, other: "BatchFinder") -> None:
        """Remember together with another finder."""
        self._known = other._known
        self.levels.share(other.levels)

    def patches(self, images_B3HW: Tensor, keep: bool = False) -> Pair:
        """The features of patches, on the images' device; with `keep` they are remembered."""
        return self.levels.to(images_B3HW.device)(images_B3HW, keep)

    def parts(self, images_B3HW: Tensor) -> list[Parts]:
        """The parts of uint8 images as the finder sees them that knows no rule book."""
        images = _arrays(images_B3HW)
        keys = [sha256(image_HW3.tobytes()).digest() for image_HW3 in images]
        found = {key: self._known[key].parts() for key in keys if key in self._known}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        for key, parts in zip(new, self._each(self.machine.find, list(new.values())), strict=True):
            found[key] = parts
            self._known[key] = _Packed.of(parts)
        # The oldest are forgotten.
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return [found[key] for key in keys]

    def parts_by(self, book: RuleBook, images_B3HW: Tensor) -> list[Parts]:
        """The parts, where they are odd after a second look, see `rulebook.second_look`."""
        # Scores, reasons and regions of one batch ask for the same.
        key = sha256(images_B3HW.contiguous().cpu().numpy().tobytes()).digest()
        if self._last is None or self._last[0] is not book or self._last[1] != key:
            find = self.machine.find
            pairs = list(zip(_arrays(images_B3HW), self.parts(images_B3HW), strict=True))
            self._last = book, key, self._each(lambda pair: look_again(book, find, *pair), pairs)
        return self._last[2]

    def _each(self, work: Callable[[T], Parts], items: Sequence[T]) -> list[Parts]:
        """Apply `work` to all items, some at a time, not in a detector's precision."""

        def exactly(item: T) -> Parts:
            with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                return work(item)

        # As many as PyTorch may use here: `--threads 1` means one core.
        workers = min(WORKERS, torch.get_num_threads())
        with _threads_kept(), ThreadPoolExecutor(workers, initializer=devices.one_thread) as pool:
            return list(pool.map(exactly, items))


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    """Parts with one bit per pixel of a mask."""

    bits: np.ndarray
    shape: tuple[int, ...]
    descriptors: tuple[PartDescriptor, ...]
    frame: ProductFrame

    @classmethod
    def of(cls, parts: Parts) -> "_Packed":
        masks = parts.masks_NHW
        return cls(np.packbits(masks), masks.shape, parts.descriptors, parts.frame)

    def parts(self) -> Parts:
        count = int(np.prod(self.shape))
        masks_NHW = np.unpackbits(self.bits, count=count).reshape(self.shape).astype(np.bool_)
        return Parts(masks_NHW, self.descriptors, self.frame)


def _arrays(images_B3HW: Tensor) -> list[np.ndarray]:
    """(H, W, 3) uint8 each."""
    return list(images_B3HW.permute(0, 2, 3, 1).contiguous().cpu().numpy())

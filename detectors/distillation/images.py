"""A folder of images to distil from: every image file below it, decoded at two sizes.

    images = DistillationImages.open(Path("imagenet/train"), size=256)
    for small_B3SS, large_B3LL, failures in images.stream(batch_size=16, seed=0):
        ...

Only names and sizes of the files are read first, so that a folder with a million of them opens in
seconds. A file that cannot be decoded is found when it is drawn: the next file in order replaces
it, and the batch names it. The batch of a step depends on the seed and on the step number alone.

Shapes: B batch; S small side, L = 2S large side, px; 3 colour (RGB, uint8).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detectors.data.batches import StepSampler
from pipeline.errors import ImageError, UserError
from pipeline.imaging.decode import load_image
from pipeline.imaging.walk import only_links, walk_images
from pipeline.utils.hashing import digest_of
from pipeline.utils.names import text_of

# Input size of the backbone over that of the PDN: 512 px and 256 px in the paper.
ENLARGED = 2
# Fewer images give no standard deviation of a channel.
LEAST = 2
# Unreadable files in a row before the run stops: such a folder holds something else than images.
TRIES = 100

# Index of an image, and whether it is converted to grey.
Key = tuple[int, bool]


class TwoSizes(NamedTuple):
    """The same uint8 images at both sizes, and (name, reason) of unreadable files."""

    small_B3SS: Tensor
    large_B3LL: Tensor
    failures: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class DistillationImages(Dataset[TwoSizes]):
    """Names and a digest of the image files below a folder.

    `names` are paths below `root` in natural order; `listing` is a SHA-256 over them and their
    sizes.
    """

    root: Path
    names: tuple[str, ...]
    listing: str
    size: int

    @classmethod
    def open(cls, root: Path, size: int, links: Path | None = None) -> Self:
        """List a folder; UserError when it holds fewer than two image files.

        Links inside it may lead into the folder `links` as well.
        """
        if not root.is_dir():
            raise UserError(f"--images should be a folder of images, found none at {root}")
        walk = walk_images(root, links)
        if len(walk.names) < LEAST:
            why = only_links(walk.left_out) or "name another folder"
            raise UserError(
                f"{text_of(root)} holds {len(walk.names)} image file(s), at least {LEAST} are "
                f"needed (thousands, for a useful teacher); {why}"
            )
        # The digest covers sizes instead of contents: reading all of ImageNet would take hours.
        listing = digest_of([[text_of(name), (root / name).stat().st_size] for name in walk.names])
        return cls(root, tuple(walk.names), listing, size)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: Key) -> TwoSizes:
        return self.__getitems__([key])

    # PyTorch's loader calls this with a whole batch of keys.
    def __getitems__(self, keys: Sequence[Key]) -> TwoSizes:
        failures: list[tuple[str, str]] = []
        pairs = [self._pair(index, grey, failures) for index, grey in keys]
        small_BSS3, large_BLL3 = (
            torch.from_numpy(np.stack(images)) for images in zip(*pairs, strict=True)
        )
        return TwoSizes(small_BSS3.permute(0, 3, 1, 2), large_BLL3.permute(0, 3, 1, 2), failures)

    def stream(
        self, batch_size: int, seed: int, start: int = 0, grey: float = 0.0, workers: int = 0
    ) -> Iterator[TwoSizes]:
        """Endless batches from step `start` on: epoch after epoch, each in a new order.

        `grey` is the share of images converted to grey; `workers` processes decode, 0: this one.
        """
        # Keys say which images a batch has, before any is decoded.
        keys = StepKeys(len(self), batch_size, seed, start, grey)
        if not workers:
            yield from map(self.__getitems__, keys)
            return
        # `__getitems__` returns a complete batch, so there is nothing to collate.
        read = DataLoader(self, batch_sampler=keys, num_workers=workers, collate_fn=_arrays)  # type: ignore[arg-type]
        for small, large, failures in read:
            yield TwoSizes(torch.from_numpy(small), torch.from_numpy(large), failures)

    def _pair(
        self, index: int, grey: bool, failures: list[tuple[str, str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One image at both sizes; the next readable one when it is damaged."""
        # Past the last file the search continues at the first one.
        for number in range(index, index + min(TRIES, len(self))):
            name = self.names[number % len(self)]
            try:
                image = Image.fromarray(load_image(self.root / name))
            except ImageError as error:
                failures.append((text_of(name), str(error)))
                continue
            if grey:
                image = image.convert("L").convert("RGB")
            small, large = (
                np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
                for side in (self.size, ENLARGED * self.size)
            )
            return small, large
        raise UserError(
            f"{self.root}: none of {min(TRIES, len(self))} image files in a row can be read, from "
            f"{text_of(self.names[index])} on ({failures[-1][1]}); name a folder of images"
        )


class StepKeys(Sampler[list[Key]]):
    """The keys of every step: indices of `StepSampler`, each in grey with probability `grey`."""

    def __init__(self, length: int, batch_size: int, seed: int, start: int, grey: float) -> None:
        self.steps = StepSampler(length, batch_size, seed, start)
        self.start, self.grey = start, grey

    def __iter__(self) -> Iterator[list[Key]]:
        for step, indices in enumerate(self.steps, self.start):
            # Seeded by the step, so that a resumed run draws the same ones.
            rng = np.random.default_rng([self.steps.seed, step, len(indices)])
            drawn = (rng.random(len(indices)) < self.grey).tolist()
            yield list(zip(indices, drawn, strict=True))


# A named function, because worker processes cannot unpickle a lambda.
def _arrays(batch: TwoSizes) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """As arrays, which need no /dev/shm on the way to this process (detectors/data/batches.py)."""
    return batch.small_B3SS.numpy(), batch.large_B3LL.numpy(), batch.failures

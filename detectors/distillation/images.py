"""A folder of pictures to distil from: every image file below it, seen at two sizes at once.

    folder = PictureFolder.open(Path("imagenet/train"), size=256)
    for small_B3SS, large_B3LL, failures in folder.stream(batch_size=16, seed=0):
        ...

Nothing is known about the files but their names, so that a million of them open in seconds. What
cannot be read shows when its turn comes: the next file in order takes its place, and the batch says
so. The batch of a step depends on the seed and its number alone.

Shapes: B batch; S small side, L = 2S large side, px; 3 colour (RGB, uint8).
"""

import os
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
from pipeline.imaging.decode import is_image_name, load_image
from pipeline.utils.hashing import digest_of

ENLARGED = 2
"""How much larger the backbone sees what the PDN sees (512 px and 256 px in the paper)."""
LEAST = 2
"""Pictures without which there is no deviation of a channel."""
TRIES = 100
"""Files in a row that may be unreadable; a folder with more of them holds something else."""

Key = tuple[int, bool]
"""Number of a picture, and whether it is shown in grey."""


class TwoSizes(NamedTuple):
    """The same pictures twice, and (name, reason) of those that others stand in for."""

    small_B3SS: Tensor
    large_B3LL: Tensor
    failures: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class PictureFolder(Dataset[TwoSizes]):
    """`names` are paths below `root`, sorted; `listing` is a SHA-256 over them and their bytes."""

    root: Path
    names: tuple[str, ...]
    listing: str
    size: int

    @classmethod
    def open(cls, root: Path, size: int) -> Self:
        """Look through a folder; UserError when it holds fewer than two image files."""
        if not root.is_dir():
            raise UserError(f"--images should be a folder of pictures, found none at {root}")
        found = sorted(_image_files(root))
        if len(found) < LEAST:
            raise UserError(
                f"{root} holds {len(found)} image file(s), at least {LEAST} are needed "
                "(thousands, for a teacher of any use); name another folder"
            )
        # Sizes instead of contents: reading ImageNet once more would take hours.
        listing = digest_of([[name, count] for name, count in found])
        return cls(root, tuple(name for name, _ in found), listing, size)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: Key) -> TwoSizes:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> TwoSizes:
        failures: list[tuple[str, str]] = []
        pairs = [self._pair(index, grey, failures) for index, grey in keys]
        small_BSS3, large_BLL3 = (
            torch.from_numpy(np.stack(pictures)) for pictures in zip(*pairs, strict=True)
        )
        return TwoSizes(small_BSS3.permute(0, 3, 1, 2), large_BLL3.permute(0, 3, 1, 2), failures)

    def stream(
        self, batch_size: int, seed: int, start: int = 0, grey: float = 0.0, workers: int = 0
    ) -> Iterator[TwoSizes]:
        """Endless batches from step `start` on: pass after pass, each in a new order."""
        keys = StepKeys(len(self), batch_size, seed, start, grey)
        if not workers:
            yield from map(self.__getitems__, keys)
            return
        # One batch is one item here, so nothing is left to collate.
        yield from DataLoader(self, batch_sampler=keys, num_workers=workers, collate_fn=_as_made)  # type: ignore[arg-type]

    def _pair(
        self, index: int, grey: bool, failures: list[tuple[str, str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One picture at both sizes; the next readable one when it is damaged."""
        for number in range(index, index + min(TRIES, len(self))):
            name = self.names[number % len(self)]
            try:
                picture = Image.fromarray(load_image(self.root / name))
            except ImageError as error:
                failures.append((name, str(error)))
                continue
            if grey:
                picture = picture.convert("L").convert("RGB")
            small, large = (
                np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
                for side in (self.size, ENLARGED * self.size)
            )
            return small, large
        raise UserError(
            f"{self.root}: none of {min(TRIES, len(self))} image files in a row can be read, from "
            f"{self.names[index]} on ({failures[-1][1]}); name a folder of pictures"
        )


class StepKeys(Sampler[list[Key]]):
    """The keys of every step: `StepSampler`'s pictures, each in grey with chance `grey`."""

    def __init__(self, length: int, batch_size: int, seed: int, start: int, grey: float) -> None:
        self.steps = StepSampler(length, batch_size, seed, start)
        self.start, self.grey = start, grey

    def __iter__(self) -> Iterator[list[Key]]:
        for step, indices in enumerate(self.steps, self.start):
            rng = np.random.default_rng([self.steps.seed, step, len(indices)])
            drawn = (rng.random(len(indices)) < self.grey).tolist()
            yield list(zip(indices, drawn, strict=True))


def _image_files(root: Path) -> Iterator[tuple[str, int]]:
    """(path below root, bytes) of every file named like an image; linked folders are left out."""
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if is_image_name(path) and path.is_file():
                yield path.relative_to(root).as_posix(), path.stat().st_size


def _as_made(batch: TwoSizes) -> TwoSizes:
    return batch

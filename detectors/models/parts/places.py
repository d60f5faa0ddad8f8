"""Where good images show the parts of a kind, and how far a part lies from all these places.

A rule book knows slots and boxes. Places here need no such form: two parts that share a
compartment, or any region. Where a kind lies anywhere, every place is near a known one, and
nothing is learned.

Shapes: M parts of good images; N parts of one image; F = 2 frames, the product's and the image's.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detectors.networks.any_shape import AnyShape
from pipeline.rulebook.findings import RecognisedPart
from pipeline.rulebook.parts import Parts, ProductFrame

# A place counts as known when so many good images show the kind near it: one of them may be a part
# that was taken for another.
WITNESSES = 2
# Distances are in units of this share of a part's size.
UNIT = 0.5


class Places(AnyShape):
    """`at_MF2` are centres in both frames, `names_M` the kind, `images_M` the image of each part.

    `frame` is the frame in which good images agree better: the product's where it is found
    reliably, the image's where the product does not move.
    """

    at_MF2: Tensor
    names_M: Tensor
    images_M: Tensor
    frame: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("at_MF2", torch.zeros(0, 2, 2, dtype=torch.float64))
        self.register_buffer("names_M", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("images_M", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("frame", torch.zeros((), dtype=torch.int64))

    def learn(
        self, names: Sequence[str], found: Sequence[Parts], seen: Sequence[Sequence[RecognisedPart]]
    ) -> None:
        """Keep the places of good images, and choose the frame in which they agree."""
        kinds = [[_index(names, part) for part in parts] for parts in seen]
        device = self.at_MF2.device
        self.at_MF2 = torch.from_numpy(np.concatenate([centres(one) for one in found])).to(device)
        self.names_M = torch.tensor(
            [kind for one in kinds for kind in one], dtype=torch.int64, device=device
        )
        counts = torch.tensor([len(one) for one in kinds])
        self.images_M = torch.arange(len(kinds)).repeat_interleave(counts).to(device)
        spread = []
        for frame in range(2):
            self.frame.fill_(frame)
            spread.append(np.median([
                max((off for off, _ in self.worst(names, parts, of, own)), default=0.0)
                for own, (parts, of) in enumerate(zip(found, seen, strict=True))
            ]))  # fmt: skip
        # Of equally good ones the product's.
        self.frame.fill_(int(np.argmin(spread)))

    def worst(
        self, names: Sequence[str], parts: Parts, seen: Sequence[RecognisedPart], own: int = -1
    ) -> list[tuple[float, int]]:
        """Per kind how far its worst part lies from known places, and the index of that part.

        In units of half a part's size; (0, -1) without a part. Places of the image `own`, one of
        the good ones, do not count.
        """
        frame = int(self.frame)
        at_N2 = centres(parts)[:, frame]
        scale = parts.frame.size if frame == 0 else float(np.sqrt(np.prod(_size(parts))))
        known_M2 = self.at_MF2[:, frame].cpu().numpy()
        names_M, images_M = self.names_M.cpu().numpy(), self.images_M.cpu().numpy()
        found = [(0.0, -1)] * len(names)
        for number, part in enumerate(seen):
            kind = _index(names, part)
            here_M = (names_M == kind) & (images_M != own)
            if kind < 0 or not here_M.any():
                continue
            apart = np.linalg.norm(known_M2[here_M] - at_N2[number], axis=1)
            # The nearest part of each good image, then the nearest images.
            nearest = np.full(int(images_M.max()) + 1, np.inf)
            np.minimum.at(nearest, images_M[here_M], apart)
            nearest.sort()
            distance = nearest[min(WITNESSES, int(np.isfinite(nearest).sum())) - 1]
            size = part.descriptor.size * parts.frame.size / scale
            off = float(distance / (UNIT * size))
            if off > found[kind][0]:
                found[kind] = (off, number)
        return found


def centres(parts: Parts) -> np.ndarray:
    """Centres in the product's frame and in that of the image, (N, 2, 2) float64."""
    height, width = _size(parts)
    image = ProductFrame(width / 2, height / 2, 0.0, float(np.sqrt(height * width)))
    points_N2 = np.array([one.centre for one in parts.descriptors]).reshape(-1, 2)
    return np.stack([frame.inward(points_N2) for frame in (parts.frame, image)], 1)


def _size(parts: Parts) -> tuple[int, int]:
    height, width = parts.masks_NHW.shape[1:]
    return height, width


def _index(names: Sequence[str], part: RecognisedPart) -> int:
    """The number of a part's kind, -1 for parts without a name in the book."""
    return names.index(part.name) if part.name in names else -1

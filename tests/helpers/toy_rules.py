"""A toy product for rule tests: a grey board with red discs on the left and blue bars on the right.

Parts are found by colour, so tests need no model; descriptors are real, with crops as features.
"""

import cv2
import numpy as np

from pipeline.rulebook.book import RuleBook
from pipeline.rulebook.check import broken_rules, recognised_in
from pipeline.rulebook.descriptors import Describer
from pipeline.rulebook.parts import Parts, ProductFrame

SIZE = 128
RED, BLUE, GREEN = (200, 40, 40), (40, 60, 200), (40, 170, 60)
LEFT = ((32, 34), (32, 64), (32, 94))
RIGHT = ((92, 44), (92, 84))
FRAME = ProductFrame(64.0, 64.0, 0.0, 100.0)


def features(crops_NSS3: np.ndarray) -> np.ndarray:
    """Thumbnails of the crops instead of features of a network."""
    small = [cv2.resize(cut, (8, 8), interpolation=cv2.INTER_AREA).ravel() for cut in crops_NSS3]
    return np.array(small, np.float32)


class ToyFinder:
    """Finds everything that is not grey; counts its calls."""

    def __init__(self) -> None:
        self.describe = Describer(features)
        self.calls = 0

    def __call__(self, image_HW3: np.ndarray) -> Parts:
        self.calls += 1
        spread = image_HW3.max(2).astype(int) - image_HW3.min(2)
        count, labels = cv2.connectedComponents((spread > 60).astype(np.uint8))
        masks = [labels == k for k in range(1, count) if (labels == k).sum() >= 20]
        masks_NHW = np.array(masks, np.bool_).reshape(-1, *labels.shape)
        return Parts(masks_NHW, self.describe(image_HW3, masks_NHW, FRAME), FRAME)

    def of_file(self, image_HW3: np.ndarray, digest: str) -> np.ndarray:
        """The image; nothing is kept."""
        return image_HW3

    def within(self, image_HW3: np.ndarray, boxes_P4: np.ndarray) -> np.ndarray:
        """Nothing more: colours do not lie."""
        return np.zeros((0, *image_HW3.shape[:2]), np.bool_)


def broken(book: RuleBook, image_HW3: np.ndarray) -> list[str]:
    """The rules that an image breaks, in the order of the book."""
    return list(broken_rules(book, recognised_in(book, ToyFinder()(image_HW3))))


def board(seed: int, size: int = SIZE) -> np.ndarray:
    """A normal board: three discs and two upright bars, slightly off their places."""
    rng = np.random.default_rng(seed)
    image_HW3 = np.full((size, size, 3), 128, np.uint8)
    for x, y in LEFT:
        disc(image_HW3, x + rng.integers(-2, 3), y + rng.integers(-2, 3), tint=rng.integers(-5, 6))
    for x, y in RIGHT:
        bar(image_HW3, x + rng.integers(-2, 3), y + rng.integers(-2, 3), tint=rng.integers(-5, 6))
    return image_HW3


def disc(
    image_HW3: np.ndarray, x: int, y: int, colour: tuple[int, ...] = RED, tint: int = 0, r: int = 9
) -> None:
    cv2.circle(image_HW3, (int(x), int(y)), r, tuple(int(c + tint) for c in colour), -1)


def bar(
    image_HW3: np.ndarray, x: int, y: int, colour: tuple[int, ...] = BLUE, tint: int = 0
) -> None:
    corner, far = (int(x) - 5, int(y) - 12), (int(x) + 5, int(y) + 12)
    cv2.rectangle(image_HW3, corner, far, tuple(int(c + tint) for c in colour), -1)


def wipe(image_HW3: np.ndarray, x: int, y: int, reach: int = 16) -> None:
    image_HW3[y - reach : y + reach + 1, x - reach : x + reach + 1] = 128

"""Round caps with a dim rim: masks that are whole, others that end at an inner ring, their kinds.

Vectors tell two kinds apart, a cap and a bar, and nothing else.
"""

import cv2
import numpy as np

from pipeline.models.part_embedding import FACE, PLAIN, UNITS
from pipeline.part_kinds import kinds as part_kinds
from pipeline.part_kinds.kinds import Observed, PartKinds
from pipeline.records import ObjectProposals

SIDE, IMAGES = 256, 12
# Column of a vector with the logarithm of the size.
SIZE = 4
# A round cap with a dark rim, and a bar beside it.
X, Y, RADIUS, INNER = 80, 128, 28.0, 25.0


def disc(x: float, y: float, radius: float) -> np.ndarray:
    ys, xs = np.mgrid[:SIDE, :SIDE]
    inside: np.ndarray = (xs - x) ** 2 + (ys - y) ** 2 <= radius**2
    return inside


WHOLE, CUT = disc(X, Y, RADIUS), disc(X, Y, INNER)
# Lacks more on one side.
LOPSIDED = disc(X, Y, INNER + 2) & disc(X - 4, Y, INNER)
BAR = np.zeros((SIDE, SIDE), np.bool_)
BAR[100:180, 160:184] = True
# What a cap and a bar look like, far apart.
CAP_VECTOR, BAR_VECTOR = np.random.default_rng(5).normal(0, 4, (2, PLAIN + 8 + FACE))
for one in (CAP_VECTOR, BAR_VECTOR):
    one[SIZE] = np.log(RADIUS * np.sqrt(np.pi) / SIDE) / UNITS[SIZE]


def picture() -> np.ndarray:
    image = 150 + np.random.default_rng(3).normal(0, 3, (SIDE, SIDE, 3))
    image[WHOLE] -= 80
    image[disc(X, Y, INNER)] += 60
    image[BAR] -= 100
    return np.clip(cv2.GaussianBlur(image, (0, 0), 0.7), 0, 255).astype(np.uint8)


def embed(image_HW3: np.ndarray, masks_MHW: np.ndarray) -> np.ndarray:
    rows = [CAP_VECTOR if mask_HW[Y, X] else BAR_VECTOR for mask_HW in masks_MHW]
    return np.array(rows, np.float32)


def learned(circles: list[float], sizes: tuple[float, ...] = (1.0,)) -> PartKinds:
    """Kinds of images with a bar and a cap, whose masks cover these shares of a circle; `sizes` are
    factors of the cap's size."""
    observed = []
    for number in range(IMAGES):
        noise = np.random.default_rng(number).normal(0, 1, (2, len(CAP_VECTOR)))
        noise[:, SIZE] = 0
        noise[0, SIZE] = np.log(sizes[number % len(sizes)]) / UNITS[SIZE]
        vectors = (np.stack([CAP_VECTOR, BAR_VECTOR]) + noise).astype(np.float32)
        shares = np.array([circles[number % len(circles)], 0.4])
        observed.append(Observed(vectors, np.full((2, 2), 0.5), circles_N=shares))
    kinds = part_kinds.learn(observed)
    assert kinds is not None
    assert len(kinds) == 2
    return kinds


def found(*masks: np.ndarray) -> ObjectProposals:
    scores_N = np.linspace(0.9, 0.8, len(masks), dtype=np.float32)
    return ObjectProposals(
        np.stack(masks), scores_N, np.ones((SIDE, SIDE), np.bool_),
        vectors_NC=embed(picture(), np.stack(masks)),
    )  # fmt: skip

"""Can a fill be detected by its high-frequency trace alone? A linear probe, hole against ring.

Every hole gives two samples: high-frequency statistics inside it, and in a ring around it that no
inpainter has changed. A logistic regression learns to separate the two and is evaluated on other
images. AUROC 0.5 means no inpainting trace in these statistics, 1 that a fill is always detected.
Measured on the raw fill and after the noise that the pipeline adds to every sample.
Shapes: H, W image; 3 colour (RGB, uint8); P pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.imaging.noise import add_noise
from pretraining.inpainting.holes import Hole

# Width in pixels of the ring that is compared with the hole.
RING = 9
# Pixels on both sides of the rim that are left out: filters mix hole and ring there.
RIM = 2
# Folds of the cross-validation, and bootstrap resamples of the interval.
FOLDS = 5
RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Auroc:
    """An area under the ROC curve with its 95 % bootstrap interval over images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def trace_aurocs(
    images: list[np.ndarray], examples: list[Hole], seed: int = 0
) -> tuple[Auroc, Auroc]:
    """AUROC of the probe on raw fills, and with the noise that the compositor adds."""
    rng = np.random.default_rng(seed)
    noisy = [
        add_noise(filled_HW3.astype(np.float32), e.image_HW3, e.hole_HW, rng).round().clip(0, 255)
        for filled_HW3, e in zip(images, examples, strict=True)
    ]
    holes = [e.hole_HW for e in examples]
    return probe(images, holes, seed), probe([one.astype(np.uint8) for one in noisy], holes, seed)


def probe(images: list[np.ndarray], holes: list[np.ndarray], seed: int = 0) -> Auroc:
    """Cross-validated AUROC of hole against ring over all images, with its bootstrap interval."""
    samples, labels, groups = [], [], []
    for number, (image_HW3, hole_HW) in enumerate(zip(images, holes, strict=True)):
        inside_HW, around_HW = sides(hole_HW)
        # Too few pixels for stable statistics.
        if min(inside_HW.sum(), around_HW.sum()) < 40:
            continue
        maps = responses(image_HW3)
        samples += [statistics(maps, inside_HW), statistics(maps, around_HW)]
        labels += [1, 0]
        groups += [number, number]
    x, y, group = np.stack(samples), np.array(labels), np.array(groups)
    scores = np.zeros(len(y))
    # Both samples of an image are in the same fold.
    for known, unknown in GroupKFold(FOLDS).split(x, y, group):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
        model.fit(x[known], y[known])
        # Margins of different folds are only roughly comparable, which is enough here.
        scores[unknown] = model.decision_function(x[unknown])
    # Resample images, that is, pairs of samples.
    pairs = np.arange(len(y)).reshape(-1, 2)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        again = pairs[rng.integers(len(pairs), size=len(pairs))].ravel()
        drawn.append(roc_auc_score(y[again], scores[again]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Auroc(float(roc_auc_score(y, scores)), float(low), float(high))


def sides(hole_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inside of the hole and the ring around it, both away from the rim."""
    hole = hole_HW.astype(np.uint8)
    # borderValue=1: the border of the image does not count as rim.
    inside_HW = cv2.erode(hole, _square(RIM), borderValue=1) > 0
    around_HW = (cv2.dilate(hole, _square(RIM + RING)) > 0) & ~(cv2.dilate(hole, _square(RIM)) > 0)
    return inside_HW, around_HW


def responses(image_HW3: np.ndarray) -> list[np.ndarray]:
    """High-frequency maps (H, W, 3): Laplacian, 3x3 high pass, and two diagonal differences."""
    image_HW3 = image_HW3.astype(np.float32)
    laplacian = cv2.Laplacian(image_HW3, cv2.CV_32F)
    high = image_HW3 - cv2.blur(image_HW3, (3, 3))
    down, up = (
        cv2.filter2D(image_HW3, cv2.CV_32F, np.array(kernel, np.float32))
        for kernel in ([[1, 0], [0, -1]], [[0, 1], [-1, 0]])
    )
    return [laplacian, high, down, up]


def statistics(maps: list[np.ndarray], where_HW: np.ndarray) -> np.ndarray:
    """Per map and channel: log spread, log median size and log kurtosis of the values there."""
    found = []
    for map_HW3 in maps:
        values_P3 = map_HW3[where_HW]
        # A quarter of a grey level keeps logarithms and ratios finite on flat regions.
        spread_3 = values_P3.std(0) + 0.25
        median_3 = np.median(np.abs(values_P3), axis=0) + 0.25
        fourth_3 = ((values_P3 - values_P3.mean(0)) ** 4).mean(0) / spread_3**4
        found += [np.log(spread_3), np.log(median_3), np.log(fourth_3 + 0.25)]
    return np.concatenate(found)


def _square(reach: int) -> np.ndarray:
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)

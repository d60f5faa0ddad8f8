"""Can a detector find a fill by its residue alone? A linear probe, hole against ring.

For every hole two samples: high-frequency statistics inside it, and in a ring around it that no
inpainter touched. A logistic regression learns to tell which is which, on other pictures than those
it is judged on. AUROC 0.5 is a fill that leaves no trace in these statistics, 1 one that always
shows. Measured on the fill as it is and after the grain that is added to every sample.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.imaging.noise import add_grain
from pretraining.inpainting.holes import Hole

RING = 9
RIM = 2
"""Pixels at the rim that neither side gets: filters mix hole and ring there."""
FOLDS = 5
RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Auroc:
    """An area under the ROC curve with its 95 % bootstrap interval over pictures."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def residue(pictures: list[np.ndarray], examples: list[Hole], seed: int = 0) -> tuple[Auroc, Auroc]:
    """AUROC of the probe on fills as they are, and with the compositor's grain."""
    rng = np.random.default_rng(seed)
    grained = [
        add_grain(filled_HW3.astype(np.float32), e.image_HW3, e.hole_HW, rng).round().clip(0, 255)
        for filled_HW3, e in zip(pictures, examples, strict=True)
    ]
    holes = [e.hole_HW for e in examples]
    return probe(pictures, holes, seed), probe([g.astype(np.uint8) for g in grained], holes, seed)


def probe(pictures: list[np.ndarray], holes: list[np.ndarray], seed: int = 0) -> Auroc:
    """Cross-validated by picture: scores of all samples, their AUROC, and its interval."""
    samples, labels, groups = [], [], []
    for number, (picture_HW3, hole_HW) in enumerate(zip(pictures, holes, strict=True)):
        inside_HW, around_HW = sides(hole_HW)
        if min(inside_HW.sum(), around_HW.sum()) < 40:
            continue
        maps = responses(picture_HW3)
        samples += [statistics(maps, inside_HW), statistics(maps, around_HW)]
        labels += [1, 0]
        groups += [number, number]
    x, y, group = np.stack(samples), np.array(labels), np.array(groups)
    scores = np.zeros(len(y))
    for known, unknown in GroupKFold(FOLDS).split(x, y, group):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
        model.fit(x[known], y[known])
        # Ranks within a fold's scores are comparable across folds only roughly; margins are enough.
        scores[unknown] = model.decision_function(x[unknown])
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
    inside_HW = cv2.erode(hole, _square(RIM), borderValue=1) > 0
    around_HW = (cv2.dilate(hole, _square(RIM + RING)) > 0) & ~(cv2.dilate(hole, _square(RIM)) > 0)
    return inside_HW, around_HW


def responses(picture_HW3: np.ndarray) -> list[np.ndarray]:
    """High-frequency maps (H, W, 3): Laplacian, 3x3 high pass, and two diagonal differences."""
    picture_HW3 = picture_HW3.astype(np.float32)
    laplacian = cv2.Laplacian(picture_HW3, cv2.CV_32F)
    high = picture_HW3 - cv2.blur(picture_HW3, (3, 3))
    down, up = (
        cv2.filter2D(picture_HW3, cv2.CV_32F, np.array(kernel, np.float32))
        for kernel in ([[1, 0], [0, -1]], [[0, 1], [-1, 0]])
    )
    return [laplacian, high, down, up]


def statistics(maps: list[np.ndarray], where_HW: np.ndarray) -> np.ndarray:
    """Per map and channel: log spread, log median size and log kurtosis of the values there."""
    found = []
    for map_HW3 in maps:
        values_P3 = map_HW3[where_HW]
        spread_3 = values_P3.std(0) + 0.25
        median_3 = np.median(np.abs(values_P3), axis=0) + 0.25
        fourth_3 = ((values_P3 - values_P3.mean(0)) ** 4).mean(0) / spread_3**4
        found += [np.log(spread_3), np.log(median_3), np.log(fourth_3 + 0.25)]
    return np.concatenate(found)


def _square(reach: int) -> np.ndarray:
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)

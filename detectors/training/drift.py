"""Do the normals drift along their order? Then thresholds hold for images like these only.

    note = drift_note(version)            # what to tell the user; empty without a drift

A threshold promises its false-alarm rate for images that are taken as the held-out normals were.
Light, exposure and focus of a line change slowly, and whoever photographs on takes images that lie
at the end of that change, or beyond. Mean and spread of an image's colours say nothing about a
product's parts, but they tell where in a drifting sequence an image was taken: the better, the
farther the next images are from the first ones.

Shapes: N normals in the order of the version, which is that of their names; F features.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from detectors.data.batches import fixed_subset
from detectors.data.views import normal_places
from pipeline.dataset.version import Version

# Fewer normals do not show a drift.
FEWEST = 20
# Normals that are looked at: more change nothing.
MOST = 500
# How seldom normals in random order look as if they drifted, at most.
CHANCE = 0.01
# Share of the order that the features must explain: of thousands of normals, a drift that does not
# matter is significant, too.
LEAST = 0.1


@dataclass(frozen=True, slots=True)
class Drift:
    """The share (R², adjusted) of the normals' order that their colours explain, the probability
    that normals in random order show as much, and the largest change of a feature from the first
    quarter to the last, in standard deviations."""

    share: float
    chance: float
    change: float

    @property
    def found(self) -> bool:
        return self.chance < CHANCE and self.share >= LEAST


def drift_note(version: Version) -> str:
    """A sentence for the user where the normals of a version drift, otherwise nothing."""
    drift = drift_of(colours_of(version))
    if not drift.found:
        return ""
    return (
        "light or camera drift along the order of the normals' names, by up to "
        f"{drift.change:.1f} standard deviations from the first quarter to the last (their colours "
        f"explain {drift.share:.0%} of that order). Thresholds hold for images taken like these: "
        "expect more false alarms where the drift goes on, and train again with the newest good "
        "images"
    )


def colours_of(version: Version) -> np.ndarray:
    """(N, 6) float64: mean and standard deviation of the three colours of at most `MOST` normals,
    of all splits."""
    places = normal_places(version, None)
    chosen = (places[at] for at in fixed_subset(len(places), MOST))
    # OpenCV sums exactly, and forty times as fast as NumPy along the pixels.
    found = [
        np.concatenate(cv2.meanStdDev(version.shards[number].stored("originals/pixels", row)))
        for number, row in chosen
    ]
    return np.array(found, np.float64).reshape(-1, 6)


def drift_of(features_NF: np.ndarray) -> Drift:
    """How well a linear regression tells the place of a normal in its order: an F test."""
    count = len(features_NF)
    if count < FEWEST:
        return Drift(0.0, 1.0, 0.0)
    spread_F = features_NF.std(0)
    scaled_NF = (features_NF - features_NF.mean(0)) / np.where(spread_F > 1e-6, spread_F, 1)
    # An orthogonal basis: the colours of a grey image are the same number three times.
    basis_NK, sizes_K, _ = np.linalg.svd(scaled_NF, full_matrices=False)
    basis_NK = basis_NK[:, sizes_K > 1e-6 * max(sizes_K[0], 1)]
    terms = basis_NK.shape[1]
    place_N = np.arange(count) - (count - 1) / 2
    explained = float(((place_N @ basis_NK) ** 2).sum() / (place_N @ place_N))
    if not terms:
        return Drift(0.0, 1.0, 0.0)
    left = count - terms - 1
    # SciPy takes half a second to import.
    from scipy.stats import f

    ratio = (explained / terms) / max((1 - explained) / left, 1e-12)
    quarter = count // 4
    change_F = scaled_NF[-quarter:].mean(0) - scaled_NF[:quarter].mean(0)
    return Drift(
        share=1 - (1 - explained) * (count - 1) / left,
        chance=float(f.sf(ratio, terms, left)),
        change=float(np.abs(change_F).max()),
    )

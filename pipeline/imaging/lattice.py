"""By which translations a background repeats itself: boards with holes, meshes, wells, belts.

Copies of a repeating background correlate at the points of a lattice, which two vectors span, or
one (a belt). The correlation is computed on the background alone (masked normalised
cross-correlation: Padfield, "Masked object registration in the Fourier domain", IEEE TIP 2012). It
must be high at all points of the lattice and clearly lower on the way to the first of them:
streaks of wood correlate anywhere along the grain. Completing images by frequent offsets is the
idea of He and Sun ("Statistics of patch offsets for image completion", ECCV 2012); one lattice for
the whole image is our own, stricter variant.

Shapes: H, W image; h, w reduced image; k, l half of it; T translations; 2 x and y; 3 colour (RGB).
"""

from itertools import chain, combinations

import cv2
import numpy as np

# Longest reduced side, in pixels: finer detail does not change the lattice.
REDUCED = 256
# Grey levels (standard deviation) below which a background is plain.
PLAIN = 3.0
# Pixels at most of which a trend is fitted.
FITTED = 1 << 14
# Rows of a trend that are computed at once.
ROWS = 64
# Overlap of image and copy that tells something, as a share of the background.
OVERLAP = 0.08
# A period is at least and at most these shares of the shorter side: two must be seen.
PERIODS = (0.05, 0.45)
# Correlation at a candidate, and how much lower it is somewhere on the way there.
CANDIDATE, VALLEY = 0.4, 0.2
# The same at half the resolution. Measured on 154 images: all 43 that repeat themselves reach even
# the values above, and of hazelnuts, bottles, screws and loose parts only one in ten these.
COARSE_CANDIDATE, COARSE_VALLEY = 0.3, 0.12
# Most candidates that are combined, the shortest first.
CANDIDATES = 16
# Mean correlation over the lattice. Measured: boards 0.81 to 0.91; wood, cloth and trays below
# 0.63, where there is any candidate at all.
REPEATS = 0.7
# Lattices this much worse than the best, or this much larger than the smallest, are as good.
AS_GOOD, AS_SMALL = 0.1, 1.15
# How far the peak near a lattice point is looked for, and how far it may be off, in pixels.
CLIMB, OFF = 4, 1.5


def lattice_of(image_HW3: np.ndarray, background_HW: np.ndarray) -> np.ndarray | None:
    """The translations (x, y) by which the background (bool) of an image (uint8) repeats itself.

    (T, 2) float64, the shortest first, both directions of each; None where it does not repeat.
    """
    height, width = background_HW.shape
    factor = max(1.0, max(height, width) / REDUCED)
    small = round(width / factor), round(height / factor)
    grey_HW = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY).astype(np.float64)
    grey_hw, cover_hw = (
        cv2.resize(one_HW, small, interpolation=cv2.INTER_AREA)
        for one_HW in (grey_HW, background_HW.astype(np.float32))
    )
    known_hw = cover_hw > 0.99
    if np.count_nonzero(known_hw) < OVERLAP * known_hw.size:
        return None
    flat_hw = (grey_hw - trend(grey_hw[..., None], known_hw)[..., 0]) * known_hw
    if flat_hw[known_hw].std() < PLAIN:
        return None
    # Most backgrounds have not even a candidate, and half the resolution tells.
    half = small[0] // 2, small[1] // 2
    flat_kl, cover_kl = (
        cv2.resize(one_hw, half, interpolation=cv2.INTER_AREA)
        for one_hw in (flat_hw, known_hw.astype(np.float64))
    )
    coarse = _Correlation(flat_kl, cover_kl > 0.99)
    if not len(coarse.candidates(COARSE_CANDIDATE, COARSE_VALLEY)):
        return None
    correlation = _Correlation(flat_hw, known_hw)
    vectors = _vectors(correlation)
    if vectors is None:
        return None
    return correlation.refined(vectors) * factor


def trend(values_HWC: np.ndarray, known_HW: np.ndarray) -> np.ndarray:
    """The quadratic surface through the known values, (H, W, C): light, and no pattern.

    In the precision of the values, which are floats.
    """
    height, width = known_HW.shape
    y_H, x_W = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    powers = [(i, j) for i in range(3) for j in range(3 - i)]
    rows_R, columns_R = np.nonzero(known_HW)
    step = max(1, len(rows_R) // FITTED)
    rows_R, columns_R = rows_R[::step], columns_R[::step]
    terms_R6 = np.stack([x_W[columns_R] ** i * y_H[rows_R] ** j for i, j in powers], -1)
    # The normal equations: six unknowns need no decomposition of all pixels.
    gram_66, moments_6C = terms_R6.T @ terms_R6, terms_R6.T @ values_HWC[rows_R, columns_R]
    solved_6C = np.linalg.lstsq(gram_66, moments_6C, rcond=None)[0]
    surface_HWC = np.zeros_like(values_HWC)
    # Some rows at a time: terms of a whole image in double precision would fill the memory.
    for top in range(0, height, ROWS):
        part = np.s_[top : top + ROWS]
        for (i, j), solved_C in zip(powers, solved_6C, strict=True):
            term_hW = y_H[part, None] ** j * x_W**i
            surface_HWC[part] += (term_hW[..., None] * solved_C).astype(values_HWC.dtype)
    return surface_HWC


class _Correlation:
    """The correlation of a background with itself at every translation; -1 where too little
    overlaps."""

    def __init__(self, flat_hw: np.ndarray, known_hw: np.ndarray) -> None:
        self.height, self.width = flat_hw.shape
        self._size = [cv2.getOptimalDFTSize(2 * side - 1) for side in flat_hw.shape]
        values, mask, squares = (
            np.fft.rfft2(one, self._size)
            for one in (flat_hw, known_hw.astype(np.float64), flat_hw**2)
        )
        # The table is the same when it is turned round, so that half of it is computed.
        half, turned = np.s_[self.height - 1 :], np.s_[self.height - 1 :: -1, ::-1]
        shared = np.rint(self._correlated(mask, mask)[half])
        count = np.maximum(shared, 1)
        # What moves against what only turns the table round.
        moments, powers = self._correlated(values, mask), self._correlated(squares, mask)
        first, second = moments[half], moments[turned]
        one = np.maximum(powers[half] - first**2 / count, 0)
        other = np.maximum(powers[turned] - second**2 / count, 0)
        product = self._correlated(values, values)[half] - first * second / count
        found = product / np.sqrt(np.maximum(one * other, 1e-6 * (one * other).max()))
        seen = _whole(shared >= max(OVERLAP * np.count_nonzero(known_hw), 400))
        self.values = np.where(seen, _whole(np.clip(found, -1, 1)), -1).astype(np.float32)
        self.overlap = np.where(seen, _whole(shared), 0)
        # A lattice of whole pixels is off by less than one.
        self._near = np.where(seen, cv2.dilate(self.values, np.ones((3, 3), np.uint8)), -1)

    def _correlated(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        found = np.fft.irfft2(one * np.conj(other), self._size)
        found = np.roll(found, (self.height - 1, self.width - 1), (0, 1))
        answer: np.ndarray = found[: 2 * self.height - 1, : 2 * self.width - 1]
        return answer

    def at(self, vectors_P2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and which of some translations (P, 2) lie in the table, and are seen."""
        corner_2 = np.array([self.width - 1, self.height - 1])
        columns, rows = (np.rint(vectors_P2).astype(int) + corner_2).T
        inside_P = (rows >= 0) & (columns >= 0)
        inside_P &= (rows < self.values.shape[0]) & (columns < self.values.shape[1])
        rows, columns = rows * inside_P, columns * inside_P
        return rows, columns, inside_P & (self.overlap[rows, columns] > 0)

    def candidates(self, least: float = CANDIDATE, valley: float = VALLEY) -> np.ndarray:
        """Peaks that may be periods, (P, 2), the shortest first: of at least that correlation, and
        so much lower on the way there."""
        shorter = min(self.height, self.width)
        reach = max(2, shorter // 60)
        peak_hw = cv2.dilate(self.values, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
        rows, columns = np.nonzero((self.values >= peak_hw) & (self.values >= least))
        vectors_P2 = np.stack((columns - self.width + 1, rows - self.height + 1), 1)
        # Of two opposite ones, one.
        half_P = (vectors_P2[:, 1] > 0) | ((vectors_P2[:, 1] == 0) & (vectors_P2[:, 0] > 0))
        lengths_P = np.hypot(*vectors_P2.T)
        half_P &= (lengths_P >= PERIODS[0] * shorter) & (lengths_P <= PERIODS[1] * shorter)
        vectors_P2, lengths_P = vectors_P2[half_P], lengths_P[half_P]
        kept = []
        for index in np.argsort(lengths_P, kind="stable").tolist():
            way_S2 = np.linspace(0.2, 0.8, 13)[:, None] * vectors_P2[index]
            rows, columns, _ = self.at(np.concatenate((way_S2, vectors_P2[index][None])))
            *way, there = self.values[rows, columns].tolist()
            if there - min(way) >= valley:
                kept.append(vectors_P2[index])
        return np.array(kept[:CANDIDATES], np.float64).reshape(-1, 2)

    def score(self, vectors: np.ndarray) -> float:
        """The mean correlation at all points of the lattice of one or two vectors, (1 or 2, 2)."""
        rows, columns, seen_P = self.at(steps_of(len(vectors)) @ vectors)
        weight_P = self.overlap[rows, columns] * seen_P
        return float((weight_P * self._near[rows, columns]).sum() / max(weight_P.sum(), 1))

    def refined(self, vectors: np.ndarray) -> np.ndarray:
        """The translations of a lattice, each moved to the peak beside it, (T, 2)."""
        steps = steps_of(len(vectors))
        for _ in range(2):
            points_P2 = steps @ vectors
            peaks_P2, weight_P = self.peaks(points_P2)
            sure_P = (weight_P > CANDIDATE) & (np.abs(peaks_P2 - points_P2).max(1) <= 2 * OFF)
            if np.count_nonzero(sure_P) >= len(vectors):
                weight_P1 = weight_P[sure_P, None]
                vectors = np.linalg.lstsq(
                    steps[sure_P] * weight_P1, peaks_P2[sure_P] * weight_P1, rcond=None
                )[0]
        points_P2 = steps @ vectors
        peaks_P2, weight_P = self.peaks(points_P2)
        # Perspective and lens bend a lattice; a peak far from its point is something else.
        near_P = (weight_P > CANDIDATE) & (np.abs(peaks_P2 - points_P2).max(1) <= OFF)
        found_P2 = np.where(near_P[:, None], peaks_P2, points_P2)[self.at(points_P2)[2]]
        # Both directions of one are equally long, but for rounding, which must not order them.
        order_P = np.lexsort((*found_P2.T, np.hypot(*found_P2.T).round(6)))
        answer: np.ndarray = found_P2[order_P]
        return answer

    def peaks(self, points_P2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The highest correlation near some points, by a parabola through its neighbours: places
        (P, 2) and correlations (P,), -1 where there is no peak."""
        peaks_P2, heights_P = points_P2.copy(), np.full(len(points_P2), -1.0)
        rows_P, columns_P, seen_P = self.at(points_P2)
        for index in np.flatnonzero(seen_P).tolist():
            y, x = int(rows_P[index]) - CLIMB, int(columns_P[index]) - CLIMB
            near = self.values[max(y, 0) : y + 2 * CLIMB + 1, max(x, 0) : x + 2 * CLIMB + 1]
            row, column = np.unravel_index(int(near.argmax()), near.shape)
            around = near[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            if around.shape != (3, 3) or around.min() <= -1:
                continue
            peaks_P2[index] = (
                max(x, 0) + column - self.width + 1 + _vertex(around[1]),
                max(y, 0) + row - self.height + 1 + _vertex(around[:, 1]),
            )
            heights_P[index] = near[row, column]
        return peaks_P2, heights_P


def _whole(half_hw: np.ndarray) -> np.ndarray:
    """The table whose lower half, from its middle row on, is given."""
    return np.concatenate((half_hw[:0:-1, ::-1], half_hw))


def steps_of(vectors: int) -> np.ndarray:
    """The whole multiples of one or two vectors that make a lattice, without 0, (P, 1 or 2)."""
    most = int(np.ceil(1 / PERIODS[0]))
    axes = np.meshgrid(*[np.arange(-most, most + 1)] * vectors, indexing="ij")
    steps = np.stack([axis.ravel() for axis in axes], 1)
    return steps[steps.any(1)].astype(np.float64)


def _vectors(correlation: _Correlation) -> np.ndarray | None:
    """The vectors of the lattice, (1 or 2, 2); None without one."""
    whole_P2 = correlation.candidates()
    # Of a period of 20.5 whole pixels make 20 or 21, whose third multiple is 1.5 pixels off; of
    # what was drawn in whole pixels the top of a parabola is.
    found = whole_P2, correlation.peaks(whole_P2)[0]
    lattices: list[tuple[float, float, np.ndarray]] = []
    for one_2, other_2 in chain.from_iterable(combinations(each_P2, 2) for each_P2 in found):
        area = abs(float(one_2[0] * other_2[1] - one_2[1] * other_2[0]))
        # Two nearly parallel vectors span nothing.
        if area >= 0.5 * np.hypot(*one_2) * np.hypot(*other_2):
            both = np.stack((one_2, other_2))
            lattices.append((area, correlation.score(both), both))
    if max((score for _, score, _ in lattices), default=0) < REPEATS:
        lattices = [
            (float(np.hypot(*one_2)), correlation.score(one_2[None]), one_2[None])
            for one_2 in np.concatenate(found)
        ]
    best = max((score for _, score, _ in lattices), default=0)
    if best < REPEATS:
        return None
    good = [lattice for lattice in lattices if lattice[1] >= best - AS_GOOD]
    # Every second point of a lattice is one as well.
    smallest = min(area for area, _, _ in good)
    return max((one for one in good if one[0] <= AS_SMALL * smallest), key=lambda one: one[1])[2]


def _vertex(values_3: np.ndarray) -> float:
    """Where the parabola through three neighbours has its top, -0.5 to 0.5 from the middle one."""
    low, middle, high = values_3.tolist()
    bend = low - 2 * middle + high
    return 0.0 if bend >= -1e-9 else float(np.clip((low - high) / (2 * bend), -0.5, 0.5))

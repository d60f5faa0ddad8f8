"""What the audit's probe sees of a region: statistics of its finest detail, not of its content.

Editing leaves its traces in the finest detail: sensor noise that is missing or doubled, resampled
edges, blocks of a codec. None of these depends on what the image shows. So the probe gets noise
levels, tails, correlations between neighbours and channels, the slope of the spectrum and the
8-pixel grid of JPEG. All are averages over pixels, so a larger region has no larger values.

Shapes: H, W image; 3 colour (RGB); N pixels of a region; F features.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

# Standard deviations of the blurs in px; the band between two of them is one octave.
SIGMAS = (0.8, 1.6, 3.2)
# Side in px of the squares in which local noise levels are measured, and the period of JPEG's grid.
CELL = 8
# Pixels beyond a region that its statistics may depend on: OpenCV truncates the widest blur's
# kernel of a float image at four standard deviations.
REACH = 13
# Grey levels added before a logarithm, so a surface without noise has a finite level.
_FLOOR = 0.05
# Pixels that are sorted at most; of larger regions every second, every third and so on.
_RANKED = 8192
# Shifts (rows, columns) at which neighbouring residuals are correlated.
_LAGS = ((0, 1), (1, 0), (1, 1), (0, 2))
# Of the noise levels of the squares.
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

# The F features in order.
NAMES = (
    *(f"{what}_{c}" for c in "rgb" for what in ("level", "middle", "tails", "far", "still")),
    *(f"neighbour_{dy}{dx}" for dy, dx in _LAGS),
    "red_green", "green_blue",
    "fine_to_middle", "middle_to_coarse", "laplacian",
    "grid_x", "grid_y",
    *(f"cells_{quantile:.0%}" for quantile in _QUANTILES),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """High-pass views of one image, computed once for all its regions; float32.

    `bands` are octaves of the grey image, the finest first; `steps` the block-boundary measure
    along x and along y.
    """

    high_3HW: np.ndarray
    bands: tuple[np.ndarray, ...]
    laplacian_HW: np.ndarray
    steps: tuple[np.ndarray, np.ndarray]

    def views(self) -> list[np.ndarray]:
        """All of them, in the order of the fields."""
        return [self.high_3HW, *self.bands, self.laplacian_HW, *self.steps]


def residuals(image_HW3: np.ndarray) -> Residuals:
    """The high-pass views of an (H, W, 3) uint8 image."""
    image = image_HW3.astype(np.float32)
    grey_HW = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # In place, and nothing for longer than it is needed: a large image takes 12 bytes per pixel.
    image -= cv2.GaussianBlur(image, (0, 0), SIGMAS[0])
    high_3HW = np.ascontiguousarray(image.transpose(2, 0, 1))
    del image
    greys = [grey_HW, *(cv2.GaussianBlur(grey_HW, (0, 0), sigma) for sigma in SIGMAS)]
    bands = tuple(fine - coarse for fine, coarse in pairwise(greys))
    del greys
    steps = (_second_step(grey_HW), np.ascontiguousarray(_second_step(grey_HW.T).T))
    return Residuals(high_3HW, bands, cv2.Laplacian(grey_HW, cv2.CV_32F), steps)


def residuals_after(before: Residuals, source_HW3: np.ndarray, edited_HW3: np.ndarray) -> Residuals:
    """`residuals(edited_HW3)`, recomputed only where it differs from its source's `before`."""
    differs_HW = (source_HW3 != edited_HW3).any(2)
    if not differs_HW.any():
        return before
    height, width = differs_HW.shape
    ys, xs = np.flatnonzero(differs_HW.any(1)), np.flatnonzero(differs_HW.any(0))
    # Residuals change up to REACH around the difference, and computing them there needs another
    # REACH of pixels around.
    y0, y1 = max(0, ys[0] - REACH), min(height, ys[-1] + 1 + REACH)
    x0, x1 = max(0, xs[0] - REACH), min(width, xs[-1] + 1 + REACH)
    top, left = max(0, y0 - REACH), max(0, x0 - REACH)
    fresh = residuals(edited_HW3[top : y1 + REACH, left : x1 + REACH]).views()
    inner = np.s_[..., y0 - top : y1 - top, x0 - left : x1 - left]
    patched = []
    for old in before.views():
        patched.append(old.copy())
        # Taken out, so that it is free when the next one is copied.
        patched[-1][..., y0:y1, x0:x1] = fresh.pop(0)[inner]
    high_3HW, *bands, laplacian_HW, along_HW, down_HW = patched
    return Residuals(high_3HW, tuple(bands), laplacian_HW, (along_HW, down_HW))


def statistics(found: Residuals, where_HW: np.ndarray) -> np.ndarray:
    """(F,) float64, always finite, over the pixels where `where_HW` (bool) is True; see NAMES."""
    if not where_HW.any():
        return np.zeros(len(NAMES))
    # Everything below works in the window around the region, which is often small.
    box = _box(where_HW)
    where_HW = where_HW[box]
    everywhere = bool(where_HW.all())
    rows_N = np.flatnonzero(where_HW)

    def picked(values_HW: np.ndarray) -> np.ndarray:
        """Values inside the region, without a lookup where it fills the window."""
        values_N = values_HW[box].ravel()
        return values_N if everywhere else values_N[rows_N]

    high_3N = [picked(channel_HW) for channel_HW in found.high_3HW]
    grey_HW = found.bands[0][box] * where_HW
    # Log levels of the octaves; their differences are the slope of the spectrum, which does not
    # depend on brightness or contrast.
    levels = [_level(picked(band_HW)) for band_HW in found.bands]
    values = [
        *(value for channel_N in high_3N for value in _marginal(channel_N)),
        *(_neighbours(grey_HW, where_HW, dy, dx) for dy, dx in _LAGS),
        _correlation(high_3N[0], high_3N[1]),
        _correlation(high_3N[1], high_3N[2]),
        levels[0] - levels[1],
        levels[1] - levels[2],
        _level(picked(found.laplacian_HW)),
        _grid(found.steps[0][box], where_HW),
        _grid(found.steps[1][box].T, where_HW.T),
        *_cells(grey_HW, where_HW),
    ]
    return np.array(values, np.float64)


def _box(where_HW: np.ndarray) -> tuple[slice, slice]:
    """The window around a region, aligned with the grid of squares."""
    ys, xs = np.flatnonzero(where_HW.any(1)), np.flatnonzero(where_HW.any(0))
    y, x = int(ys[0]) // CELL * CELL, int(xs[0]) // CELL * CELL
    return slice(y, int(ys[-1]) + 1), slice(x, int(xs[-1]) + 1)


def _power(values_N: np.ndarray) -> float:
    """Sum of squares."""
    return float(np.vdot(values_N, values_N))


def _level(values_N: np.ndarray) -> float:
    """Log of the root mean square."""
    return float(np.log(np.sqrt(_power(values_N) / max(1, values_N.size)) + _FLOOR))


def _marginal(values_N: np.ndarray) -> tuple[float, float, float, float, float]:
    """For one channel: level, robust level, kurtosis, outlier ratio, share of still pixels.

    All but the last are logarithms. Still pixels have a residual below half a grey level.
    """
    size_N = np.abs(values_N)
    middle, far = (float(value) for value in _two_quantiles(size_N))
    variance, fourth = _power(size_N) / size_N.size, _power(size_N * size_N) / size_N.size
    return (
        _level(values_N),
        float(np.log(middle + _FLOOR)),
        float(np.log((fourth + _FLOOR**4) / (variance**2 + _FLOOR**4))),
        float(np.log((far + _FLOOR) / (middle + _FLOOR))),
        float((size_N < 0.5).mean()),
    )


def _two_quantiles(size_N: np.ndarray) -> np.ndarray:
    """Median and 99th percentile as nearest ranks, both by one partial sort."""
    size_N = size_N[:: 1 + size_N.size // _RANKED]
    last = size_N.size - 1
    ranks = [last // 2, round(0.99 * last)]
    return np.partition(size_N, ranks)[ranks]


def _neighbours(grey_HW: np.ndarray, where_HW: np.ndarray, dy: int, dx: int) -> float:
    """Correlation of the residual, which is zero outside the region, with itself shifted."""
    height, width = grey_HW.shape
    here = (slice(0, max(0, height - dy)), slice(0, max(0, width - dx)))
    there = (slice(dy, height), slice(dx, width))
    # Where one pixel of a pair is outside the region, the other must not count in the power either.
    first_HW, second_HW = grey_HW[here] * where_HW[there], grey_HW[there] * where_HW[here]
    return _correlation(first_HW.ravel(), second_HW.ravel())


def _correlation(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Correlation about zero, the mean of residuals; 0 where there is nothing to correlate."""
    power = np.sqrt(_power(first_N) * _power(second_N))
    return float(np.vdot(first_N, second_N) / power) if power > 1e-6 else 0.0


def _second_step(grey_HW: np.ndarray) -> np.ndarray:
    """|a - 3b + 3c - d| along a row, at c: large at the boundary between two JPEG blocks.

    The third difference vanishes on smooth gradients, so content adds little.
    """
    step_HW = np.zeros_like(grey_HW)
    a, b, c, d = (grey_HW[:, i : grey_HW.shape[1] - 3 + i] for i in range(4))
    step_HW[:, 2:-1] = np.abs(a - 3 * b + 3 * c - d)
    return step_HW


def _grid(step_HW: np.ndarray, where_HW: np.ndarray) -> float:
    """Log ratio of steps on the lines of the 8-pixel grid to those between; 0 if one is absent."""
    inside_W, steps_W = where_HW.sum(0), (step_HW * where_HW).sum(0, dtype=np.float64)
    on, both = int(inside_W[::CELL].sum()), int(inside_W.sum())
    if not 0 < on < both:
        return 0.0
    lines = float(steps_W[::CELL].sum())
    # A floor, because a ratio of two values near zero is noise.
    level = 10 * _FLOOR
    return float(
        np.log((lines / on + level) / ((float(steps_W.sum()) - lines) / (both - on) + level))
    )


def _cells(grey_HW: np.ndarray, where_HW: np.ndarray) -> list[float]:
    """Quantiles of the log noise level over small squares: a patch of other noise shows here.

    Squares with less than half of their area in the region are left out.
    """
    edges = tuple(np.arange(0, side, CELL) for side in grey_HW.shape)
    inside_hw = _sums(where_HW.astype(np.float32), *edges)
    power_hw = _sums(np.square(grey_HW), *edges)
    full_hw = inside_hw >= CELL * CELL // 2
    # A thin or tiny region fills no square; it has one level.
    if not full_hw.any():
        return [_level(grey_HW[where_HW])] * len(_QUANTILES)
    levels = np.log(np.sqrt(power_hw[full_hw] / inside_hw[full_hw]) + _FLOOR)
    return np.quantile(levels, _QUANTILES).tolist()


def _sums(values_HW: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sums over the squares that begin at these rows and columns."""
    return np.add.reduceat(np.add.reduceat(values_HW, rows, 0), columns, 1)

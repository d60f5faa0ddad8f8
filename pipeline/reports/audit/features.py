"""What a trivial probe sees of a region: statistics of its finest detail, not of its content.

Editing leaves its traces in the finest detail - grain that is missing or doubled, resampled edges,
blocks of a codec - and none of that says what the picture shows. So the probe gets noise levels,
tails, correlations between neighbours and channels, the fall of the spectrum and the 8-pixel grid
of JPEG, all of them averages over pixels: a larger region has no larger value.

Shapes: H, W picture; 3 colour (RGB); N pixels of a region; F features.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

SIGMAS = (0.8, 1.6, 3.2)
"""Widths in pixels of the blurs; what lies between two of them is one octave of the spectrum."""
CELL = 8
"""Side of the squares in which local noise levels are taken, and the step of JPEG's grid."""
REACH = 13
"""Pixels beyond a region that its statistics may still look at: OpenCV's cut of the widest blur."""
_FLOOR = 0.05
"""Grey levels added before a logarithm: a surface without any noise is a number, too."""
_RANKED = 8192
"""Pixels that are sorted at most: of more, every second, every third, ..."""
_LAGS = ((0, 1), (1, 0), (1, 1), (0, 2))
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

NAMES = (
    *(f"{what}_{c}" for c in "rgb" for what in ("level", "middle", "tails", "far", "still")),
    *(f"neighbour_{dy}{dx}" for dy, dx in _LAGS),
    "red_green", "green_blue",
    "fine_to_middle", "middle_to_coarse", "laplacian",
    "grid_x", "grid_y",
    *(f"cells_{quantile:.0%}" for quantile in _QUANTILES),
)  # fmt: skip
"""The F features in order."""


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """What is looked at in one picture, computed once for all its regions; float32."""

    high_3HW: np.ndarray
    bands: tuple[np.ndarray, ...]
    laplacian_HW: np.ndarray
    steps: tuple[np.ndarray, np.ndarray]


def residuals(image_HW3: np.ndarray) -> Residuals:
    """The high-pass views of a uint8 picture."""
    image = image_HW3.astype(np.float32)
    grey_HW = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    greys = [grey_HW, *(cv2.GaussianBlur(grey_HW, (0, 0), sigma) for sigma in SIGMAS)]
    bands = tuple(fine - coarse for fine, coarse in pairwise(greys))
    steps = (_second_step(grey_HW), np.ascontiguousarray(_second_step(grey_HW.T).T))
    high_HW3 = image - cv2.GaussianBlur(image, (0, 0), SIGMAS[0])
    high_3HW = np.ascontiguousarray(high_HW3.transpose(2, 0, 1))
    return Residuals(high_3HW, bands, cv2.Laplacian(grey_HW, cv2.CV_32F), steps)


def residuals_after(before: Residuals, source_HW3: np.ndarray, edited_HW3: np.ndarray) -> Residuals:
    """`residuals(edited_HW3)`, computed anew only where it differs from its source's `before`."""
    differs_HW = (source_HW3 != edited_HW3).any(2)
    if not differs_HW.any():
        return before
    height, width = differs_HW.shape
    ys, xs = np.flatnonzero(differs_HW.any(1)), np.flatnonzero(differs_HW.any(0))
    y0, y1 = max(0, ys[0] - REACH), min(height, ys[-1] + 1 + REACH)
    x0, x1 = max(0, xs[0] - REACH), min(width, xs[-1] + 1 + REACH)
    top, left = max(0, y0 - REACH), max(0, x0 - REACH)
    fresh = residuals(edited_HW3[top : y1 + REACH, left : x1 + REACH])
    inner = np.s_[..., y0 - top : y1 - top, x0 - left : x1 - left]

    def patched(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        found = old.copy()
        found[..., y0:y1, x0:x1] = new[inner]
        return found

    return Residuals(
        patched(before.high_3HW, fresh.high_3HW),
        tuple(map(patched, before.bands, fresh.bands)),
        patched(before.laplacian_HW, fresh.laplacian_HW),
        (patched(before.steps[0], fresh.steps[0]), patched(before.steps[1], fresh.steps[1])),
    )


def statistics(found: Residuals, where_HW: np.ndarray) -> np.ndarray:
    """(F,) float64, always finite, of the pixels where `where_HW` (bool) is true; see NAMES."""
    if not where_HW.any():
        return np.zeros(len(NAMES))
    box = _box(where_HW)
    where_HW = where_HW[box]
    everywhere = bool(where_HW.all())
    rows_N = np.flatnonzero(where_HW)

    def picked(values_HW: np.ndarray) -> np.ndarray:
        values_N = values_HW[box].ravel()
        return values_N if everywhere else values_N[rows_N]

    high_3N = [picked(channel_HW) for channel_HW in found.high_3HW]
    grey_HW = found.bands[0][box] * where_HW
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
    """The window around a region, beginning on the grid of squares."""
    ys, xs = np.flatnonzero(where_HW.any(1)), np.flatnonzero(where_HW.any(0))
    y, x = int(ys[0]) // CELL * CELL, int(xs[0]) // CELL * CELL
    return slice(y, int(ys[-1]) + 1), slice(x, int(xs[-1]) + 1)


def _power(values_N: np.ndarray) -> float:
    return float(np.vdot(values_N, values_N))


def _level(values_N: np.ndarray) -> float:
    return float(np.log(np.sqrt(_power(values_N) / max(1, values_N.size)) + _FLOOR))


def _marginal(values_N: np.ndarray) -> tuple[float, float, float, float, float]:
    """Of one channel: level, robust level, tails, reach of the far ones, share that is still."""
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
    """The middle and the 99th percentile, as the nearest ranks: both by one partial sort."""
    size_N = size_N[:: 1 + size_N.size // _RANKED]
    last = size_N.size - 1
    ranks = [last // 2, round(0.99 * last)]
    return np.partition(size_N, ranks)[ranks]


def _neighbours(grey_HW: np.ndarray, where_HW: np.ndarray, dy: int, dx: int) -> float:
    """Correlation of the residual, zero outside the region, with itself, shifted."""
    height, width = grey_HW.shape
    here = (slice(0, max(0, height - dy)), slice(0, max(0, width - dx)))
    there = (slice(dy, height), slice(dx, width))
    # Where one of a pair lies outside, the other must not count in the power either.
    first_HW, second_HW = grey_HW[here] * where_HW[there], grey_HW[there] * where_HW[here]
    return _correlation(first_HW.ravel(), second_HW.ravel())


def _correlation(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """About zero, which residuals are; 0 where there is nothing to correlate."""
    power = np.sqrt(_power(first_N) * _power(second_N))
    return float(np.vdot(first_N, second_N) / power) if power > 1e-6 else 0.0


def _second_step(grey_HW: np.ndarray) -> np.ndarray:
    """|a - 3b + 3c - d| along a row, at c: large where two blocks of a codec meet."""
    step_HW = np.zeros_like(grey_HW)
    a, b, c, d = (grey_HW[:, i : grey_HW.shape[1] - 3 + i] for i in range(4))
    step_HW[:, 2:-1] = np.abs(a - 3 * b + 3 * c - d)
    return step_HW


def _grid(step_HW: np.ndarray, where_HW: np.ndarray) -> float:
    """Log ratio of steps on the lines of the 8-pixel grid to those between; 0 without either."""
    inside_W, steps_W = where_HW.sum(0), (step_HW * where_HW).sum(0, dtype=np.float64)
    on, both = int(inside_W[::CELL].sum()), int(inside_W.sum())
    if not 0 < on < both:
        return 0.0
    lines = float(steps_W[::CELL].sum())
    level = 10 * _FLOOR  # a ratio of hardly any steps says nothing
    return float(
        np.log((lines / on + level) / ((float(steps_W.sum()) - lines) / (both - on) + level))
    )


def _cells(grey_HW: np.ndarray, where_HW: np.ndarray) -> list[float]:
    """Quantiles of the noise level over small squares: one patch of other grain shows here.

    Squares of which less than half lies in the region are left out.
    """
    edges = tuple(np.arange(0, side, CELL) for side in grey_HW.shape)
    inside_hw = _sums(where_HW.astype(np.float32), *edges)
    power_hw = _sums(np.square(grey_HW), *edges)
    full_hw = inside_hw >= CELL * CELL // 2
    if not full_hw.any():
        return [_level(grey_HW[where_HW])] * len(_QUANTILES)
    levels = np.log(np.sqrt(power_hw[full_hw] / inside_hw[full_hw]) + _FLOOR)
    return np.quantile(levels, _QUANTILES).tolist()


def _sums(values_HW: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.add.reduceat(np.add.reduceat(values_HW, rows, 0), columns, 1)

"""Charts as inline SVG: curves, rows of histograms, values with intervals.

A chart is text inside a page: it needs no library, script or further file. Its colours are CSS
variables of the page (`--ink`, `--soft`, `--line`, `--s0` ... `--s7`) with fallback values, so it
follows light and dark mode. Lines also differ by dashes, for print and for colour-blind readers.
Every chart has a title and a description for screen readers.

Lengths are in units of the view box, which the page scales to the available width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

# Line colours, dark enough for white paper; the page may override each as `--s<number>`.
HUES = ("#0f766e", "#c2620f", "#6d5bd0", "#b93a68", "#2b6fb5", "#6f7d16", "#8f4a2a", "#4f6f86")
# Dash patterns of the same lines, in view box units: dash, gap, ...
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "5 2", "1 2", "12 4", "4 4")
# Width of every chart, and its margins: labels of the y axis need the left one.
_WIDTH, _LEFT, _RIGHT = 520, 58, 18
# Height of a line of a legend.
_LINE = 19
_BINS = 36
# Positive values that span more than this factor get a logarithmic axis.
_LOG_FACTOR = 30.0

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A named line through (P, 2) points of x and y; with `step`, y is constant between points."""

    name: str
    points_P2: np.ndarray
    step: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """A named value with its confidence interval; the value is None where it is undefined."""

    name: str
    value: float | None
    interval: Point | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values in [low, high] to view box units in [start, end], linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """The position of a value; values outside the range are clipped to it."""
        # Out of range values would be drawn outside the chart.
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values for grid lines."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers in [low, high], in steps of 1, 2 or 5 times a power of ten.

    The steps follow Heckbert, "Nice Numbers for Graph Labels", Graphics Gems (1990).
    """
    if not high > low:
        return [low]
    # Start one decade too fine and take the first step that gives few enough ticks.
    power = 10.0 ** (math.floor(math.log10((high - low) / most)) - 1)
    for step in (power * factor for factor in (1, 2, 5, 10, 20, 50, 100, 200)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            # Adding 0.0 turns -0.0 into 0.0.
            return [number * step + 0.0 for number in range(first, last + 1)]
    # Not reached for finite numbers.
    return [low, high]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """At most `most` round numbers for a logarithmic axis: fewer per decade over more decades."""
    # Candidates include both ends; the condition below removes those outside.
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(found) <= most:
            return found
    # Many decades: every second, third, ... power of ten.
    return found[:: -(-len(found) // most)]


def short(value: float) -> str:
    """A number as the label of a tick, with at most four digits."""
    if not value or 1e-3 <= abs(value) < 1e5:
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    # 1.20e-07 becomes 1.2e-7.
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def curves(
    title: str, about: str, lines: Sequence[Curve], x: str, y: str, chance: Sequence[Point] = ()
) -> str:
    """Lines over the unit square, with a legend; `chance` are points of the random baseline."""
    legend = len(lines) * _LINE
    # A square plot, with room for axis labels below (48) and above (14).
    height = _WIDTH - _LEFT - _RIGHT + 14 + 48 + legend
    across = Axis(0, 1, _LEFT, _WIDTH - _RIGHT)
    # SVG counts y downwards, so the axis runs from bottom to top.
    up = Axis(0, 1, height - 48 - legend, 14)
    parts = [*_grid(across, up), *_names(across, up, x, y)]
    # First, so that the curves lie above the baseline.
    if chance:
        parts.append(_path(chance, across, up, "var(--soft, #5d6675)", "", 0.9))
    for number, line in enumerate(lines):
        points = _stepped(line.points_P2) if line.step else line.points_P2
        parts.append(_path(points.tolist(), across, up, _hue(number), _dash(number), 2.2))
    for number, line in enumerate(lines):
        # A short sample of the line, then its name.
        at = height - legend + number * _LINE + 6
        parts.append(
            f'<path d="M{_LEFT} {at}h34" fill="none" stroke="{_hue(number)}" stroke-width="2.6"'
            f' stroke-dasharray="{_dash(number)}"/>' + _text(_LEFT + 44, at + 4, line.name, "start")
        )
    return _svg(title, about, height, parts)


def histograms(
    title: str,
    about: str,
    rows: Mapping[str, Sequence[float]],
    marks: Mapping[str, float],
    x: str = "image score",
) -> str:
    """One row of bars per group over a common axis, and vertical lines at the marks.

    Bars show shares of the row, so rows of any size can be compared; each single value is a tick
    below them. The axis is logarithmic where positive values span more than a factor of 30.
    """
    # Marks widen the axis too: a threshold above all scores must stay visible.
    values = np.array([value for row in rows.values() for value in row], np.float64)
    everything = np.concatenate([values, np.array(list(marks.values()), np.float64)])
    # Margins: group names at the left, one band per row, names of marks at the top.
    left, band = 142, 46
    top = 10 + _LINE * len(marks)
    height = top + band * max(len(rows), 1) + 46
    across = _axis(everything, left, _WIDTH - _RIGHT)
    # Common bins for all rows, in the units of the axis.
    edges = _edges(across)
    parts = [
        f'<path class="grid" d="M{across.place(tick):.1f} {top}V{height - 44}"/>'
        + _text(across.place(tick), height - 27, short(tick))
        for tick in across.ticks()
    ]
    # One vertical scale for all rows.
    most = max((_shares(row, edges).max() for row in rows.values() if len(row)), default=1.0)
    for number, (name, row) in enumerate(rows.items()):
        # Bars stand on the base line of their row, with the values as ticks below it.
        base = top + band * (number + 1) - 11
        bars = [
            f"M{across.place(a):.1f} {base}h{across.place(b) - across.place(a) - 0.6:.1f}"
            f"v{-share / most * (band - 16):.1f}h{-(across.place(b) - across.place(a) - 0.6):.1f}z"
            for a, b, share in zip(edges, edges[1:], _shares(row, edges), strict=False)
            if share
        ]
        # Every value as a tick: with few images the bars alone mislead.
        rug = [f"M{across.place(value):.1f} {base + 2}v5" for value in row]
        parts += [
            f'<path d="{"".join(bars)}" fill="{_hue(number)}" fill-opacity=".75"/>',
            f'<path d="{"".join(rug)}" stroke="{_hue(number)}" stroke-opacity=".6"/>',
            f'<path class="axis" d="M{left} {base}H{_WIDTH - _RIGHT}"/>',
            _text(left - 10, base - 14, _shortened(name, 18), "end"),
            _text(left - 10, base + 3, f"{len(row)} image{'' if len(row) == 1 else 's'}", "end", 1),
        ]
    # Marks go last, on top of the bars.
    parts += _marks(marks, across, (left + _WIDTH) / 2, height - 44)
    name = x + (" (logarithmic)" if across.log else "")
    parts.append(_text((left + _WIDTH - _RIGHT) / 2, height - 6, name, soft=True))
    return _svg(title, about, height, parts)


def estimates(title: str, about: str, rows: Sequence[Estimate], x: str, low: float = 0.0) -> str:
    """A dot per value and a line over its interval, on an axis from `low` to 1.

    Rows without a value say "not defined".
    """
    # Margins: names at the left, one band per row, numbers at the right.
    left, band = 168, 27
    height = 12 + band * max(len(rows), 1) + 46
    across = Axis(low, 1, left, _WIDTH - 62)
    parts = [
        f'<path class="grid" d="M{across.place(tick):.1f} 6V{height - 44}"/>'
        + _text(across.place(tick), height - 27, short(tick))
        for tick in across.ticks()
    ]
    for number, row in enumerate(rows):
        at = 12 + band * number + band / 2
        parts.append(_text(left - 12, at + 4, _shortened(row.name, 22), "end"))
        # An undefined metric keeps its row, so that it is not overlooked.
        if row.value is None:
            parts.append(_text(left + 8, at + 4, "not defined", "start", 1))
            continue
        if row.interval:
            # A line with end caps.
            start, end = (across.place(value) for value in row.interval)
            parts.append(
                f'<path d="M{start:.1f} {at}H{end:.1f}M{start:.1f} {at - 4}v8M{end:.1f} {at - 4}v8"'
                f' stroke="{_hue(0)}" stroke-width="2" fill="none"/>'
            )
        parts += [
            f'<circle cx="{across.place(row.value):.1f}" cy="{at}" r="4.6" fill="{_hue(0)}"/>',
            _text(_WIDTH - 8, at + 4, f"{row.value:.3f}", "end"),
        ]
    parts.append(_text((left + _WIDTH - 62) / 2, height - 6, x, soft=True))
    return _svg(title, about, height, parts)


def _marks(marks: Mapping[str, float], across: Axis, middle: float, bottom: float) -> list[str]:
    """Vertical lines with names at the top, stacked so that no line crosses a name.

    Names are to the right of their lines in the left half, and to the left in the right half.
    """
    left = sorted((value, name) for name, value in marks.items() if across.place(value) <= middle)
    right = sorted((value, name) for name, value in marks.items() if across.place(value) > middle)
    lines, names = [], []
    # From the outside inwards: each name is above the lines that come after it.
    for number, (value, name) in enumerate([*left, *reversed(right)]):
        at, top = across.place(value), 12 + _LINE * number
        lines.append(
            f'<path d="M{at:.1f} {top - 9}V{bottom}" stroke="var(--ink, #171a21)"'
            f' stroke-width="1.4" stroke-dasharray="{_dash(list(marks).index(name))}"/>'
        )
        side, away = ("start", 7) if number < len(left) else ("end", -7)
        names.append(_text(at + away, top, f"{name}: {short(value)}", side))
    return lines + names


def _axis(values: np.ndarray, start: float, end: float) -> Axis:
    """An axis over the values with a small margin, logarithmic where they span decades."""
    if not len(values):
        return Axis(0, 1, start, end)
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > _LOG_FACTOR:
        # A margin of 2 % of the logarithmic range on both sides.
        return Axis(low * (high / low) ** -0.02, high * (high / low) ** 0.02, start, end, log=True)
    # Without a spread: half of the value, or half a unit around 0.
    room = (high - low) * 0.03 or abs(high) * 0.5 or 0.5
    return Axis(low - room, high + room, start, end)


def _edges(axis: Axis) -> np.ndarray:
    """Edges of bins of equal width on the page."""
    # Bins of a logarithmic axis have equal ratios.
    spread = np.geomspace if axis.log else np.linspace
    edges: np.ndarray = spread(axis.low, axis.high, _BINS + 1)
    return edges


def _shares(values: Sequence[float], edges: np.ndarray) -> np.ndarray:
    """The share of the values in each bin."""
    # Rounding of the edges must not drop the smallest or the largest value.
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return counts / max(len(values), 1)


def _stepped(points_P2: np.ndarray) -> np.ndarray:
    """The same points joined by horizontal lines, each at the height of its right end."""
    # Two corners per step: along x at the height of the next point, then down or up.
    corners = np.repeat(points_P2, 2, axis=0)[1:]
    corners[1::2, 0] = points_P2[:-1, 0]
    return corners


def _grid(across: Axis, up: Axis) -> list[str]:
    """Grid lines with their labels, and the two axes."""
    parts = []
    for tick in across.ticks():
        at = across.place(tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {up.start}V{up.end}"/>')
        parts.append(_text(at, up.start + 18, short(tick)))
    for tick in up.ticks():
        at = up.place(tick)
        parts.append(f'<path class="grid" d="M{across.start} {at:.1f}H{across.end}"/>')
        parts.append(_text(across.start - 8, at + 4, short(tick), "end"))
    return [*parts, f'<path class="axis" d="M{across.start} {up.end}V{up.start}H{across.end}"/>']


def _names(across: Axis, up: Axis, x: str, y: str) -> list[str]:
    """The titles of the axes."""
    # The title of the y axis is rotated about its own position.
    middle = (up.start + up.end) / 2
    turned = f'<g transform="rotate(-90 14 {middle})">{_text(14, middle + 4, y, soft=True)}</g>'
    return [_text((across.start + across.end) / 2, up.start + 36, x, soft=True), turned]


def _path(
    points: Sequence[Sequence[float]], x: Axis, y: Axis, colour: str, dash: str, width: float
) -> str:
    places = " ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in points)
    return (
        f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"'
        f' stroke-dasharray="{dash}" stroke-linejoin="round"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", soft: bool | int = False) -> str:
    tone = ' class="soft"' if soft else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{tone}>{escape(text)}</text>'


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _hue(number: int) -> str:
    return f"var(--s{number % len(HUES)}, {HUES[number % len(HUES)]})"


def _dash(number: int) -> str:
    return _DASHES[number % len(_DASHES)]


def _svg(title: str, about: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {_WIDTH} {height:.0f}"'
        ' xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title><desc>{escape(about)}</desc>{''.join(parts)}</svg>"
    )

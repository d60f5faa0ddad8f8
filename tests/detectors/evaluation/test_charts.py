"""Charts are well-formed XML, place every number correctly, and have a title and a description."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from detectors.evaluation.charts import (
    Axis,
    Curve,
    Estimate,
    curves,
    estimates,
    histograms,
    log_ticks,
    short,
    ticks,
)
from detectors.metrics.image import image_metrics

SVG = "{http://www.w3.org/2000/svg}"
FINITE = st.floats(-1e9, 1e9, allow_nan=False)


def parsed(svg: str) -> ElementTree.Element:
    """The chart as XML; anything that is not well-formed raises."""
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in parsed(svg).iter(f"{SVG}text")]


@given(FINITE, st.floats(1e-6, 1e9))
def test_ticks_are_round_few_evenly_apart_and_inside(low, span):
    high = low + span
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    slack = max(abs(low), abs(high), span) * 1e-9
    assert all(low - slack <= tick <= high + slack for tick in found)
    if len(found) > 2 and span > abs(low) * 1e-4:
        steps = np.diff(found)
        assert np.allclose(steps, steps[0], rtol=1e-4)
        leading = float(f"{steps[0]:.0e}"[0])
        assert leading in (1, 2, 5)


@given(st.floats(1e-9, 1e9), st.floats(31, 1e12))
def test_logarithmic_ticks_are_round_few_and_inside(low, factor):
    found = log_ticks(low, low * factor)
    assert 1 <= len(found) <= 7
    assert found == sorted(found)
    assert all(low <= tick <= low * factor for tick in found)
    assert all(f"{tick:.0e}"[0] in "1235" for tick in found)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (-3.5, "-3.5"),
        (12000, "12000"),
        (1e-7, "1e-7"),
        (-2.5e9, "-2.5e9"),
    ],
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def test_a_curve_goes_through_its_points():
    line = Curve("student & teacher", np.array([[0.0, 0.0], [0.5, 0.75], [1.0, 1.0]]))
    svg = curves("ROC <curve>", "Area 0.8.", [line], "false alarms", "found", [(0, 0), (1, 1)])
    drawn = [node.get("points") for node in parsed(svg).iter(f"{SVG}polyline")]
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in drawn[1].split(" "))
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.5, abs=1e-3)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.75, abs=1e-3)
    # SVG counts y downwards.
    assert y0 > y2
    assert {"student & teacher", "false alarms", "found"} <= set(texts(svg))


def drawn(line: Curve) -> np.ndarray:
    """The (P, 2) corners of a line in view box units."""
    svg = curves("PR", "", [line], "recall", "precision")
    (points,) = [node.get("points") or "" for node in parsed(svg).iter(f"{SVG}polyline")]
    return np.array([point.split(",") for point in points.split(" ")], np.float64)


def test_the_area_below_a_stepped_curve_is_the_average_precision():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 40), rng.integers(0, 12, 40)
    pr_P2 = image_metrics(labels, scores).pr_P2
    line = Curve("a", np.vstack([[0, pr_P2[0, 1]], pr_P2]), step=True)
    (left, bottom), (right, top) = drawn(Curve("diagonal", np.array([[0.0, 0.0], [1.0, 1.0]])))
    x, y = drawn(line).T
    area = np.trapezoid((bottom - y) / (bottom - top), (x - left) / (right - left))
    assert area == pytest.approx(average_precision_score(labels, scores), abs=2e-3)


def test_every_score_is_a_tick_below_its_row_and_every_threshold_a_line():
    rows = {"good": [0.1, 0.2, 0.2], "scratch": [0.9], "missing": []}
    svg = histograms("Scores", "Two groups.", rows, {"1 % FPR": 0.5})
    rug = [
        path.get("d", "") for path in parsed(svg).iter(f"{SVG}path") if path.get("stroke-opacity")
    ]
    assert [text.count("M") for text in rug] == [3, 1, 0]
    assert {"good", "3 images", "scratch", "1 image", "0 images", "1 % FPR: 0.5"} <= set(texts(svg))
    first, last = (float(re.match(r"M([\d.]+)", text)[1]) for text in rug[:2])
    (mark,) = [
        float(re.match(r"M([\d.]+)", path.get("d"))[1])
        for path in parsed(svg).iter(f"{SVG}path")
        if path.get("stroke-width") == "1.4"
    ]
    # 0.5 is half way between 0.1 and 0.9.
    assert mark == pytest.approx((first + last) / 2, abs=0.2)


def test_scores_over_many_decades_get_a_logarithmic_axis_and_negative_ones_do_not():
    assert "image score (logarithmic)" in texts(histograms("", "", {"a": [0.01, 90.0]}, {}))
    assert "image score" in texts(histograms("", "", {"a": [-5.0, 90.0]}, {}))
    axis = Axis(1, 100, 0, 10, log=True)
    assert axis.place(10) == pytest.approx(5)


@pytest.mark.parametrize("rows", [{}, {"good": []}, {"good": [3.0]}, {"good": [0.0, 0.0]}])
def test_nothing_or_one_value_can_be_drawn(rows):
    svg = histograms("Scores", "", rows, {})
    assert "nan" not in svg
    parsed(svg)


def test_an_estimate_shows_value_and_interval_or_that_it_is_not_defined():
    rows = [Estimate("missing", 0.75, (0.5, 1.0)), Estimate("none", None)]
    svg = estimates("AUROC", "", rows, "AUROC")
    (dot,) = parsed(svg).iter(f"{SVG}circle")
    line = next(p.get("d") for p in parsed(svg).iter(f"{SVG}path") if p.get("stroke-width") == "2")
    start, end = float(re.match(r"M([\d.]+)", line)[1]), float(re.search(r"H([\d.]+)", line)[1])
    assert float(dot.get("cx")) == pytest.approx((start + end) / 2, abs=0.1)
    assert {"0.750", "not defined"} <= set(texts(svg))


def test_every_chart_has_a_title_a_description_and_colours_of_the_page():
    made = [
        curves("A <b>", "what & why", [Curve("x", np.zeros((1, 2)))], "x", "y"),
        histograms("A <b>", "what & why", {"x": [1.0, 2.0]}, {"mark": 1.5}),
        estimates("A <b>", "what & why", [Estimate("x", 0.5)], "x"),
    ]
    for svg in made:
        chart = parsed(svg)
        assert chart.get("role") == "img"
        assert chart.find(f"{SVG}title").text == "A <b>"
        assert chart.find(f"{SVG}desc").text == "what & why"
        colours = re.findall(r'(?:fill|stroke)="([^"]+)"', svg)
        assert all(colour == "none" or colour.startswith("var(--") for colour in colours)

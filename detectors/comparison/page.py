"""A comparison as files: compare.html, one self-contained page without scripts, and compare.json.

The centre of the page is the sensitivity matrix; every cell leads to its misses and hits. The page
works offline, in light and dark mode and on a phone. It contains images of the version, and
therefore states their licence.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectors.comparison import text as words
from detectors.comparison.examples import Picture
from detectors.comparison.recommendation import RULE
from detectors.comparison.result import Compared, Comparison
from detectors.comparison.sensitivity import Row, Share
from detectors.evaluation.charts import Estimate, estimates
from detectors.evaluation.report_text import interval, percent, value
from pipeline.dataset.version import Version
from pipeline.sources.licences import terms_of
from pipeline.utils.files import named_disk_errors, write_atomic
from pipeline.utils.html import render_template

# File names of a comparison.
JSON, PAGE = "compare.json", "compare.html"
_TEMPLATE = Path(__file__).with_name("page.html.j2")
_TITLES = {"kind": "By kind of anomaly", "rule": "By rule of the rule book"}

# Pictures of every cell: by detector, then by row key.
Pictures = Mapping[str, Mapping[str, Sequence[Picture]]]


def write_comparison(found: Comparison, pictures: Pictures, version: Version, out: Path) -> Path:
    """Write both files into `out` and return the path of the page."""
    # All content is made before the first file is written.
    page = render(found, pictures, version)
    content = json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n"
    with named_disk_errors(out):
        write_atomic(out / JSON, content.encode())
        write_atomic(out / PAGE, page.encode())
    return out / PAGE


def render(found: Comparison, pictures: Pictures, version: Version) -> str:
    """The page as HTML."""
    anomalies = [*found.rows_in("kind"), *found.rows_in("rule")]
    shown = [*anomalies, *found.rows_in("control")]
    return render_template(
        _TEMPLATE,
        {
            "value": value, "interval": interval, "rate": words.rate, "seconds": words.seconds,
            "percent_interval": words.interval_percent, "range": words.range_percent,
            "percent": percent, "counted": words.counted,
        },
        found=found,
        best=found.recommendation.name,
        headline=words.headline(found),
        cautions=words.cautions(found),
        one_class_real=words.one_class_real(found),
        rule=RULE,
        size=version.image_size,
        groups=[
            {"title": title, "name": group, "rows": rows}
            for group, title in _TITLES.items()
            if (rows := found.rows_in(group))
        ],
        control_rows=found.rows_in("control"),
        controls=lambda one: words.controls(one, found),
        cell=lambda one, row: one.sensitivity.cells[row.key],
        anchor=lambda row, one: f"c{shown.index(row)}-{one.name}",
        tint=tint,
        chart=_chart(found),
        sections=[
            {"row": row, "parts": _parts(row, found, pictures)}
            for row in shown
            if row.group != "control" or _alarms(row, found)
        ],
        terms=terms_of(version.index),
    )  # fmt: skip


def tint(share: Share, alarm: bool = False) -> str:
    """The background of a cell: green for found, red for missed; the other way for alarms.

    Paler towards one half, and paler the wider the interval, so that 1 of 1 is no triumph.
    """
    good = 1 - share.share if alarm else share.share
    low, high = share.interval
    strength = abs(good - 0.5) * 2 * (1 - 0.8 * (high - low))
    # At most 36 %: text stays readable on both colours, in light and dark mode.
    colour = "good" if good >= 0.5 else "bad"
    return f"color-mix(in srgb, var(--{colour}) {36 * strength:.0f}%, transparent)"


def _chart(found: Comparison) -> str:
    """The macro AUROC of every detector with its interval, best first."""
    ranked = sorted(found.detectors, key=lambda one: -one.sensitivity.auroc)
    return estimates(
        "Image AUROC on held-out synthetic anomalies",
        "; ".join(f"{one.name} {value(one.sensitivity.auroc)}" for one in ranked) + ".",
        [
            Estimate(one.name, one.sensitivity.auroc, one.sensitivity.auroc_interval)
            for one in ranked
        ],
        "image AUROC, mean over the kinds, with 95 % intervals",
    )


def _alarms(row: Row, found: Comparison) -> bool:
    """Whether any detector raises an alarm on these controls; silent ones need no pictures."""
    return any(one.sensitivity.cells[row.key].found for one in found.detectors)


def _parts(row: Row, found: Comparison, pictures: Pictures) -> list[dict[str, Any]]:
    """One part of a section per detector: its cell, and its pictures."""
    return [
        {"one": one, "cell": _cell(one, row), "pictures": pictures[one.name].get(row.key, ())}
        for one in found.detectors
    ]


def _cell(one: Compared, row: Row) -> Share:
    return one.sensitivity.cells[row.key]

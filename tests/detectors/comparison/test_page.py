"""The page of a comparison: what it must contain, and that it stands alone."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from small_comparisons import comparison, held_out, ruled_version

from detectors.comparison.examples import Picture, choose
from detectors.comparison.page import render, tint, write_comparison
from detectors.comparison.real_test import real_test
from detectors.comparison.sensitivity import Share, rows_of
from detectors.comparison.text import as_text, cautions, headline, rate, seconds

REPORT = {
    "image_auroc": 0.75,
    "intervals": {"image_auroc": [0.5, 0.9]},
    "per_type": {"logical_anomalies": {"image_auroc": 0.7}},
    "scores": [
        {"name": "a", "type": "good", "score": 0.1},
        {"name": "b", "type": "good", "score": 0.3},
        {"name": "c", "type": "logical_anomalies", "score": 0.2},
        {"name": "d", "type": "logical_anomalies", "score": 0.1},
    ],
}
WORSE = [(kind, rules, score / 10) for kind, rules, score in (
    ("missing", ("bolt.count",), 0.9), ("missing", ("bolt.count",), 0.1),
    ("extra", ("bolt.count", "label"), 0.8), ("extra", ("bolt.count",), 0.7), ("extra", (), 0.5),
    ("control_noop", (), 0.4), ("control_background", (), 0.5),
)]  # fmt: skip


@pytest.fixture(scope="module")
def found():
    scores = {"nearest": held_out(), "semrec": held_out(samples=WORSE)}
    real = {name: real_test(REPORT, 0.2) for name in scores}
    return comparison(scores, real=real)


@pytest.fixture(scope="module")
def page(found, tmp_path_factory) -> str:
    version = ruled_version(tmp_path_factory.mktemp("store"))
    shown = {one.name: {} for one in found.detectors}
    shown["nearest"] = {
        "missing": [Picture("good/<b>.png@0.0", 0.1, False, "data:image/png;base64,AA", "data:,")]
    }
    return render(found, shown, version)


def test_normals_that_drift_are_a_caution(found):
    drift = {"drift": "the normals drift: expect more false alarms"}
    told = replace(found, version={**found.version, **drift})
    assert "The normals drift: expect more false alarms." in cautions(told)
    assert not any("drift" in line for line in cautions(found))


def test_every_row_detector_and_cell_is_on_the_page(found, page):
    for row in found.rows:
        assert row.words in page
    for one in found.detectors:
        assert one.name in page
    # 1 of 2 found, with Wilson's interval.
    assert "<b>50 %</b><small>1 of 2 · 9–91 %</small>" in page
    assert headline(found) in page.replace("&#39;", "'")
    assert "swin-tiny" in page
    assert all(line in page.replace("&#39;", "'") for line in cautions(found))


def test_every_cell_leads_to_a_section(page):
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets == targets & set(re.findall(r'id="([^"]+)"', page))
    # Two detectors, five rows of anomalies.
    assert len([target for target in targets if re.match(r"c\d+-", target)]) >= 10


def test_the_page_stands_alone_and_runs_nothing(page):
    assert "<script" not in page
    addresses = set(re.findall(r'(?:src|href)="([^"#]*)', page)) - {""}
    assert all(a.startswith(("data:", "https://creativecommons.org/")) for a in addresses)
    assert "good/&lt;b&gt;.png@0.0" in page


def test_real_numbers_stand_at_the_end(found, page):
    title = "Real test split, opened only at the end"
    assert page.index(title) > page.index("Misses and hits")
    without = comparison({"nearest": held_out()})
    assert without.real is None
    # At the threshold of the comparison, in float32: 0.2 reaches 0.2.
    real = found.real["nearest"]
    assert (real.found, real.false_alarms) == (Share(1, 2), Share(1, 2))


def test_the_files_are_written_and_the_json_has_all_scores(found, tmp_path):
    version = ruled_version(tmp_path / "store")
    shown = {one.name: {} for one in found.detectors}
    page = write_comparison(found, shown, version, tmp_path)
    content = json.loads((tmp_path / "compare.json").read_text())
    assert page == tmp_path / "compare.html"
    assert content == json.loads(json.dumps(found.to_json()))
    assert content["recommendation"]["detector"] == "nearest"
    scores = content["detectors"][0]["scores"]
    assert (len(scores["normals"]), len(scores["samples"])) == (19, 7)


def test_the_terminal_shows_the_matrix(found):
    text = as_text(found)
    assert re.search(r"an object is missing +2 +50 % \(9–91\) +0 % \(0–66\)", text)
    assert "opened after the recommendation" in text
    assert "left out: glcf" in text


def test_a_real_test_split_without_good_images_says_so_instead_of_a_dash(tmp_path):
    scores = [{"type": "cut", "score": 0.9}, {"type": "cut", "score": 0.1}]
    report = {"scores": scores, "intervals": {}, "image_auroc": None, "per_type": {}}
    found = comparison({"nearest": held_out()}, real={"nearest": real_test(report, 0.2)})
    why = "the test set has no good image: no AUROC and no false-alarm rate can be measured"
    text = as_text(found)
    assert f"note: {why}" in text
    assert re.search(r"nearest +none +1 of 2 +no image", text)
    page = render(found, {"nearest": {}}, ruled_version(tmp_path / "store"))
    assert why in page
    assert "0 of 0" not in text + page


def test_few_normals_are_called_few():
    few = comparison({"nearest": held_out(normals=[0.1, 0.2])})
    (line,) = [line for line in cautions(few) if "cannot promise" in line]
    assert "1/3 = 33 %" in line
    assert "5 % takes 19" in line
    enough = comparison({"nearest": held_out()})
    assert not [line for line in cautions(enough) if "cannot promise" in line]


def test_a_detector_that_is_random_is_not_praised():
    rng = np.random.default_rng(0)
    noise = [("missing", (), float(score)) for score in rng.random(12)]
    random = comparison({"nearest": held_out(normals=rng.random(12), samples=noise)})
    assert any("reaches 0.5" in line for line in cautions(random))


def test_misses_with_the_lowest_scores_come_first():
    (row, *_) = rows_of(held_out(samples=[("missing", (), s) for s in (0.3, 0.1, 0.2, 0.9, 0.8)]))
    scores = np.array([0.3, 0.1, 0.2, 0.9, 0.8])
    assert choose(scores, row, 0.5) == [(1, False), (2, False), (3, True)]


def test_colours_follow_share_and_certainty():
    strength = [int(re.search(r"(\d+)%", tint(share))[1]) for share in (
        Share(1, 1), Share(10, 10), Share(5, 10)
    )]  # fmt: skip
    assert strength[0] < strength[1]
    assert strength[2] == 0
    assert "--bad" in tint(Share(0, 9))
    assert "--good" in tint(Share(0, 9), alarm=True)


def test_numbers_as_people_write_them():
    assert [rate(share) for share in (0, 0.05, 1 / 21, 0.5, 1)] == [
        "0 %", "5 %", "4.8 %", "50 %", "100 %",
    ]  # fmt: skip
    assert [seconds(time) for time in (0.0042, 0.062, 2.5, 185.0)] == [
        "4.2 ms", "62 ms", "2.5 s", "185 s",
    ]  # fmt: skip

"""The report: four files that agree, a self-contained page, example images and their heatmaps."""

import base64
import csv
import html
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_evaluations import AD_TYPES, loco_version, tiny_known, trained, version_of

from detectors.evaluation.evaluate import evaluate
from detectors.evaluation.report_images import choose
from detectors.evaluation.results import ImageRow
from detectors.heatmaps import Scale, outline_mask, overlay, scale_of, to_uint16

CPU = {"device": "cpu", "precision": "fp32"}
VOID = {"meta", "img", "link", "br", "hr", "input"}


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with tiny_known():
        yield


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of one checkpoint on a version in MVTec AD's layout and on one in MVTec LOCO's."""
    home = tmp_path_factory.mktemp("reports")
    ad, loco = version_of(home / "ad", AD_TYPES), loco_version(home / "loco")
    checkpoint = trained(ad, home / "checkpoint")
    for name, version in (("one", ad), ("two", loco)):
        evaluate(checkpoint, version, home / name, **CPU)
    return {"ad": home / "one", "loco": home / "two", "checkpoint": checkpoint}


class Page(HTMLParser):
    """Checks that tags nest, and collects links, alternative texts and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.links += [found[name] or "" for name in ("src", "href") if name in found]
        if tag == "img":
            self.alts.append(found.get("alt") or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def page_of(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def numbers_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def test_all_four_files_agree(reports):
    for name in ("ad", "loco"):
        content = numbers_of(reports[name])
        page, markdown = page_of(reports[name]), (reports[name] / "report.md").read_text()
        for metric in ("image_auroc", "image_ap", "pixel_auroc", "aupro", "iap"):
            assert f"{content[metric]:.3f}" in page.text
            assert f"{content[metric]:.3f}" in markdown
        table = csv.DictReader(io.StringIO((reports[name] / "images.csv").read_text()))
        rows = [(row["name"], row["type"], float(row["score"])) for row in table]
        assert rows == [(s["name"], s["type"], s["score"]) for s in content["scores"]]
        for note in content["notes"].values():
            assert html.escape(note, quote=False).replace("`", "") in (
                html.escape(page.text, quote=False) + content["notes"]["intervals"]
            )


def test_the_page_loads_nothing_from_elsewhere(reports):
    for name in ("ad", "loco"):
        text = (reports[name] / "report.html").read_text()
        for link in Page(text).links:
            assert link.startswith(("data:image/", "https://creativecommons.org/"))
        assert "@import" not in text
        assert "url(" not in text
        assert "default-src 'none'" in text


def test_its_images_decode_at_the_stored_size_and_have_alternative_texts(reports):
    page = page_of(reports["ad"])
    uris = [link for link in page.links if link.startswith("data:")]
    # Good images have no ground truth, which would be the third image.
    assert len(uris) == len(page.alts) >= 3 * 4
    assert all(page.alts)
    for uri in uris:
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
            assert image.size == (64, 64)


def test_it_states_the_licence_of_its_images(reports):
    page = page_of(reports["ad"])
    assert "CC BY-NC-SA 4.0" in page.text
    assert "Commercial use is not allowed" in page.text
    assert "MVTec Software GmbH" in page.text
    assert "CC BY-NC-SA 4.0" in (reports["ad"] / "report.md").read_text()


def test_names_of_files_are_text_not_markup(reports, tmp_path):
    version = version_of(tmp_path / "v", [("<b>&x", (255,)), ("good", ())])
    evaluate(reports["checkpoint"], version, tmp_path / "out", **CPU)
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<b>&x" not in text
    assert "<b>&x" in Page(text).text


@pytest.mark.parametrize("types", [(), [("good", ())] * 2, [("CNV", ())] * 2 + [("good", ())]])
def test_an_incomplete_test_split_gives_a_whole_page(types, reports, tmp_path):
    evaluate(reports["checkpoint"], version_of(tmp_path / "v", types), tmp_path / "out", **CPU)
    page = page_of(tmp_path / "out")
    assert "Training and validation" in page.text
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    assert ("no mask in the source" in page.text) == (len(types) == 3)


def test_the_same_evaluation_gives_the_same_page(reports, tmp_path):
    version = version_of(tmp_path / "v", AD_TYPES)
    evaluate(reports["checkpoint"], version, tmp_path / "out", **CPU)
    pages = [(folder / "report.html").read_text() for folder in (reports["ad"], tmp_path / "out")]
    one, other = (re.sub(r"images in [\d.]+ s on", "", page) for page in pages)
    assert one == other


def row(kind: str, score: float) -> ImageRow:
    return ImageRow(f"{kind}/{score}", kind, (), score, {})


def test_examples_are_the_worst_false_alarms_the_worst_misses_and_typical_ones():
    rows = [row("good", n) for n in range(10)] + [row("cut", n) for n in range(20)]
    rows += [row("worn", n + 0.5) for n in range(9)]
    chosen = {name: [rows[p] for p in places] for name, places in choose(rows).items()}
    assert [one.score for one in chosen["false_alarms"]] == [9, 8, 7, 6]
    assert [one.score for one in chosen["misses"]] == [0, 0.5, 1, 1.5]
    assert {one.type for one in chosen["hits"]} == {"cut", "worn"}
    assert [one.score for one in chosen["hits"] if one.type == "cut"] == [5, 10, 14]
    assert not set(map(id, chosen["misses"])) & set(map(id, chosen["hits"]))


def test_heat_is_absent_below_its_scale_and_full_above():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    map_ = np.zeros((8, 8), np.float32)
    map_[0] = 5.0
    drawn = overlay(image, map_, Scale(1.0, 4.0)).astype(int)
    # Grey without heat, red with it.
    assert (drawn[1:].max(2) == drawn[1:].min(2)).all()
    assert (drawn[0, :, 0] - drawn[0, :, 1] > 60).all()
    assert (
        overlay(image, map_ * 0 + 4, Scale(4.0, 4.0)) == overlay(image, map_, Scale(9, 10))
    ).all()


def test_normal_maps_are_mostly_below_their_own_scale():
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(64, 64)).astype(np.float32) for _ in range(4)]
    scale = scale_of(maps)
    assert np.mean([scale.share(one) > 0 for one in maps]) == pytest.approx(0.01, abs=1e-3)
    assert max(scale.share(one).max() for one in maps) < 0.5


def test_16_bit_grey_gives_the_map_back():
    map_ = np.random.default_rng(2).normal(size=(9, 7)).astype(np.float32)
    grey, scale = to_uint16(map_)
    assert grey.dtype == np.uint16
    back = scale.low + grey / 65535 * (scale.high - scale.low)
    np.testing.assert_allclose(back, map_, atol=(scale.high - scale.low) / 65535)
    flat, ends = to_uint16(np.full((3, 3), 2.5, np.float32))
    assert ends.low + flat[0, 0] / 65535 * (ends.high - ends.low) == 2.5


def test_the_outline_lies_on_the_border_and_the_rest_is_untouched():
    image = np.full((20, 20, 3), 120, np.uint8)
    mask = np.zeros((20, 20), np.bool_)
    mask[6:13, 6:13] = True
    drawn = outline_mask(image, mask)
    assert (drawn[6, 6:13] == drawn[6, 6]).all()
    assert tuple(drawn[6, 6]) != (120, 120, 120)
    assert (drawn[:2] == 120).all()
    assert (outline_mask(image, np.zeros_like(mask)) == image).all()

"""The gallery: one self-contained page that shows every step and escapes every name."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from small_results import TURNS, header, image_result, small_version

from pipeline.dataset.files import CARD, GALLERY
from pipeline.dataset.lineage import RULES_SCORE
from pipeline.dataset.verify import verify
from pipeline.dataset.version import Version
from pipeline.gate.checks import score_limits
from pipeline.reports.gallery import choose, render, write_gallery

NASTY = 'good/<script>alert("x")</script>&\'.png'


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    results = [image_result(n, (40, 56)) for n in range(8)]
    results.append(image_result(9, (40, 56), name=NASTY))
    head = header(
        licence="<b>CC0</b>",
        settings={"note": "</script><img src=x onerror=alert(1)>", "edits": {"per_image": 3}},
    )
    return small_version(
        tmp_path_factory.mktemp("store"), tests=0, results=results, head=head, gallery=True
    )


class Outline(HTMLParser):
    """The start tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def page_of(version: Version) -> str:
    return (version.dir / GALLERY).read_text()


def test_the_page_is_self_contained(version):
    page = page_of(version)
    outside = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]*", "", page)
    assert "http://" not in outside
    assert "https://" not in outside
    assert not [tag for tag, attrs in Outline(page).tags if "src" in attrs or tag == "link"]
    assert "default-src 'none'" in page


def test_every_name_is_escaped(version):
    page = page_of(version)
    scripts = [tag for tag, _ in Outline(page).tags if tag == "script"]
    assert len(scripts) == 1
    assert not [tag for tag, _ in Outline(page).tags if tag == "img"]
    names = {attrs.get("data-name") for _, attrs in Outline(page).tags}
    assert NASTY in names
    assert "<b>CC0" not in page


def test_cards_carry_verdict_kind_and_reason(version):
    cards = [a for tag, a in Outline(page_of(version)).tags if tag == "article"]
    assert len(cards) == 9 * 4
    verdicts = [card["data-verdict"] for card in cards]
    assert {v: verdicts.count(v) for v in set(verdicts)} == {
        "accepted": 18,
        "control": 9,
        "rejected": 9,
    }
    assert {c["data-reason"] for c in cards if c["data-verdict"] == "rejected"} == {"seam"}
    assert {card["data-kind"] for card in cards} == {"missing", "extra", "control_noop"}


def test_the_embedded_images_are_those_of_the_samples(version):
    page = page_of(version)
    row = choose(version)[0]
    found = re.search(r"\.s0\{--e:url\((data:image/[a-z]+;base64,)([^)]*)\)", page)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.group(2)))).convert("RGB"))
    expected = row.shard.edited(row.sample)
    assert image.shape == expected.shape
    wrong = np.abs(image.astype(int) - expected)[~row.shard.mask(row.sample)]
    assert wrong.mean() < 12


def test_a_limit_is_kept_and_spread_over_kinds_images_and_verdicts(version):
    rows = choose(version, 12)
    assert len(rows) == 12
    verdicts = [row.verdict for row in rows]
    assert verdicts.count("rejected") == 3
    kinds = [row.record["kind"] for row in rows if row.verdict != "rejected"]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "missing": 3,
        "extra": 3,
        "control_noop": 3,
    }
    assert len({row.image for row in rows}) >= 3
    assert len({row.record["kind"] for row in choose(version)[:3]}) > 1


def test_the_page_is_deterministic_and_may_be_generated_again(version):
    assert render(version) == render(version)
    path = write_gallery(version.dir, limit=5)
    assert path == version.dir / GALLERY
    assert len([tag for tag, _ in Outline(page_of(version)).tags if tag == "article"]) == 5
    assert verify(version.dir).ok
    path.write_text(page_of(version).replace("normal image", "other image", 1))
    assert not verify(version.dir).ok
    write_gallery(version.dir)
    assert verify(version.dir).ok


def test_a_version_without_samples_has_a_page(tmp_path):
    results = [image_result(0, turns=[])]
    made = small_version(tmp_path, tests=0, results=results, gallery=True)
    assert "No sample was attempted." in page_of(made)
    assert len(TURNS) == 5


def test_rules_and_limits_are_shown_where_there_are_any(tmp_path):
    def ruled(result):
        def judged(verdict):
            scores = dict(verdict.scores) | {RULES_SCORE: 1.0}
            rule = "four <nuts>"
            said = (f"{rule}: expected 4, found 3",)
            return replace(verdict, rule=rule, broken=(rule,), scores=scores, findings=said)

        attempts = (replace(a, verdict=judged(a.verdict)) for a in result.attempts)
        return replace(result, attempts=tuple(attempts))

    head = header(limits={"max_noise_ratio": 1.5, "images": 3}, settings={"gate": {}})
    results = [ruled(image_result(n)) for n in range(3)]
    version = small_version(tmp_path, tests=0, results=results, head=head, gallery=True)
    assert version.index["limits"]["max_noise_ratio"] == 1.5
    assert version.index["counts"]["by_rule"] == {"four <nuts>": {"attempted": 15, "accepted": 9}}
    page, card = page_of(version), (version.dir / CARD).read_text()
    assert "breaks four &lt;nuts&gt;" in page
    assert "Intended rule violations" in page
    assert "<dt>broken rules</dt>" in page
    assert "four &lt;nuts&gt;: expected 4, found 3" in page
    assert "(≥ 4)" in page
    assert "<nuts>" not in page + card
    assert "| four &lt;nuts> | 15 | 9 |" in card
    assert verify(version.dir).ok


def test_limits_of_the_gate_of_another_release_are_not_shown(version):
    record = next(row.record for row in choose(version))
    assert score_limits(version.index)(record) == {"delta_e": "≥ 4"}
    other = version.index | {"settings": {"gate": {"of_another_release": 3}}}
    assert score_limits(other)(record) == {}


def test_kinds_are_listed_in_the_order_of_the_table_of_kinds(version):
    page = page_of(version)
    options = re.findall(r'<option value="([a-z_]+)">', page)
    assert options[:3] == ["missing", "extra", "control_noop"]

"""The audit of a version: a planted trace is found, and without one nothing is claimed."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_audits import audited, blurred, noise, noisy
from small_results import small_version

from pipeline.dataset.files import CARD, GALLERY, INDEX
from pipeline.dataset.verify import verify
from pipeline.dataset.version import Version, open_version
from pipeline.reports.audit import run as auditing
from pipeline.reports.audit.detectability import (
    Bank,
    bundled_trunk,
    described,
    detectability,
    word_for,
)
from pipeline.reports.audit.probe import Area
from pipeline.reports.audit.shortcut import _row, match, shape_of, shortcut
from pipeline.reports.audit.text import as_text, figure, kind_rows, remarks, shortcut_rows
from pipeline.reports.stats import as_text as stats_text
from pipeline.reports.stats import stats


def rows_of(found: dict) -> dict[str, dict]:
    return {row["name"]: row for row in found["rows"]}


@pytest.mark.parametrize("planted", [noisy, blurred])
def test_a_planted_trace_is_found_and_gives_a_warning(tmp_path, planted):
    found = shortcut(audited(tmp_path, anomalies=planted))
    rows = rows_of(found)
    assert rows["image"]["auroc"] > 0.9
    assert rows["inside_parts"]["auroc"] > 0.95
    assert rows["inside_parts"]["verdict"] == "trace"
    assert rows["image"]["verdict"] == "warning"
    assert found["warning"]
    assert found["auroc"] == rows["image"]["auroc"]
    assert rows["outside"]["auroc"] == 0.5


def test_without_a_trace_every_interval_contains_one_half(tmp_path):
    found = shortcut(audited(tmp_path, 60))
    for name in ("image", "inside_parts", "outside", "repaint_image"):
        low, high = rows_of(found)[name]["interval"]
        assert low <= 0.5 <= high, name
    assert rows_of(found)["outside"]["verdict"] == "fine"


def test_visible_inpainting_is_found_in_controls_alone(tmp_path):
    """Anomalies and controls are blurred alike: only the comparison with the source can tell."""
    rows = rows_of(shortcut(audited(tmp_path, anomalies=blurred, controls=blurred)))
    assert rows["repaint_noop"]["auroc"] > 0.95
    assert rows["repaint_noop"]["verdict"] == "trace"
    low, high = rows["inside_parts"]["interval"]
    assert low <= 0.5 <= high


def test_inpainted_background_is_compared_with_inpainted_background_only(tmp_path):
    kinds = ("missing", "control_background")
    rows = rows_of(shortcut(audited(tmp_path / "a", anomalies=blurred, kinds=kinds)))
    assert rows["inside_ground"]["auroc"] > 0.95
    assert "inside_parts" not in rows
    found = shortcut(audited(tmp_path / "b", kinds=("missing", "control_noop")))
    assert "inside_ground" not in rows_of(found)
    assert any("control_background" in note for note in found["notes"])


class Leaky:
    """A shard whose anomalies also have noise outside their masks, which no edit may add."""

    def __init__(self, shard):
        self.shard = shard

    def __getattr__(self, name):
        return getattr(self.shard, name)

    def edited(self, j):
        pixels = self.shard.edited(j)
        if not self.shard.label(j):
            return pixels
        rng = np.random.default_rng(j)
        return np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def test_a_trace_outside_the_masks_is_found(tmp_path):
    version = audited(tmp_path)
    version.__dict__["shards"] = tuple(Leaky(shard) for shard in version.shards)
    row = rows_of(shortcut(version))["outside"]
    assert row["auroc"] > 0.95
    assert row["verdict"] == "warning"


def words_of(image: tuple[float, list[float]], content: tuple[float, list[float]]) -> str:
    lines = {"image": image, "content": content}
    rows = [
        {"name": name, "auroc": auroc, "interval": interval}
        | {"warning": name == "image", "verdict": "warning" if name == "image" else "reference"}
        for name, (auroc, interval) in lines.items()
    ]
    return remarks({"shortcut": {"limit": 0.6, "rows": rows, "notes": []}})[0]


def test_the_warning_says_whether_content_explains_it():
    assert "explains it: without" in words_of((0.69, [0.6, 0.78]), (0.76, [0.68, 0.85]))
    assert "does not explain it" in words_of((0.95, [0.9, 1.0]), (0.76, [0.68, 0.85]))
    # An interval that reaches far up and down to chance explains nothing.
    assert "does not explain it" in words_of((0.65, [0.5, 0.8]), (0.55, [0.4, 0.7]))


def test_above_the_limit_whole_images_give_a_warning_and_masks_show_traces():
    unsure = Area(0.61, (0.48, 0.7), 30, 30, 30)
    sure = Area(0.61, (0.52, 0.7), 30, 30, 30)
    few = Area(0.9, (0.8, 1.0), 30, 19, 30)
    assert [_row("image", found)["verdict"] for found in (unsure, sure, few)] == [
        "warning", "warning", "few",
    ]  # fmt: skip
    assert [_row("inside_parts", found)["verdict"] for found in (unsure, sure, few)] == [
        "few", "trace", "few",
    ]  # fmt: skip
    assert not _row("inside_parts", sure)["warning"]


def test_few_controls_are_too_few_to_tell(tmp_path):
    found = shortcut(audited(tmp_path, 8, anomalies=noisy))
    assert {row["verdict"] for row in found["rows"]} <= {"few", "reference"}
    assert not found["warning"]
    lines = [row for row in shortcut_rows({"shortcut": found}) if row["name"] == "image"]
    assert lines[0]["says"] == "too few to tell"
    assert "[" in lines[0]["figure"]


def test_without_controls_nothing_is_compared(tmp_path):
    found = shortcut(audited(tmp_path, 4, kinds=("extra",)))
    assert found["auroc"] is None
    assert found["notes"] == ["nothing to compare: there are no controls"]


def test_masks_are_paired_by_size_and_outline():
    small, large, ring = np.zeros((3, 60, 60), np.bool_)
    small[5:15, 5:15], large[5:45, 5:45], ring[5:45, 5:45] = True, True, True
    ring[8:42, 8:42] = False
    shapes = [shape_of(mask) for mask in (small, large, ring)]
    assert match(shapes, shapes[::-1]) == [(0, 2), (1, 1), (2, 0)]
    assert match(shapes[:1], shapes[1:]) == []
    assert match([], shapes) == []
    assert len(match(shapes[:1] * 3, shapes[:1] * 2)) == 2


def test_detectability_says_which_kind_is_trivial_and_which_is_not(tmp_path):
    def stripes(pixels, rng):
        pixels[::2] = (255, 0, 0)
        return pixels

    kinds = ("extra", "swapped", "control_noop")
    version = audited(tmp_path, 40, anomalies=stripes, controls=noise, kinds=kinds)
    found = detectability(version)
    assert found["images"] == "20 validation images"
    assert found["kinds"]["extra"]["word"] == "trivial"
    low, high = found["kinds"]["control_noop"]["interval"]
    assert low <= 0.5 <= high
    assert found["kinds"]["control_noop"]["word"] == "looks normal"
    assert found["kinds"]["extra"]["samples"] == 20


def test_few_validation_images_are_replaced_by_folds(tmp_path):
    found = detectability(audited(tmp_path, 12, kinds=("extra", "control_noop")))
    assert found["images"] == "12 images in 3 folds"
    assert found["kinds"]["extra"]["samples"] == 12
    assert detectability(audited(tmp_path / "one", 1))["notes"] == ["1 images are too few"]


def test_an_image_of_the_bank_has_distance_zero():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)
    cells = list(described([*images, np.zeros_like(images[1])], bundled_trunk()))
    bank = Bank.of(cells[:3])
    known, unusual = bank.scores([cells[1], cells[3]])
    assert known == pytest.approx(0, abs=0.01)
    assert unusual > 0.3
    assert bank.scores(cells) == bank.scores(cells[::-1])[::-1]


@pytest.mark.parametrize(
    ("kind", "interval", "samples", "word"),
    [
        ("missing", (0.96, 1.0), 30, "trivial"),
        ("missing", (0.70, 0.9), 30, "learnable"),
        ("missing", (0.45, 0.6), 30, "near impossible"),
        ("missing", (0.96, 1.0), 4, "too few to tell"),
        ("control_noop", (0.45, 0.6), 30, "looks normal"),
        ("control_noop", (0.55, 0.6), 30, "stands out"),
    ],
)
def test_verdicts_of_the_detectability_report(kind, interval, samples, word):
    assert word_for(kind, Area(sum(interval) / 2, interval, samples, 30, 30)) == word


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Version:
    store = tmp_path_factory.mktemp("audited")
    return audited(store, anomalies=noisy, audit=True, gallery=True)


def test_a_version_carries_its_audit_outside_the_digest(published, tmp_path):
    plain = audited(tmp_path, anomalies=noisy)
    assert "audit" in published.index
    assert "audit" not in plain.index
    assert published.digest == plain.digest
    assert verify(published.dir).ok
    assert verify(plain.dir).ok
    assert auditing.audit(plain) == published.index["audit"] == auditing.audit(published)


def test_several_workers_make_the_same_audit_and_gallery(published, tmp_path):
    version = audited(tmp_path, anomalies=noisy, audit=True, gallery=True, workers=3)
    assert version.index["audit"] == published.index["audit"]
    assert (version.dir / GALLERY).read_bytes() == (published.dir / GALLERY).read_bytes()


def test_a_changed_audit_is_found_by_verify(tmp_path):
    version = audited(tmp_path, anomalies=noisy, audit=True)
    index = json.loads((version.dir / INDEX).read_bytes())
    index["audit"]["shortcut"]["warning"] = False
    (version.dir / INDEX).write_text(json.dumps(index))
    report = verify(version.dir)
    assert not report.ok
    assert INDEX in report.problems[0]


def test_card_gallery_and_stats_show_both_reports_and_the_warning(published):
    card = (published.dir / CARD).read_text()
    page = (published.dir / GALLERY).read_text()
    text = stats_text(stats(published))
    row = shortcut_rows(published.index["audit"])[0]
    for shown in (card, page, text):
        assert row["meaning"] in shown
        assert figure(row) in shown
        assert "Warning: statistics of the finest detail tell anomalies from controls" in shown
        assert kind_rows(published.index["audit"])[0]["word"] in shown
    assert stats(published)["audit"] == published.index["audit"]


def test_an_audit_that_fails_does_not_prevent_the_publication(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise ValueError("no such <b>luck</b>")

    monkeypatch.setattr("pipeline.reports.audit.shortcut.shortcut", broken)
    version = audited(tmp_path, 3, audit=True, gallery=True)
    found = version.index["audit"]
    assert found["shortcut"] == {"note": "could not be computed: ValueError: no such <b>luck</b>"}
    assert "kinds" in found["detectability"]
    assert remarks(found)[0].startswith("shortcut audit could not be computed")
    assert verify(version.dir).ok
    for page in (version.dir / CARD, version.dir / GALLERY):
        assert "<b>luck" not in page.read_text()


def test_an_odd_version_has_an_audit(tmp_path):
    """Tiny images, random masks, few of them: figures or notes, never an error."""
    version = small_version(tmp_path, audit=True)
    assert set(version.index["audit"]) == {"shortcut", "detectability"}
    assert verify(version.dir).ok
    assert as_text(version.index["audit"])
    assert as_text({})


def test_the_command_computes_it_again_and_exits_with_zero(published, root: Path):
    from typer.testing import CliRunner

    from flows.cli import app

    run = CliRunner().invoke(app, ["audit", str(published.dir), "--json"])
    assert run.exit_code == 0, run.output
    answer = json.loads(run.stdout.splitlines()[-1])
    assert answer["shortcut"] == published.index["audit"]["shortcut"]
    assert answer["detectability"] == published.index["audit"]["detectability"]
    assert open_version(published.dir).index == published.index

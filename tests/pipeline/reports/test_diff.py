"""`diff`: each known change is found and nothing else; the page escapes every name."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_results import header, image_result, real_image, small_version
from typer.testing import CliRunner

from flows.cli import app
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.generation.publish import publish
from pipeline.records import Attempt, Edit, ImageResult, Verdict
from pipeline.reports.diff.changes import WAYS, Diff
from pipeline.reports.diff.compare import diff
from pipeline.reports.diff.page import render, write_page

NASTY = 'good/<script>alert("x")</script>&\'.png'
SAME_BY_KIND = {"missing": 3, "extra": 3, "control_noop": 3}
Change = Callable[[ImageResult], ImageResult]


def version(store: Path, change: Change | None = None, images: int = 3, **head: Any) -> Version:
    """A small version; `change` alters image number 1."""
    results = [image_result(number) for number in range(images)]
    if change:
        results[1] = change(results[1])
    return small_version(store, tests=2, results=results, head=header(**head))


def with_attempt(number: int, **parts: Any) -> Change:
    """Replace fields of one attempt."""

    def change(result: ImageResult) -> ImageResult:
        attempts = list(result.attempts)
        attempts[number] = replace(attempts[number], **parts)
        return replace(result, attempts=tuple(attempts))

    return change


def attempt(number: int, image: int = 1) -> Attempt:
    return image_result(image).attempts[number]


def counted(found: Diff) -> dict[str, int]:
    """The ways of change that occur, with their counts."""
    return {way: count for way, count in found.counts().items() if way in WAYS and count}


def names(found: Diff, way: str) -> list[tuple[str, int, str]]:
    return [(c.image, c.number, c.kind) for c in found.of(way)]


def test_a_version_equals_itself_and_a_copy_with_other_software(tmp_path):
    made = version(tmp_path)
    found = diff(made, made)
    assert found.equal
    assert not found.making
    assert found.counts() == {"same": 9, **dict.fromkeys(WAYS, 0)}
    again = version(tmp_path / "elsewhere", software={"numpy": "9"})
    found = diff(made, again)
    assert found.equal
    assert found.making == {"software.numpy": (None, "9")}


def test_a_sample_that_was_not_attempted_before_is_added(tmp_path):
    fewer = version(tmp_path / "a", lambda result: replace(result, attempts=result.attempts[:2]))
    found = diff(fewer, version(tmp_path / "b"))
    assert counted(found) == {"added": 2}
    assert names(found, "added") == [
        ("train/good/001.png", 2, "extra"),
        ("train/good/001.png", 3, "control_noop"),
    ]
    assert found.samples[0].rejected == {}
    assert found.attempts["only_after"] == 3


def test_a_sample_that_the_gate_now_rejects_is_removed_with_the_reason(tmp_path):
    reject = with_attempt(0, verdict=Verdict(False, "faint", {"delta_e": 0.5}))
    found = diff(version(tmp_path / "a"), version(tmp_path / "b", reject))
    assert counted(found) == {"removed": 1, "gate": 1}
    assert names(found, "removed") == [("train/good/001.png", 0, "missing")]
    assert found.samples[0].rejected == {"faint": 1}
    assert found.gate[0].id == "train/good/001.png@0.0"
    assert found.gate[0].decisions == ("accepted", "faint")


def test_another_reason_is_another_gate_decision(tmp_path):
    scores = attempt(1).verdict.scores
    other = with_attempt(1, verdict=Verdict(False, "look_alike", scores))
    found = diff(version(tmp_path / "a"), version(tmp_path / "b", other))
    assert counted(found) == {"gate": 1}
    assert found.gate[0].decisions == ("seam", "look_alike")
    assert found.by_kind()["extra"]["gate"] == 1


def test_changed_pixels_are_counted_on_the_exact_image(tmp_path):
    sample = attempt(2).sample
    assert sample is not None
    pixels_HW3 = sample.pixels_HW3.copy()
    rows, columns = (axis[:4] for axis in np.nonzero(sample.change_HW))
    pixels_HW3[rows, columns, 1] += 1
    change = with_attempt(2, sample=replace(sample, pixels_HW3=pixels_HW3))
    found = diff(version(tmp_path / "a"), version(tmp_path / "b", change))
    assert counted(found) == {"pixels": 1}
    assert names(found, "pixels") == [("train/good/001.png", 2, "extra")]
    assert (found.samples[0].arrays, found.samples[0].changed_pixels) == (("pixels",), 4)
    assert {kind: row["same"] for kind, row in found.by_kind().items()} == SAME_BY_KIND | {
        "extra": 2
    }


def test_a_changed_mask_counts_as_pixels(tmp_path):
    sample = attempt(0).sample
    assert sample is not None
    change = with_attempt(0, sample=replace(sample, object_HW=~sample.object_HW))
    found = diff(version(tmp_path / "a"), version(tmp_path / "b", change))
    assert counted(found) == {"pixels": 1}
    assert (found.samples[0].arrays, found.samples[0].changed_pixels) == (("object_mask",), 0)


def test_changed_metadata_is_named_with_both_values(tmp_path):
    sample = attempt(0).sample
    assert sample is not None
    edit = sample.edit
    other = Edit(edit.kind, edit.targets, {**edit.parameters, "share": 0.5}, edit.seed)
    change = with_attempt(0, sample=replace(sample, edit=other))
    found = diff(version(tmp_path / "a"), version(tmp_path / "b", change))
    assert counted(found) == {"metadata": 1}
    assert found.samples[0].metadata == {"edit.parameters.share": (0.25, 0.5)}


def test_a_moved_image_changes_the_split_of_its_samples(tmp_path):
    moved = version(tmp_path / "b", lambda result: replace(result, split="validation"))
    found = diff(version(tmp_path / "a"), moved)
    assert counted(found) == {"split": 3}
    assert {change.split for change in found.samples} == {("train", "validation")}
    assert [(i.after, i.ways, i.split) for i in found.images] == [
        ("train/good/001.png", ("split",), ("train", "validation"))
    ]


def test_a_later_attempt_is_the_same_sample(tmp_path):
    """A stricter setting: attempt 0 is rejected, attempt 1 accepted instead."""
    first, second = attempt(0), attempt(0, image=2)

    def retried(result: ImageResult) -> ImageResult:
        rejected = replace(first, verdict=Verdict(False, "seam", first.verdict.scores))
        again = replace(second, sample=attempt(2).sample, attempt=1, kind="extra")
        return replace(result, attempts=(rejected, again, *result.attempts[1:]))

    found = diff(version(tmp_path / "a"), version(tmp_path / "b", retried))
    assert counted(found) == {"pixels": 1, "metadata": 1, "gate": 1}
    (change,) = found.samples
    assert change.metadata is not None
    assert change.metadata["attempt"] == (0, 1)
    assert change.metadata["kind"] == ("missing", "extra")
    assert found.attempts["only_after"] == 1


def test_an_anomaly_and_a_control_of_one_number_are_two_samples(tmp_path):
    def fewer(result: ImageResult) -> ImageResult:
        control = replace(result.attempts[3], number=2)
        return replace(result, attempts=(*result.attempts[:2], control))

    found = diff(version(tmp_path / "a"), version(tmp_path / "b", fewer))
    assert names(found, "removed") == [
        ("train/good/001.png", 2, "extra"),
        ("train/good/001.png", 3, "control_noop"),
    ]
    assert names(found, "added") == [("train/good/001.png", 2, "control_noop")]
    assert found.attempts["other_edit"] == 1


def test_verdicts_on_other_seeds_are_not_compared(tmp_path):
    other = with_attempt(1, seed=7, verdict=Verdict(False, "empty"))
    found = diff(version(tmp_path / "a"), version(tmp_path / "b", other))
    assert counted(found) == {}
    assert found.attempts["other_edit"] == 1
    assert not found.equal


def test_a_renamed_file_keeps_its_samples_and_a_replaced_one_does_not(tmp_path):
    first = version(tmp_path / "a")
    renamed = version(tmp_path / "b", lambda result: replace(result, name="train/good/new.png"))
    found = diff(first, renamed)
    assert not names(found, "added")
    assert [(i.before, i.after, i.ways) for i in found.images] == [
        ("train/good/001.png", "train/good/new.png", ("renamed",))
    ]
    replaced = version(tmp_path / "c", lambda result: replace(result, digest="f" * 64))
    found = diff(first, replaced)
    assert counted(found) == {"added": 3, "removed": 3}
    assert found.replaced == ["train/good/001.png"]


def test_test_split_failures_and_provenance_are_compared(tmp_path):
    first = version(tmp_path / "a", settings={"gate": {"seam": 3.0}}, weights={"sam": "1"})
    results = [image_result(number) for number in range(3)]
    tests = [real_image(1), replace(real_image(0), defect="logical")]
    head = header(settings={"gate": {"seam": 2.0}}, licence="MIT", failures=[])
    second = publish(
        tmp_path / "b", "tray", results, tests, head, gallery=False, profile="portable"
    )
    found = diff(first, second)
    assert counted(found) == {}
    assert found.test == {"added": [], "removed": [], "changed": ["test/bad/000.png"]}
    assert found.failures == {"added": [], "removed": ["train/good/broken.png"]}
    assert found.making == {
        "licence": ("CC0-1.0", "MIT"),
        "profile": ("default", "portable"),
        "settings.gate.seam": (3.0, 2.0),
        "weights.sam": ("1", None),
    }
    assert not found.only_order


def test_a_difference_in_order_only_is_recognised(tmp_path):
    forth = [image_result(0), image_result(1)]
    first = small_version(tmp_path / "a", tests=0, results=forth)
    second = small_version(tmp_path / "b", tests=0, results=forth[::-1])
    found = diff(first, second)
    assert counted(found) == {}
    assert found.only_order


subsets = st.lists(st.sampled_from(range(5)), unique=True)


@settings(max_examples=12, deadline=None)
@given(pair=st.tuples(subsets, subsets, subsets, subsets))
def test_added_in_one_direction_is_removed_in_the_other(tmp_path_factory, pair):
    """Against sets: which (image, number) is accepted where."""
    folder = tmp_path_factory.mktemp("pair")

    def made(name: str, chosen: Sequence[list[int]]) -> tuple[Version, set[tuple[str, int]]]:
        results = []
        for number, kept in enumerate(chosen):
            whole = image_result(number, (8, 9))
            results.append(replace(whole, attempts=tuple(whole.attempts[n] for n in sorted(kept))))
        accepted = {(r.name, a.number) for r in results for a in r.attempts if a.verdict.accepted}
        return small_version(folder / name, tests=0, results=results), accepted

    (a, in_a), (b, in_b) = made("a", pair[:2]), made("b", pair[2:])
    there, back = diff(a, b), diff(b, a)
    assert {name[:2] for name in names(there, "added")} == in_b - in_a
    assert {name[:2] for name in names(there, "removed")} == in_a - in_b
    assert there.counts()["same"] == len(in_a & in_b)
    assert names(there, "added") == names(back, "removed")
    assert names(there, "removed") == names(back, "added")


def test_versions_of_other_categories_or_sizes_are_a_user_error(tmp_path):
    first = version(tmp_path)
    larger = small_version(tmp_path / "b", tests=0, results=[image_result(0, (32, 19))])
    with pytest.raises(UserError, match=r"19x24.*19x32"):
        diff(first, larger)
    other = publish(tmp_path / "c", "bag", [image_result(0)], [], header(), gallery=False)
    with pytest.raises(UserError, match=r"'tray'.*'bag'"):
        diff(first, other)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Version, Version]:
    """Two versions with every way of change in them, and an image with a nasty name."""
    folder = tmp_path_factory.mktemp("two")
    nasty = [image_result(number, (40, 56)) for number in range(4)]
    nasty[0] = replace(nasty[0], name=NASTY)
    first = small_version(folder / "a", tests=0, results=nasty)
    sample = nasty[0].attempts[0].sample
    assert sample is not None
    darker = replace(sample, pixels_HW3=sample.pixels_HW3 - sample.change_HW[..., None])
    second = list(nasty)
    second[0] = with_attempt(0, sample=darker)(nasty[0])
    second[1] = with_attempt(2, verdict=Verdict(False, "<b>seam</b>"))(nasty[1])
    second[2] = replace(nasty[2], split="validation")
    second[3] = with_attempt(1, verdict=Verdict(True, "", {"delta_e": 1.0}))(nasty[3])
    second[3] = with_attempt(0, verdict=Verdict(True, "", {"area": 0.5}))(second[3])
    head = header(settings={"note": "</style><script>alert(1)</script>"})
    return first, small_version(folder / "b", tests=0, results=second, head=head)


class Outline(HTMLParser):
    """The start tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def cards(self) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == "article"]


def test_the_page_shows_every_way_and_escapes_every_name(two):
    page = render(diff(*two))
    outline = Outline(page)
    assert {card["data-way"] for card in outline.cards()} == set(WAYS)
    assert f"{NASTY}@0" in {card["data-name"] for card in outline.cards()}
    assert not {"script", "img"} & {tag for tag, _ in outline.tags}
    assert "<b>seam" not in page
    assert page.count("</style>") == 1
    assert "default-src 'none'" in page
    assert not [tag for tag, attrs in outline.tags if "src" in attrs or tag == "link"]


def test_the_page_keeps_its_limit_and_may_be_empty(two):
    cards = Outline(render(diff(*two), examples=1)).cards()
    ways = [card["data-way"] for card in cards]
    assert sorted(ways) == sorted(set(ways))
    assert "Both versions have the same content digest" in render(diff(two[0], two[0]))


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium in the PATH")
def test_a_browser_opens_the_page(two, tmp_path):
    path = write_page(diff(*two), tmp_path / "diff.html")
    arguments = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    shown, written = Outline(done.stdout), Outline(path.read_text())
    assert shown.cards() == written.cards()


def test_the_command_prints_text_or_json(two, tmp_path):
    folders = [str(made.dir) for made in two]
    shown = CliRunner().invoke(app, ["diff", *folders, "--examples", "1"])
    assert shown.exit_code == 0
    assert "gate decision changed: 2" in shown.stdout
    assert "B: rejected 1× <b>seam</b>" in shown.stdout
    assert "split changed: 3" in shown.stdout
    assert "… and 2 more" in shown.stdout
    arguments = ["diff", *folders, "--json", "--html", str(tmp_path / "page.html")]
    printed = CliRunner().invoke(app, arguments)
    content = json.loads(printed.stdout)
    assert printed.exit_code == 0
    assert content["counts"] == diff(*two).counts()
    assert len(content["split"]) == content["counts"]["split"] == 3
    assert (tmp_path / "page.html").is_file()
    same = CliRunner().invoke(app, ["diff", folders[0], folders[0]])
    assert "equal: both have the same content digest" in same.stdout

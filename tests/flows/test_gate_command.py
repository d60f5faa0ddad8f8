"""`anomalysmith gate --explain`: scores from stored pixels equal the recorded ones, in words."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_photos import draw_parts

from flows.commands.gate import find, gate_command
from flows.jobs.generate import generate
from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.dataset.version import open_version
from pipeline.errors import UserError
from pipeline.gate.checks import CHECKS
from pipeline.generation.explain import explain


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Path:
    """Three photographs, inpainted by Telea; some samples are rejected."""
    photos = draw_parts(tmp_path_factory.mktemp("photos") / "parts", 3)
    manifest = manifest_for_source(
        "folder", photos, store=str(tmp_path_factory.mktemp("store")), image_size=128,
        models={"inpaint": {"backend": "telea"}}, edits={"per_image": 4},
    )  # fmt: skip
    return generate(resolve(manifest, "parts"), workers=1).version_dir


def ids(version: Path) -> list[str]:
    return [record["id"] for *_, record in open_version(version).samples()]


def test_stored_pixels_give_the_recorded_scores_and_verdict(version):
    for wanted in ids(version)[:4]:
        explained = explain(find(wanted, version, None, None)).content
        assert explained["accepted"]
        assert explained["recorded"]["accepted"]
        assert explained["differs"] == {}
        assert explained["limits"] == open_version(version).index["limits"]
        known = {rule.reason for rule in CHECKS}
        assert {row["reason"] for row in explained["rules"]} <= known
        assert all(row["words"] in row["said"] for row in explained["rules"])


def test_a_kept_reject_is_explained_too(version):
    rejects = open_version(version).rejects
    assert rejects is not None
    record = rejects.record(0)
    explained = explain(find(record["id"], version, None, None)).content
    assert explained["recorded"] == {"accepted": False, "reason": record["reason"]}
    assert explained["accepted"] is False
    assert explained["reason"] == record["reason"]


def test_a_sample_is_found_in_the_newest_versions_of_a_store(version):
    wanted = ids(version)[0]
    found = find(wanted, None, None, version.parent.parent)
    assert found.version.dir == version
    with pytest.raises(UserError, match="a number needs --version"):
        find("0", None, None, version.parent.parent)
    with pytest.raises(UserError, match="no sample 'nobody'"):
        find("nobody", None, None, version.parent.parent)


def test_the_command_answers_in_words_or_json_and_draws(version, tmp_path, capsys):
    picture = tmp_path / "why.png"
    gate_command("0", version=version, picture=picture, as_json=True)
    content = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert content["id"] == ids(version)[0]
    assert Image.open(picture).size[0] == 4 * 128 + 3 * 8
    gate_command("0", version=version)
    text = capsys.readouterr().out
    assert "calibrated" in text
    assert "changed_fraction" in text


def test_an_older_version_is_explained_by_learning_from_it(version, tmp_path):
    """Its index knows nothing of limits, patches or rules of today."""
    old = shutil.copytree(version, tmp_path / version.name)
    index = json.loads((old / "index.json").read_text())
    expected = index.pop("limits")
    for name in [n for n in index["settings"]["gate"] if n.startswith(("patch", "max_patch"))]:
        del index["settings"]["gate"][name]
    (old / "index.json").write_text(json.dumps(index))
    explained = explain(find(ids(version)[0], old, None, None)).content
    assert explained["limits"] == expected
    assert any("learned from it just now" in note for note in explained["notes"])


def test_a_score_that_was_recorded_differently_is_pointed_out(version):
    found = find(ids(version)[0], version, None, None)
    found.shown.record["scores"] = {"delta_e": 1.0, "change_area": np.nan}
    explained = explain(found).content
    assert explained["differs"]["delta_e"]["recorded"] == 1.0

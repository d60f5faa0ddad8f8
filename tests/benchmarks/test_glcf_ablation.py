"""The ablation of GLCF: which rows differ, what is trained, what is only scored or reused."""

import json

import pytest
from small_results import small_version

from benchmarks import glcf_ablation
from benchmarks.glcf_ablation import FULL, PUBLISHED, ROWS
from detectors.models.glcf.networks import SemanticAggregation
from detectors.registry import assemble, configure
from pipeline.errors import UserError

QUICK = ["--profile", "tiny", "--steps", "2", "--set", "size=64", "batch_size=2"]


def test_every_row_but_two_is_another_detector():
    """`pss` equals `full`; rows that only score have the modules of `full`."""
    recipes = {row.name: configure("glcf", "tiny", row.changes).settings for row in ROWS}
    assert recipes[FULL] == recipes["pss"]
    assert len(set(map(str, recipes.values()))) == len(ROWS) - 1
    changed = {name for row in ROWS if not row.trains for name in row.changes}
    assert changed == {"global_map", "scale_weights", "branch_weights", "weights", "score"}
    for row in ROWS:
        detector = assemble("glcf", recipes[row.name], weights=False)
        assert isinstance(getattr(detector, "aggregation", None), SemanticAggregation) == (
            row.name != "no-bottleneck"
        )


def test_rows_of_weights_change_the_image_score():
    """`distance` pools maps without weights: under it those rows would only repeat `full`."""
    for row in ROWS:
        recipe = configure("glcf", "cpu", {**PUBLISHED, **row.changes})
        weighs = recipe.settings.score == "deviation" and not recipe.settings.regions
        assert weighs == (row.name != "distance")


def test_one_version_per_category(tmp_path):
    folders = [
        small_version(tmp_path / name, images=count, size=(64, 64)).dir
        for name, count in (("a", 3), ("b", 4))
    ]
    with pytest.raises(UserError, match="two versions are of tray"):
        glcf_ablation.opened(folders)


@pytest.mark.slow
def test_the_whole_command_trains_once_for_all_that_only_score(tmp_path, capsys):
    version = small_version(tmp_path / "store", images=10, tests=8, size=(64, 64))
    names = ["ps", "correspondence", "global", "calibrated", "clean-target"]
    arguments = ["--versions", str(version.dir), "--rows", *names, *QUICK,
                 "--out", str(tmp_path / "out")]  # fmt: skip
    glcf_ablation.main(arguments)
    first = capsys.readouterr()
    assert "# Ablation of GLCF" in first.out
    found = json.loads((tmp_path / "out" / "glcf.json").read_text())
    steps = {name: of["tray"]["0"]["steps"] for name, of in found.items()}
    assert steps == {"ps": 2, "correspondence": 0, "global": 0, "calibrated": 0, "clean-target": 2}
    trained = [path for path in (tmp_path / "out" / "runs").iterdir() if "scored" not in path.name]
    # These are full, ps and clean-target.
    assert len(trained) == 3
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(stamps) == 6
    glcf_ablation.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == stamps
    assert capsys.readouterr().out == first.out

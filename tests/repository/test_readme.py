"""README.md: its five lines run exactly as printed, and its map names every package there is."""

import re
from pathlib import Path

import cv2
import numpy as np

from scenes.render import render


def block(text: str, name: str) -> str:
    """The Python block between `<!-- name -->` and `<!-- /name -->`."""
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```\n<!-- /{name} -->", text, re.DOTALL)
    assert found, f"README.md has no block {name!r}"
    return found[1]


def test_the_five_lines_run_as_printed(root: Path, tmp_path: Path, monkeypatch) -> None:
    text = (root / "README.md").read_text()
    image_HW3 = render("tray", 0, size=256).image_HW3
    cv2.imwrite(str(tmp_path / "photo.png"), image_HW3[..., ::-1])
    monkeypatch.chdir(tmp_path)
    lines = block(text, "five lines")
    assert len(lines.splitlines()) == 5
    names: dict[str, object] = {}
    exec(compile(block(text, "setup"), "README.md", "exec"), names)
    exec(compile(lines, "README.md", "exec"), names)
    sample, verdict = names["sample"], names["verdict"]
    assert sample.label == 1
    assert (sample.pixels_HW3[~sample.change_HW] == names["image"][~sample.change_HW]).all()
    assert isinstance(names["rng"], np.random.Generator)
    assert verdict.accepted, verdict


def test_the_map_names_every_package(root: Path) -> None:
    text = (root / "README.md").read_text()
    shown = text[text.index("## Map of the code") :]
    rooms = ("pipeline", "detectors", "flows", "scenes", "pretraining", "benchmarks")
    packages = {
        path.parent.relative_to(root)
        for room in rooms
        for path in (root / room).rglob("__init__.py")
    }
    # One row stands for all detectors, and one for the packages of the smaller rooms.
    rows = [p for p in packages if p.parts[0] not in ("pretraining", "benchmarks")]
    rows = [p for p in rows if p.parts[:2] != ("detectors", "models")]
    missing = []
    for package in rows:
        name = "/".join(package.parts[1:]) or package.parts[0]
        if f"`{name}/`" not in shown:
            missing.append(str(package))
    assert missing == []

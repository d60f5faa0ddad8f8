"""Cache keys cover the code: what a stage imports is hashed into its key, or named as harmless."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_photos import draw_parts

from pipeline.generation.cache_keys import ANALYSIS_CODE, CALIBRATION_CODE, SAMPLES_CODE, files_of

MANIFEST = """
image_size: 128
models: {inpaint: {backend: telea}}
edits: {per_image: 2}
categories:
  parts: {source: folder, path: ./photos/parts}
"""
ROOT = Path(__file__).resolve().parents[2]
HARMLESS = {
    "pipeline/environment.py": "telemetry only",
    "pipeline/errors.py": "words only",
    "pipeline/utils": "files and words; a change of hashing changes every key by itself",
    "pipeline/models/weights": "the digest of the file that was found is in the key",
}


def imported(path: Path) -> set[Path]:
    """Files of the pipeline that this one imports, anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
            module = ROOT / node.module.replace(".", "/")
            below = [module / f"{alias.name}.py" for alias in node.names]
            found |= {p for p in (module.with_suffix(".py"), *below) if p.is_file()}
    return found


def reached(start: str) -> set[str]:
    """Files that the given one reaches through imports, as paths from the root."""
    seen: set[Path] = set()
    waiting = [ROOT / start]
    while waiting:
        path = waiting.pop()
        if path not in seen and not harmless(path):
            seen.add(path)
            waiting += imported(path)
    return {str(path.relative_to(ROOT)) for path in seen}


def harmless(path: Path) -> bool:
    name = str(path.relative_to(ROOT))
    return any(name == known or name.startswith(f"{known}/") for known in HARMLESS)


def hashed(code: tuple[str, ...]) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in files_of(code)}


@pytest.mark.parametrize(
    ("starts", "code"),
    [
        (("pipeline/models/foreground.py", "pipeline/models/proposals.py",
          "pipeline/models/small_sam/build.py"), ANALYSIS_CODE),
        (("pipeline/gate/calibration.py",), CALIBRATION_CODE),
        (("pipeline/edits/plan.py", "pipeline/edits/apply.py", "pipeline/gate/judge.py",
          "pipeline/rulebook/judge.py", "pipeline/models/inpaint/memo.py",
          "pipeline/models/inpaint/diffusion.py", "pipeline/models/inpaint/remote.py",
          "pipeline/models/inpaint/lama_cleaner.py"), SAMPLES_CODE),
    ],
    ids=["analysis", "calibration", "samples"],
)  # fmt: skip
def test_every_file_that_makes_results_is_part_of_their_key(starts, code):
    for start in starts:
        assert reached(start) <= hashed(code)


def test_words_run_nothing_again_and_code_runs_its_own_stages(root: Path, tmp_path: Path) -> None:
    """A docstring, a comment, a setting's description; then a number of the gate."""
    for room in ("pipeline", "detectors", "flows"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / room, tmp_path / room, ignore=skipped)
    (tmp_path / "weights").symlink_to(root / "weights")
    draw_parts(tmp_path / "photos" / "parts", 2)
    (tmp_path / "data_manifest.yaml").write_text(MANIFEST)
    run(tmp_path, "generate", "--workers", 1, "--json")

    gate = tmp_path / "pipeline" / "gate"
    settings = gate / "settings.py"
    reworded, count = re.subn(r'description="', 'description="reworded: ', settings.read_text())
    assert count > 5
    settings.write_text(reworded)
    for path in gate.glob("*.py"):
        path.write_text(path.read_text().replace('"""', '"""Reworded. ', 1) + "# a remark\n")
    planned = run(tmp_path, "plan", "--json")["categories"][0]
    assert planned["published"], planned

    checks = gate / "checks.py"
    checks.write_text(checks.read_text() + "\nANOTHER_NUMBER = 1\n")
    planned = run(tmp_path, "plan", "--json")["categories"][0]
    assert not planned["published"]
    assert planned["stages"]["analysis"] == {"cached": 2, "to_run": 0}
    assert planned["stages"]["samples"] == {"cached": 0, "to_run": 2}


def run(copy: Path, *words: Any) -> Any:
    """The JSON of a command of the copied program."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, words)],
        cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

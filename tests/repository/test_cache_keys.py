"""Cache keys cover the code: what a stage imports is hashed into its key, or named as harmless."""

import ast
from pathlib import Path

import pytest

from pipeline.generation.cache_keys import ANALYSIS_CODE, CALIBRATION_CODE, SAMPLES_CODE, files_of

ROOT = Path(__file__).resolve().parents[2]
HARMLESS = {
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

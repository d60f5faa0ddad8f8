"""Cache keys cover the code: what forging imports is hashed into a key, or named as harmless."""

import re
from pathlib import Path

import pytest

from pipeline import planning

PIPELINE = Path(planning.__file__).parent
HARMLESS = {
    "errors": "words only",
    "disk": "writes files whole or not at all, does not choose bytes",
    "digests": "a change there changes every key by itself",
    "weights": "the digest of the file that was found is in the key",
    "weights_catalogue": "the same",
    "weights_pins": "the same",
    "manifest_errors": "words only",
    "backoff": "asks for less at once, for the same answers",
    "outofmemory": "tries once more or raises, changes no number",
    "weights_loading": "refuses files or loads them, does not change numbers",
}


def imported(module: str) -> set[str]:
    """Modules of the pipeline that this one imports anywhere in its text."""
    text = (PIPELINE / f"{module}.py").read_text()
    found = set(re.findall(r"^\s*from pipeline\.(\w+) import", text, re.MULTILINE))
    for names in re.findall(r"^\s*from pipeline import ([\w, ]+)", text, re.MULTILINE):
        found |= {name.strip() for name in names.split(",")}
    return found


def reached(roots: tuple[str, ...]) -> set[str]:
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module not in seen and module not in HARMLESS:
            seen.add(module)
            waiting += imported(module)
    return seen


@pytest.mark.parametrize(
    ("roots", "hashed"),
    [
        (("foreground", "proposals", "small_sam"), planning.ANALYSIS_CODE),
        (
            (
                "edits",
                "compose",
                "gate",
                "inpaint",
                "lama",
                "lama_cleaner",
                "diffusion",
                "remote",
                "rules",
                "parts",
                "normality",
                "refill",
            ),
            planning.SAMPLES_CODE + planning.ANALYSIS_CODE,
        ),
        (("normality",), planning.NORMALITY_CODE),
    ],
    ids=["analysis", "samples", "normality"],
)
def test_every_module_that_makes_results_is_part_of_their_key(roots, hashed):
    assert reached(roots) <= set(hashed)

"""The product as numbers: one small rendered category, from pixels to scores, must stay what it is.

Dataset digests of both presets, the files of one export per format, and the scores of one small
trained detector, all made by the commands that users type. A change of structure or of words leaves
every number here alone. A change of pixels, records or formats does not, and says why in
`CHANGELOG.md` when it records them again:

    python tests/repository/test_golden.py

Networks give other low bits on another kind of processor, so values are recorded per kind. On one
that has none yet the test is skipped, and says how to record it.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).with_name("golden.json")
PRESETS = ("full", "paper")
FORMATS = ("mvtec", "anomalib", "coco", "hf", "webdataset", "fiftyone")
# Texts for people may be reworded; SHA256SUMS lists them too.
PROSE = {"README.md", "export.json", "SHA256SUMS"}
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
MANIFEST = """
version: 1
store: ./store
image_size: 128
edits: {per_image: 4, controls_per_image: 1}
# Named, so that the numbers do not depend on which official files this machine has.
models:
  foreground: {backend: bundled}
  features: {backend: bundled}
  inpaint: {backend: small_lama}
sources:
  rendered:
    kind: scenes
    path: ./scenes
    scenes: {train: 4, validation: 2, test_good: 2, per_defect: 1, size: 256}
categories:
  tray: {source: rendered}
"""


def test_the_product_is_what_it_was(tmp_path: Path) -> None:
    known = json.loads(GOLDEN.read_text())
    here = machine()
    if here not in known:
        pytest.skip(f"nothing recorded for {here}; record it with {Path(__file__).name}")
    assert measured(tmp_path) == known[here]


def machine() -> str:
    """What decides the low bits of a network's answer: the instructions, and the libraries."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    found = [name for name in INSTRUCTIONS if name in flags]
    libraries = [f"{name} {version(name)}" for name in ("torch", "onnxruntime", "numpy")]
    return ", ".join([*found, *libraries])


def measured(folder: Path) -> dict[str, Any]:
    """Every golden value, made in an empty folder."""
    manifest = folder / "data_manifest.yaml"
    manifest.write_text(MANIFEST)
    versions = {
        preset: run("generate", "--manifest", manifest, "--preset", preset, "--workers", 1)
        for preset in PRESETS
    }
    full = versions["full"]["version_dir"]
    exports = {}
    for name in FORMATS:
        out = folder / "export" / name
        run("export", full, "--to", name, "--out", out)
        exports[name] = digest_of_files(out)
    return {
        "versions": {preset: report["digest"] for preset, report in versions.items()},
        "exports": exports,
        "scores": scores(folder, Path(full)),
    }


def scores(folder: Path, dataset: Path) -> list[str]:
    """What SemRec, trained for a moment, gives to the first rendered test images."""
    out = folder / "checkpoint"
    run("train", "--detector", "semrec", "--profile", "tiny", "--steps", 4, "--size", 64,
        "--version", dataset, "--out", out, "--device", "cpu", "--seed", 0)  # fmt: skip
    images = sorted((folder / "scenes" / "tray" / "test").rglob("*.png"))[:4]
    report = run("predict", "--checkpoint", out, *images, "--device", "cpu")
    return [f"{image['score']:.8g}" for image in report["images"]]


def run(*words: Any) -> dict[str, Any]:
    """A command of the program in a process of its own, with one thread; its JSON."""
    program = [sys.executable, "-m", "flows.cli", *map(str, words), "--json"]
    done = subprocess.run(
        program, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer if "categories" not in answer else answer["categories"][0]


def digest_of_files(folder: Path) -> str:
    """SHA-256 over names and bytes of an export, texts for people left out."""
    hasher = hashlib.sha256()
    for name, content in files(folder):
        hasher.update(f"{name}\n{hashlib.sha256(content).hexdigest()}\n".encode())
    return hasher.hexdigest()


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in PROSE:
            yield path.relative_to(folder).as_posix(), path.read_bytes()


if __name__ == "__main__":
    recorded = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    with tempfile.TemporaryDirectory() as empty:
        recorded[machine()] = measured(Path(empty))
    GOLDEN.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")
    print(f"recorded {machine()} in {GOLDEN}")

"""Images and one finished run, shared by the tests of the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_photos import FAST, draw_parts

from flows import reference

GBK = b"\xb2\xe2\xca\xd4.png"


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    """Three photographs; the name of the last one is GBK, as in a zip from a Chinese system."""
    folder = draw_parts(tmp_path_factory.mktemp("photos") / "parts")
    (folder / "002.png").rename(folder / os.fsdecode(GBK))
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory, parts) -> dict[str, Any]:
    """One run of the program in a process of its own, shared by the tests that only look."""
    store = tmp_path_factory.mktemp("store")
    words = ["generate", "--source", f"folder:{parts}", "--store", store, *FAST, "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, words), "--json"],
        capture_output=True, text=True, cwd=reference.PAGE.parent.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {"store": store, "words": words, **json.loads(done.stdout)}

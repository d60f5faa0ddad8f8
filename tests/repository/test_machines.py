"""What is supported is said, is the same wherever it is said, and the rest ends in one line."""

import json
import re
import subprocess
import sys
import tomllib

import pytest

# What the standard library looks like where no file can be locked; `sys.platform` is all that our
# programs look at.
ELSEWHERE = """
import runpy, sys
sys.platform, sys.modules["fcntl"] = "win32", None
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)
"""


@pytest.mark.parametrize("words", ["flows.cli doctor", "flows.cli --help", "flows.demo"])
def test_another_system_is_one_line(root, words):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *words.split()],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("anomalysmith: expected Linux, this is win32")
    assert done.stdout == ""


def test_another_system_is_json_for_a_program(root):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "flows.cli", "gc", "--json"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == done.returncode == 2
    assert "win32" in answer["error"]


def test_the_supported_versions_are_the_same_everywhere(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if "Python :: 3." in c]
    assert named == ["3.11", "3.12", "3.13"]
    make = (root / "Makefile").read_text()
    assert re.search(r"^PYTHONS \?= (.*)$", make, re.M)[1].split() == [f"python{v}" for v in named]
    readme = (root / "README.md").read_text()
    assert "Linux with Python 3.11, 3.12 or 3.13" in readme
    assert project["requires-python"] == ">=3.11"


def test_test_pythons_says_which_version_is_missing(root):
    done = subprocess.run(
        ["make", "--silent", "test-pythons", "PYTHONS=python3.99"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "python3.99: not found" in done.stdout

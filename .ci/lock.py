"""Write requirements.lock from requirements.in: `make lock`, or `make lock UPGRADE=1`.

pip resolves without installing anything; the versions of the present lock are kept wherever
requirements.in still allows them, so that a change touches what it must and no more. `UPGRADE=1`
forgets the present lock. Only names and versions are written, so the lock names no package index.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
WISHES, LOCK = ROOT / "requirements.in", ROOT / "requirements.lock"
NO_DEPS = "#no-deps "
LINUX_ONLY = re.compile(r"^(nvidia-|cuda-|triton$)")  # the CUDA half of torch
HEADER = """\
# Made by `make lock` from requirements.in; do not edit. Complete, so it is installed with
# `pip install --no-deps -r requirements.lock` (docs/decisions/0002-lock-without-deps.md).
"""


def main() -> None:
    versions = resolve()
    for line in WISHES.read_text().splitlines():
        if line.startswith(NO_DEPS):
            name, version = line.removeprefix(NO_DEPS).strip().split("==")
            versions[name] = version
    LOCK.write_text(HEADER + "".join(f"{pin(n, v)}\n" for n, v in sorted(versions.items())))
    print(f"{LOCK.name}: {len(versions)} packages")


def resolve() -> dict[str, str]:
    """Ask pip what it would install; canonical name to version."""
    with tempfile.TemporaryDirectory() as folder:
        report, keep = Path(folder, "report.json"), Path(folder, "constraints.txt")
        keep.write_text(LOCK.read_text() if LOCK.exists() and not os.getenv("UPGRADE") else "")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "--report", str(report), "-c", str(keep), "-r", str(WISHES)]
        subprocess.run(command, check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"] for item in found}


def pin(name: str, version: str) -> str:
    marker = ' ; sys_platform == "linux"' if LINUX_ONLY.match(name) else ""
    return f"{name}=={version}{marker}"


if __name__ == "__main__":
    main()

"""Reads damaged copies of a version, for a number of trials; run as a process of its own.

    python tests/helpers/fuzz_shards.py VERSION_DIR SEED TRIALS

HDF5 is C code that may crash on corrupt files, so a test watches the process from outside.
Each trial damages one file, then opens, reads and verifies everything; only the project's own
errors are allowed. The number of each trial is printed before it begins.
"""

import faulthandler
import json
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.files import INDEX
from pipeline.dataset.verify import verify
from pipeline.dataset.version import open_version, versions
from pipeline.errors import AnomalysmithError
from pipeline.reports.gallery import render

# Limits of address space, and of time per trial: a damaged size must not allocate all memory.
GIGABYTES = 6
SECONDS = 60
# Values that replace one of the index.
ODD: tuple[Any, ...] = (None, -1, 0, 1.5, 2**40, 10**30, "", "../../x", "/etc/passwd", "x\0y",
                        [], {}, [[]], True, "\u202e<script>", 10_000 * "a")  # fmt: skip


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bytes changed, or the end cut off, or a stretch zeroed or repeated."""
    how, size = rng.integers(5), len(content)
    start = int(rng.integers(size))
    if how == 0:
        return content[:start]
    if how == 1:
        return content[:start] + bytes(min(64, size - start)) + content[start + 64 :]
    if how == 2:
        return content[:start] + content[start - 200 : start] + content[start:]
    damaged = bytearray(content)
    # HDF5's structures are near the beginning of a file and between arrays, so half of the changes
    # go there.
    limit = size if how == 3 else min(size, 4096)
    for place in rng.integers(limit, size=rng.integers(1, 9)):
        damaged[place] ^= int(rng.integers(1, 256))
    return bytes(damaged)


def mutated(index: Any, rng: np.random.Generator) -> Any:
    """The same tree with one value replaced, removed or moved."""
    path: list[Any] = []
    here = index
    while isinstance(here, dict | list) and here and (not path or rng.random() < 0.75):
        path.append(list(here)[rng.integers(len(here))] if isinstance(here, dict)
                    else int(rng.integers(len(here))))  # fmt: skip
        here = here[path[-1]]
    holder = index
    for key in path[:-1]:
        holder = holder[key]
    if rng.random() < 0.25:
        del holder[path[-1]]
    else:
        holder[path[-1]] = ODD[rng.integers(len(ODD))]
    return index


def trial(version: Path, work: Path, rng: np.random.Generator) -> None:
    """Damage one file of a copy and read all of it."""
    copy = work / version.parent.name / version.name
    shutil.copytree(version, copy)
    names = sorted(path.name for path in copy.iterdir() if path.is_file())
    shards = [name for name in names if name.endswith(".h5")]
    name = shards[rng.integers(len(shards))] if rng.random() < 0.6 else INDEX
    path = copy / name
    if name == INDEX and rng.random() < 0.7:
        path.write_text(json.dumps(mutated(json.loads(path.read_text()), rng)))
    else:
        path.write_bytes(flipped(path.read_bytes(), rng))
    for read in (verify, everything, lambda folder: versions(folder.parent.parent, "tray")):
        with suppress(AnomalysmithError):
            read(copy)
    shutil.rmtree(work / version.parent.name)


def everything(folder: Path) -> None:
    """Read what readers, trainers and the gallery read."""
    accept_sizes(folder / INDEX)
    version = open_version(folder)
    for some in (version.images(), version.samples(), version.test_images()):
        with suppress(AnomalysmithError):
            for _ in some:
                pass
    for shard in version.shards:
        shard.batch(range(shard.samples))
    version.attempts()
    render(version, 12)


def accept_sizes(path: Path) -> None:
    """Let the index state the actual sizes, so a truncated file is read instead of rejected."""
    try:
        index = json.loads(path.read_bytes())
        for shard in index["shards"]:
            shard["bytes"] = path.with_name(shard["file"]).stat().st_size
        path.write_text(json.dumps(index))
    except (ValueError, KeyError, TypeError, OSError):
        return


def main() -> None:
    version, seed, trials = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with tempfile.TemporaryDirectory() as work:
        for number in range(seed, seed + trials):
            print(number, flush=True)
            signal.alarm(SECONDS)
            try:
                trial(version, Path(work), np.random.default_rng(number))
            except Exception as error:
                shutil.rmtree(Path(work) / version.parent.name, ignore_errors=True)
                place = traceback.extract_tb(error.__traceback__)[-1]
                found = f"{type(error).__name__}: {error} at {place.filename}:{place.lineno}"
                print("FOUND", " ".join(found.split())[:300], flush=True)
    print("done")


if __name__ == "__main__":
    main()

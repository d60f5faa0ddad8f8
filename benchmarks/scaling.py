"""What Prefect and its task runners cost and give: images per second on one and two workers.

    python -m benchmarks.scaling [--images N] [--runner NAME]...

The baseline is `flows.jobs.generate` on one thread: the same images, the same models, an empty
store. The flow runs under Prefect's own server on this machine. Starting that server is not
counted, as it runs all day; everything else is, and nothing is subtracted: planning, task runs,
starting the workers, loading the models in each of them, packing, and the check of every byte,
which the flow adds (its time is given on its own). Each run has a process of its own, so none
inherits warm models. The yardstick runs before and after the others, so it shows how quiet the
machine was; where others compute meanwhile, seconds of CPU say more than seconds of wall clock.
They count the flow's process and its workers, and the server is left out.
"""

from flows import environment as _quiet  # noqa: F401  isort: skip  first: telemetry off

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNNERS = ("threads", "processes", "dask", "ray")
BATCH = 16
CLAIMED = 0.05
"""Most that the orchestration may cost, as a share of the time without it."""


def main(images: int = 96, runners: tuple[str, ...] = RUNNERS) -> list[dict[str, Any]]:
    """Print the table and return its rows."""
    from prefect.testing.utilities import prefect_test_harness

    from scenes.loco import write_loco

    rows = []
    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=180):
        validation = max(1, images // 5)
        root = write_loco(
            Path(folder), "bag", train=images - validation, validation=validation, test_good=1,
            per_defect=0, size=256,
        )  # fmt: skip
        rows.append(_measured(root, "local", 1))
        for runner in runners:
            rows += [_measured(root, runner, workers) for workers in (1, 2)]
        rows.append(_measured(root, "local", 1))
    if len({row["digest"] for row in rows}) != 1:
        raise SystemExit(f"the digests differ: {[(r['runner'], r['digest'][:8]) for r in rows]}")
    _table(rows, images)
    return rows


def _measured(root: Path, runner: str, workers: int) -> dict[str, Any]:
    """One run in a process of its own, with an empty store."""
    with tempfile.TemporaryDirectory() as store:
        words = [sys.executable, "-m", "benchmarks.scaling", "--one", runner, str(workers)]
        done = subprocess.run(
            [*words, str(root), store], env=_environment(), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{runner} x {workers} failed:\n{done.stderr[-3000:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{runner} x {workers}: {row['seconds']:.1f} s, CPU {row['cpu']:.1f} s", file=sys.stderr)
    return row | {"runner": runner, "workers": workers}


def _environment() -> dict[str, str]:
    """The test server's address, one thread per worker."""
    from prefect.settings import PREFECT_API_URL

    here = str(Path(__file__).resolve().parent.parent)
    url = PREFECT_API_URL.value()
    return {**os.environ, "PREFECT_API_URL": str(url), "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}


def one(runner: str, workers: int, root: Path, store: Path) -> dict[str, Any]:
    """Run once and say how long it took, and how much of that was the flow's check of its bytes."""
    from flows.jobs.category_options import Choices, settings_of
    from flows.jobs.generate import generate
    from pipeline.dataset.verify import verify

    source = f"mvtec_loco:{root}"
    if runner == "local":
        settings = settings_of(Choices(source=source, store=store))[0]
        started, before = time.perf_counter(), _cpu_seconds()
        report = generate(settings, workers=workers).to_json()
    else:
        from flows.generate import generate_anomalies

        started, before = time.perf_counter(), _cpu_seconds()
        (report,) = generate_anomalies(
            source=source, store=str(store), workers=workers, batch_size=BATCH,
            runner=runner,  # type: ignore[arg-type]
        )  # fmt: skip
    seconds, cpu = time.perf_counter() - started, _cpu_seconds() - before
    started = time.perf_counter()
    verify(Path(report["version_dir"])).raise_if_bad()
    checking = time.perf_counter() - started
    cache = [p.stat().st_size for p in (store / ".cache").rglob("*.npz")]
    return {
        "seconds": seconds, "cpu": cpu, "verify": checking, "images": report["images"],
        "digest": report["digest"], "cache_bytes": sum(cache), "cache_files": len(cache),
        "timings": (store / ".cache" / "timings.jsonl").read_text().splitlines(),
    }  # fmt: skip


def _cpu_seconds() -> float:
    """User and system time of this process and of children that have ended."""
    return sum(os.times()[:4])


def _table(rows: list[dict[str, Any]], images: int) -> None:
    first, last = rows[0]["seconds"], rows[-1]["seconds"]
    yardstick = (first + last) / 2
    print(f"\n## Scaling: {images} images of 256 px, {BATCH} per task, {os.cpu_count()} CPUs\n")
    print(f"The yardstick before and after: {first:.1f} and {last:.1f} s.\n")
    cpu = (rows[0]["cpu"] + rows[-1]["cpu"]) / 2
    print("| runner | workers | s | images/s | times | CPU s | added: wall, CPU; check of bytes |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    own = f"{yardstick:.1f} | {images / yardstick:.2f} | 1.00 | {cpu:.1f}"
    print(f"| none (`flows.jobs.generate`) | 1 | {own} | |")
    for row in rows[1:-1]:
        speed, cost = yardstick / row["seconds"], ""
        if row["workers"] == 1:
            added, check = row["seconds"] / yardstick - 1, row["verify"] / yardstick
            cost = f"{added:+.1%}, {row['cpu'] / cpu - 1:+.1%}; {check:.1%}"
        rate = images / row["seconds"]
        print(f"| {row['runner']} | {row['workers']} | {row['seconds']:.1f} | {rate:.2f} | "
              f"{speed:.2f} | {row['cpu']:.1f} | {cost} |")  # fmt: skip
    size = rows[0]["cache_bytes"] / images / 1e6
    print(f"\nStage cache: {size:.2f} MB and {rows[0]['cache_files'] / images:.1f} files an image.")
    for line in rows[0]["timings"]:
        timing = json.loads(line)
        print(f"{timing['stage']}: {timing['seconds']:.4f} s per unit, {timing['units']} units")
    for row in rows[1:-1]:
        if (row["runner"], row["workers"]) == ("threads", 1):
            cost = row["seconds"] / yardstick - 1
            print(f"Orchestration, batches of {BATCH}: {cost:+.1%} of the time, claimed at most "
                  f"{CLAIMED:.0%}: {'yes' if cost <= CLAIMED else 'NO'}")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        words = sys.argv[2:]
        print(json.dumps(one(words[0], int(words[1]), Path(words[2]), Path(words[3]))))
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("--images", type=int, default=96)
        parser.add_argument("--runner", action="append", choices=RUNNERS)
        asked = parser.parse_args()
        main(asked.images, tuple(asked.runner or RUNNERS))

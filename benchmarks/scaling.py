"""Cost and gain of Prefect and its task runners: images per second on one and two workers.

    python -m benchmarks.scaling [--images N] [--runner NAME]...

The baseline is `flows.jobs.generate` on one thread: the same images, the same models, an empty
store. The flow runs with a local Prefect server. Starting that server is not counted, as it runs
permanently; everything else is, and nothing is subtracted: planning, task runs, starting the
workers, loading the models in each of them, packing, and the check of every byte, which the flow
adds (its time is listed separately). Each run has a process of its own, so none inherits warm
models. The baseline runs before and after the others and shows how constant the load of the machine
was; on a busy machine CPU time is more meaningful than wall time. CPU time covers the flow's
process and its workers, not the server.
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
# Images per task.
BATCH = 16
# The largest share of the baseline's time that orchestration is claimed to cost.
CLAIMED = 0.05


def main(images: int = 96, runners: tuple[str, ...] = RUNNERS) -> list[dict[str, Any]]:
    """Print the table and return its rows."""
    # Imported here: a measured run is this module in a process of its own and needs no test server.
    from prefect.testing.utilities import prefect_test_harness

    from scenes.loco import write_loco

    rows = []
    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=180):
        # A fifth of the images calibrates the gate.
        validation = max(1, images // 5)
        root = write_loco(
            Path(folder), "bag", train=images - validation, validation=validation, test_good=1,
            per_defect=0, size=256,
        )  # fmt: skip
        rows.append(_measured(root, "local", 1))
        for runner in runners:
            rows += [_measured(root, runner, workers) for workers in (1, 2)]
        rows.append(_measured(root, "local", 1))
    # All runners must produce the same version.
    if len({row["digest"] for row in rows}) != 1:
        raise SystemExit(f"the digests differ: {[(r['runner'], r['digest'][:8]) for r in rows]}")
    _table(rows, images)
    return rows


def _measured(root: Path, runner: str, workers: int) -> dict[str, Any]:
    """One run in a process of its own, with an empty store."""
    with tempfile.TemporaryDirectory() as store:
        arguments = [sys.executable, "-m", "benchmarks.scaling", "--one", runner, str(workers)]
        # A fresh process: no models, caches or task runners of an earlier run.
        done = subprocess.run(
            [*arguments, str(root), store], env=_environment(), capture_output=True, text=True,
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
    """Run once; seconds in total, of CPU, and of the check of all bytes that the flow includes."""
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
    # Repeat the flow's check by itself, to know its share of the time.
    verify(Path(report["version_dir"])).raise_if_bad()
    checking = time.perf_counter() - started
    # The size of the stage cache is reported per image.
    cache = [p.stat().st_size for p in (store / ".cache").rglob("*.npz")]
    return {
        "seconds": seconds, "cpu": cpu, "verify": checking, "images": report["images"],
        "digest": report["digest"], "cache_bytes": sum(cache), "cache_files": len(cache),
        "timings": (store / ".cache" / "timings.jsonl").read_text().splitlines(),
    }  # fmt: skip


def _cpu_seconds() -> float:
    """User and system time of this process and of children that have ended."""
    # Own user and system time, and those of children that have been waited for.
    return sum(os.times()[:4])


def _table(rows: list[dict[str, Any]], images: int) -> None:
    first, last = rows[0]["seconds"], rows[-1]["seconds"]
    baseline = (first + last) / 2
    print(f"\n## Scaling: {images} images of 256 px, {BATCH} per task, {os.cpu_count()} CPUs\n")
    print(f"The baseline before and after: {first:.1f} and {last:.1f} s.\n")
    # The first and the last row are the baseline; their mean allows for drift of the machine's
    # load.
    cpu = (rows[0]["cpu"] + rows[-1]["cpu"]) / 2
    print("| runner | workers | s | images/s | times | CPU s | added: wall, CPU; check of bytes |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    own = f"{baseline:.1f} | {images / baseline:.2f} | 1.00 | {cpu:.1f}"
    print(f"| none (`flows.jobs.generate`) | 1 | {own} | |")
    for row in rows[1:-1]:
        speed, cost = baseline / row["seconds"], ""
        # With one worker the difference to the baseline is the cost of orchestration.
        if row["workers"] == 1:
            added, check = row["seconds"] / baseline - 1, row["verify"] / baseline
            cost = f"{added:+.1%}, {row['cpu'] / cpu - 1:+.1%}; {check:.1%}"
        # "times" is the speed relative to the baseline.
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
            cost = row["seconds"] / baseline - 1
            print(f"Orchestration, batches of {BATCH}: {cost:+.1%} of the time, claimed at most "
                  f"{CLAIMED:.0%}: {'yes' if cost <= CLAIMED else 'NO'}")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        arguments = sys.argv[2:]
        print(
            json.dumps(one(arguments[0], int(arguments[1]), Path(arguments[2]), Path(arguments[3])))
        )
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("--images", type=int, default=96)
        parser.add_argument("--runner", action="append", choices=RUNNERS)
        args = parser.parse_args()
        main(args.images, tuple(args.runner or RUNNERS))

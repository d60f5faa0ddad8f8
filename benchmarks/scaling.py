"""Cost and gain of workers: two forks, Dask and Ray with two processes, and Prefect's flow.

    python -m benchmarks.scaling [--images N] [--runner NAME]...

The baseline is `flows.jobs.generate` on one thread: the same images, the same models, an empty
store. It runs first and last, which shows how constant the load of the machine was; on a busy
machine CPU time is more meaningful than wall time. A flow runs with a local Prefect server.
Starting that server is not counted, as it runs permanently, and neither is Prefect's import, which
is done before the flow is asked to run and has a row of its own; everything else is, and nothing is
subtracted: planning, task runs, starting the workers, loading the models in each of them, packing,
and the check of every byte, which the flow adds. Each run has a process of its own, so none
inherits warm models. CPU time covers that process and its workers, not the server.

48 images take about eight minutes on two idle cores. `--runner` leaves the other runners out.
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
from typing import Any, cast

# What runs between the two baselines: the plain run on two workers, then flows.
RUNS = (("local", 2), ("threads", 1), ("threads", 2), ("processes", 2), ("dask", 2), ("ray", 2))
# Runners that have a claim: the others run when they are asked for.
RUNNERS = ("local", "threads", "processes", "dask", "ray")
USUAL = (("local", 2), ("threads", 1), ("dask", 2), ("ray", 2))
# How many times as fast as one thread, and the share of its time that the flow may add.
AIMS = {("local", 2): 1.8, ("dask", 2): 1.6, ("ray", 2): 1.6}
MOST_ADDED = 0.05


def main(images: int = 48, runners: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Print the tables and return a row per run."""
    # Imported here: a measured run is this module in a process of its own and needs no test server.
    from prefect.testing.utilities import prefect_test_harness

    from scenes.loco import write_loco

    wanted = [run for run in RUNS if run[0] in runners] if runners else USUAL
    rows = []
    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=180):
        # A fifth of the images calibrates the gate.
        validation = max(1, images // 5)
        root = write_loco(
            Path(folder), "bag", train=images - validation, validation=validation, test_good=1,
            per_defect=0, size=256,
        )  # fmt: skip
        for runner, workers in (("local", 1), *wanted, ("local", 1)):
            rows.append(_measured(root, runner, workers))
    # All runners must produce the same version.
    if len({row["digest"] for row in rows}) != 1:
        raise SystemExit(f"the digests differ: {[(r['runner'], r['digest'][:8]) for r in rows]}")
    _table(rows, images)
    _claims(rows, images)
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
    """Run once; seconds in total, of CPU, of Prefect's import and of the check of all bytes."""
    from flows.jobs.category_options import Choices, settings_of
    from flows.jobs.generate import generate
    from pipeline.dataset.verify import verify

    source, imported = f"mvtec_loco:{root}", 0.0
    if runner == "local":
        settings = settings_of(Choices(source=source, store=store))[0]
        started, before = time.perf_counter(), _cpu_seconds()
        report = generate(settings, workers=workers).to_json()
    else:
        started = time.perf_counter()
        from flows.generate import generate_anomalies

        imported = time.perf_counter() - started
        started, before = time.perf_counter(), _cpu_seconds()
        (report,) = generate_anomalies(
            source=source, store=str(store), workers=workers,
            runner=cast(Any, runner),
        )  # fmt: skip
    seconds, cpu = time.perf_counter() - started, _cpu_seconds() - before
    prefect = "prefect" in sys.modules
    started = time.perf_counter()
    # Repeat the flow's check by itself, to know its share of the time.
    verify(Path(report["version_dir"])).raise_if_bad()
    checking = time.perf_counter() - started
    # The size of the stage cache is reported per image.
    cache = [p.stat().st_size for p in (store / ".cache").rglob("*.npz")]
    timings = (store / ".cache" / "timings.jsonl").read_text().splitlines()
    return {
        "seconds": seconds, "cpu": cpu, "verify": checking, "images": report["images"],
        "digest": report["digest"], "cache_bytes": sum(cache), "cache_files": len(cache),
        "imported": imported, "prefect": prefect, "timings": list(map(json.loads, timings)),
    }  # fmt: skip


def _cpu_seconds() -> float:
    """User and system time of this process and of children that have ended."""
    # Own user and system time, and those of children that have been waited for.
    return sum(os.times()[:4])


def _baseline(rows: list[dict[str, Any]], what: str) -> float:
    """The mean of the first and the last run, which allows for drift of the machine's load."""
    return float(rows[0][what] + rows[-1][what]) / 2


def _table(rows: list[dict[str, Any]], images: int) -> None:
    """A row per run, then the stages of the baseline."""
    baseline, cpu = _baseline(rows, "seconds"), _baseline(rows, "cpu")
    print(f"\n## Scaling: {images} images of 256 px, {os.cpu_count()} CPUs")
    print(f"\nThe baseline: {rows[0]['seconds']:.1f} s first, {rows[-1]['seconds']:.1f} s last.\n")
    print("| runner | workers | s | images/s | times | CPU s |\n|---|---:|---:|---:|---:|---:|")
    own = f"{baseline:.1f} | {images / baseline:.2f} | 1.00 | {cpu:.1f}"
    print(f"| none (`flows.jobs.generate`) | 1 | {own} |")
    for row in rows[1:-1]:
        name = "none" if row["runner"] == "local" else row["runner"]
        # "times" is the speed relative to the baseline.
        print(f"| {name} | {row['workers']} | {row['seconds']:.1f} | "
              f"{images / row['seconds']:.2f} | {baseline / row['seconds']:.2f} | "
              f"{row['cpu']:.1f} |")  # fmt: skip
    size = rows[0]["cache_bytes"] / images / 1e6
    print(f"\nStage cache: {size:.2f} MB and {rows[0]['cache_files'] / images:.1f} files an image.")
    for timing in rows[0]["timings"]:
        print(f"{timing['stage']}: {timing['seconds']:.4f} s per unit, {timing['units']} units")


def _claims(rows: list[dict[str, Any]], images: int) -> None:
    """A row per claim: value, aim, and whether it holds."""
    baseline = _baseline(rows, "seconds")
    print("\n| what | value | aim | met |\n|---|---:|---:|---|")
    for row in rows[1:-1]:
        aim, times = AIMS.get((row["runner"], row["workers"])), baseline / row["seconds"]
        if aim:
            who = "workers" if row["runner"] == "local" else f"processes of {row['runner']}"
            what = f"two {who}, {images} images, times one thread"
            print(f"| {what} | {times:.2f} | ≥ {aim} | {'yes' if times >= aim else 'NO'} |")
        if (row["runner"], row["workers"]) == ("threads", 1):
            added, check = row["seconds"] / baseline - 1, row["verify"] / baseline
            met = "yes" if added <= MOST_ADDED else "NO"
            what = f"flow on one thread over the plain run (its check of all bytes: {check:.1%})"
            print(f"| {what} | {added:+.1%} | ≤ {MOST_ADDED:.0%} | {met} |")
            print(f"| Prefect's import, before the flow's clock starts | {row['imported']:.1f} s "
                  "| – | – |")  # fmt: skip
    plain = any(row["prefect"] for row in rows if row["runner"] == "local")
    print(f"| the plain run imports Prefect | {plain} | False | {'NO' if plain else 'yes'} |")
    # What is not spread over workers bounds every speed-up.
    serial = sum(
        timing["seconds"] * timing["units"]
        for timing in rows[0]["timings"]
        if timing["stage"] in ("normality", "version")
    )
    share = serial / rows[0]["seconds"]
    print(f"| serial share (calibration, packing, audit, gallery); two workers reach at most | "
          f"{share:.0%}; {1 / (share + (1 - share) / 2):.2f} | – | – |")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        arguments = sys.argv[2:]
        print(
            json.dumps(one(arguments[0], int(arguments[1]), Path(arguments[2]), Path(arguments[3])))
        )
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("--images", type=int, default=48)
        parser.add_argument("--runner", action="append", choices=RUNNERS)
        args = parser.parse_args()
        main(args.images, tuple(args.runner or ()))

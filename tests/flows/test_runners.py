"""The same dataset from threads, processes, Dask and Ray, also when a worker is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from small_photos import draw_parts

from flows import generate as flow_module
from flows.jobs.category_options import Choices, settings_of
from flows.jobs.generate import generate, others_to_analyse
from flows.orchestration.runners import ADDRESS, MAX_DEATHS, RUNNER, Pool, chosen, is_loss
from flows.orchestration.worker_check import require_alike, software_here
from pipeline.errors import UserError
from pipeline.generation.cache_keys import PlannedImage

IMAGES = 8


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runners")
    draw_parts(folder / "parts", IMAGES)
    (folder / "manifest.yaml").write_text(
        "image_size: 96\nmodels: {inpaint: {backend: telea}}\nedits: {per_image: 2}\n"
        "sources: {parts: {kind: folder, path: parts}}\ncategories: {parts: {source: parts}}\n"
    )
    return folder / "manifest.yaml"


@pytest.fixture(scope="module")
def digest(manifest, tmp_path_factory) -> str:
    """What one process without Prefect makes."""
    store = tmp_path_factory.mktemp("local")
    return generate(settings_of(Choices(manifest=manifest, store=store))[0], workers=1).digest


def run(manifest: Path, store: Path, **how: Any) -> dict[str, Any]:
    (made,) = flow_module.generate_anomalies(
        manifest=str(manifest), store=str(store), batch_size=2, workers=2, **how
    )
    return made


def test_threads_make_what_one_process_makes(server, manifest, digest, tmp_path):
    made = run(manifest, tmp_path, runner="threads")
    assert (made["digest"], made["cached"]) == (digest, False)


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["processes", "dask", "ray"])
def test_every_runner_makes_the_same_dataset(
    server, manifest, digest, tmp_path, monkeypatch, root, runner
):
    monkeypatch.setenv("PYTHONPATH", str(root))  # Ray's workers inherit nothing else
    monkeypatch.setenv(RUNNER, runner)
    made = run(manifest, tmp_path)
    assert (made["digest"], made["cached"]) == (digest, False)
    assert run(manifest, tmp_path)["cached"]


@pytest.mark.slow
def test_a_killed_dask_worker_costs_its_batch_and_not_the_run(
    server, manifest, digest, tmp_path, dask_cluster
):
    address, workers = dask_cluster
    samples = tmp_path / ".cache" / "samples"
    left = kill_when(workers[0], lambda: IMAGES - len(list(samples.rglob("*.npz"))), IMAGES)
    made = run(manifest, tmp_path, runner="dask", runner_address=address)
    assert workers[0].wait(60) == -signal.SIGKILL
    assert workers[1].poll() is None
    assert 0 < left[0] < IMAGES, "it was not killed in mid-run"
    assert (made["digest"], made["images"]) == (digest, IMAGES)


@pytest.mark.slow
def test_a_killed_process_of_the_pool_costs_its_batch_and_not_the_run(
    server, manifest, digest, tmp_path
):
    samples = tmp_path / ".cache" / "samples"
    killed: list[int] = []

    def kill_one() -> None:
        while not list(samples.rglob("*.npz")):
            time.sleep(0.02)
        child = next(c for c in multiprocessing.active_children() if c.pid not in killed)
        killed.append(child.pid or 0)
        os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    made = run(manifest, tmp_path, runner="processes")
    killer.join(10)
    assert killed
    assert (made["digest"], made["images"]) == (digest, IMAGES)


@pytest.fixture
def dask_cluster(root) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """A scheduler and two workers, as on three machines that see one store."""
    environment = {**os.environ, "PYTHONPATH": str(root)}

    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
            env=environment, cwd=root, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    started = [start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")]
    try:
        address = line_with(started[0], "Scheduler at:").split()[-1]
        one = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        started += [start("worker", address, *one) for _ in range(2)]
        for worker in started[1:]:
            line_with(worker, "Registered to:")
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def line_with(process: subprocess.Popen[str], words: str) -> str:
    """The first line of a program's log that holds some words; the rest is read and dropped."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return line
    raise AssertionError("".join(said))


def kill_when(process: subprocess.Popen[str], left: Callable[[], int], of: int) -> list[int]:
    """SIGKILL a process as soon as something is done; how much was left then, once it happened."""
    seen: list[int] = []

    def watch() -> None:
        while left() == of:
            time.sleep(0.02)
        seen.append(left())
        process.kill()

    threading.Thread(target=watch, daemon=True).start()
    return seen


class Runner:
    """Stands for a pool whose processes die so many times."""

    deaths = 0
    started = 0

    def __enter__(self) -> "Runner":
        type(self).started += 1
        return self

    def __exit__(self, *how: Any) -> None:
        pass

    def submit(self, task: Any, batch: dict[str, Any]) -> "Runner":
        self.task, self.batch = task, batch
        return self

    def result(self) -> Any:
        if type(self).deaths:
            type(self).deaths -= 1
            raise BrokenExecutor("a process died")
        return self.task(**self.batch)


def test_a_batch_is_submitted_again_when_its_process_dies_but_not_for_ever():
    def double(number: int) -> int:
        return 2 * number

    Runner.deaths, Runner.started = MAX_DEATHS - 1, 0
    with Pool(Runner) as pool:
        assert pool.spread(double, [{"number": 4}]) == [8]
    assert Runner.started == MAX_DEATHS
    Runner.deaths = MAX_DEATHS
    with Pool(Runner) as pool, pytest.raises(BrokenExecutor):
        pool.spread(double, [{"number": 4}])


class Frail(Runner):
    """Stands for a pool that breaks when one batch is finished, every time."""

    def submit(self, task: Any, batch: dict[str, Any]) -> "Frail":
        future = Frail()
        future.task, future.batch, future.pool = task, batch, self
        return future

    def result(self) -> Any:
        if vars(self.pool).setdefault("finished", False):
            raise BrokenExecutor("a process died")
        self.pool.finished = True
        return self.task(**self.batch)


def test_a_long_run_outlives_any_number_of_deaths_between_finished_batches():
    Frail.started = 0
    batches = [{"number": -number} for number in range(2 * MAX_DEATHS)]
    with Pool(Frail) as pool:
        assert pool.spread(abs_of, batches) == list(range(2 * MAX_DEATHS))
    assert Frail.started == len(batches)


def abs_of(number: int) -> int:
    return abs(number)


def test_an_error_drops_what_waits_and_the_pool_starts_anew():
    def fail(number: int) -> None:
        raise UserError("a user error")

    Runner.deaths, Runner.started = 0, 0
    with Pool(Runner) as pool:
        with pytest.raises(UserError):
            pool.spread(fail, [{"number": 1}])
        assert pool.spread(abs_of, [{"number": -1}]) == [1]
    assert Runner.started == 2


def test_what_is_queued_ahead_is_neither_waited_for_nor_missed():
    class Queue(Runner):
        queued: ClassVar[list[int]] = []

        def submit(self, task: Any, batch: dict[str, Any]) -> "Queue":
            type(self).queued.append(batch["number"])
            future = Queue()
            future.task, future.batch = task, batch
            return future

    def known(number: int) -> int:
        return {1: 10}[number]

    Runner.deaths = 0
    with Pool(Queue) as pool:
        # The second one would raise, if it were asked for its result.
        assert pool.spread(known, [{"number": 1}], ahead=[{"number": 2}]) == [10]
    assert Queue.queued == [1, 2]


@pytest.mark.parametrize(("images", "most", "workers"), [(48, 8, 2), (5, 8, 1), (300, 16, 4)])
def test_batches_shrink_so_that_workers_end_together(images, most, workers):
    sizes = flow_module.batch_sizes(images, most, workers)
    assert sum(sizes) == images
    assert max(sizes) <= most
    assert sizes == sorted(sizes, reverse=True)
    # What a worker begins never exceeds what is left for it, so it ends last by one image at most.
    for number, size in enumerate(sizes):
        assert size == 1 or size * workers <= sum(sizes[number:])
    assert sizes[-workers:] == [1] * workers
    assert flow_module.batch_sizes(0, most, workers) == []


def test_one_worker_analyses_nothing_beside_the_calibration():
    images = [PlannedImage(f"{n}.png", f"/{n}.png", "train", str(n)) for n in range(3)]
    assert others_to_analyse(images, images[:1], 2) == images[1:]
    assert others_to_analyse(images, images[:1], 1) == []
    # Without a calibration each image is analysed where its samples are made.
    assert others_to_analyse(images, (), 2) == []


def test_a_pool_starts_with_its_first_batch():
    Runner.started = 0
    with Pool(Runner) as pool:
        assert pool.spread(print, []) == []
    assert Runner.started == 0


def test_what_a_task_raises_is_no_loss():
    from distributed import KilledWorker
    from ray.exceptions import WorkerCrashedError

    assert is_loss(WorkerCrashedError())
    assert is_loss(KilledWorker("generate", None, 3))
    assert not is_loss(UserError("a user error"))
    assert not is_loss(OSError("a disk"))


def test_the_runner_is_named_by_the_run_or_by_the_environment(monkeypatch):
    monkeypatch.delenv(RUNNER, raising=False)
    monkeypatch.delenv(ADDRESS, raising=False)
    assert chosen(None, None) == ("threads", None)
    monkeypatch.setenv(RUNNER, "dask")
    monkeypatch.setenv(ADDRESS, "tcp://scheduler:8786")
    assert chosen(None, None) == ("dask", "tcp://scheduler:8786")
    assert chosen("processes", None) == ("processes", None)
    with pytest.raises(UserError, match="slurm"):
        chosen("slurm", None)
    with pytest.raises(UserError, match="own machine"):
        chosen("threads", "tcp://scheduler:8786")


def test_a_worker_that_differs_rejects_its_batch():
    require_alike(software_here())
    with pytest.raises(UserError, match=r"differs from .* numpy \S+ instead of 0\.0"):
        require_alike(software_here() | {"numpy": "0.0"})


def test_a_worker_uses_the_digest_of_the_code_that_it_started_with(root):
    """However late its first batch comes, it looks at no file that may be newer."""
    words = (
        "from pathlib import Path; from flows.orchestration import worker_check; "
        "from pipeline.generation import cache_keys; "
        'Path.read_bytes = None; print(worker_check.software_here()["anomalysmith\'s code"]); '
        "[cache_keys.code_digest(f) for f in (cache_keys.ANALYSIS_CODE, cache_keys.SAMPLES_CODE)]"
    )
    run = subprocess.run(
        [sys.executable, "-c", words], cwd=root, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.strip()) == 16

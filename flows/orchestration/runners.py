"""Task runners for the batches of a flow run: threads, processes, a Dask or a Ray cluster.

Results are passed through the store alone, so every runner gives the same dataset, and workers on
other machines only need the checkout, the sources and the store at the same paths. Dask and Ray are
imported only when they are chosen.

When a worker process dies, only its batch is lost. Dask and Ray pass the batch to another worker
themselves; batches lost by a broken process pool are submitted again here.
"""

from flows import environment as _quiet  # noqa: F401  isort: skip  first: telemetry off

import os
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from multiprocessing import forkserver, get_context
from types import TracebackType
from typing import Any, Literal, get_args

from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from pipeline.errors import UserError

RunnerName = Literal["threads", "processes", "dask", "ray"]

# What the workers of a Dask cluster of our own need not do, and how their processes start.
DASK_WORKERS: dict[str, Any] = {
    # Any value of this variable, Dask's own or another, ends the C library's adaption of its
    # thresholds: every array above 128 KiB is then mapped and unmapped anew, which takes a fifth of
    # the time of a batch.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # Stacks of all threads, a hundred times a second, and the state of the machine twice a second,
    # are for the dashboard, which nobody opens here.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    # So is how late fifty calls a second come in each process, which takes 6 % of a CPU for two
    # workers.
    "distributed.admin.tick.interval": "1s",
    # No worker holds a batch that another one could begin.
    "distributed.scheduler.worker-saturation": 1.0,
    # Forks of one process that has imported what a batch needs: imports cost as much as several
    # images, and each worker would pay for its own.
    "distributed.worker.multiprocessing-method": "forkserver",
}
# What that process imports. Importing these modules starts no thread and touches no GPU, so a fork
# of it is as good as a new process.
PRELOADED = (
    "distributed", "prefect.task_engine", "flows.generate", "pipeline.generation.sampler",
    "pipeline.models.foreground", "pipeline.models.inpaint.candidates", "pipeline.models.lite0",
    "pipeline.models.part_embedding", "pipeline.models.proposals",
    "pipeline.models.small_sam.build",
)  # fmt: skip
# One thread for each worker's libraries, as Dask has it.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# Environment variables of the worker, for flow runs that name no runner.
RUNNER, ADDRESS = "ANOMALYSMITH_RUNNER", "ANOMALYSMITH_RUNNER_ADDRESS"
# How often in a row processes may die without a batch being finished, before the run fails. A
# process pool breaks as a whole, so the batch that killed it is unknown; as long as some batch is
# finished each time, the others are submitted again.
MAX_DEATHS = 3


def chosen(name: str | None, address: str | None) -> tuple[RunnerName, str | None]:
    """Runner and address: those of the run, else those of the environment, else threads.

    Raises UserError for an unknown runner, and for an address where the runner has none.
    """
    runner = name or os.environ.get(RUNNER) or "threads"
    if runner not in get_args(RunnerName):
        known = ", ".join(get_args(RunnerName))
        raise UserError(f"expected a runner among {known}, got {runner!r}")
    # The address of the environment belongs to the runner of the environment.
    where = address or (os.environ.get(ADDRESS) if name is None else None) or None
    if where and runner in ("threads", "processes"):
        raise UserError(
            f"{runner} run on the worker's own machine, so runner_address {where!r} has no meaning;"
            " leave it out, or set runner to dask or ray"
        )
    return runner, where  # type: ignore[return-value]  # it is among get_args(RunnerName)


def task_runner(name: RunnerName, workers: int, address: str | None = None) -> Any:
    """Prefect's task runner of that name, not started yet.

    `workers` is the number of threads or processes on this machine; it counts only where the
    runner starts them itself. `address` names a running Dask scheduler (`tcp://host:8786`) or Ray
    cluster (`ray://host:10001`) with workers of its own.
    """
    # Threads and processes are Prefect's own runners.
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=workers)
    if name == "processes":
        return ProcessPoolTaskRunner(max_workers=workers)
    return (_dask if name == "dask" else _ray)(workers, address)


def _dask(count: int, address: str | None) -> Any:
    """Dask workers on this machine, or an existing cluster."""
    if not address:
        # First of all: it imports for seconds, and Dask is imported here meanwhile.
        _start_forkserver()
    # Heavy imports, needed by few runs.
    from prefect_dask import DaskTaskRunner

    if address:
        return DaskTaskRunner(address=address)
    import dask

    dask.config.set(DASK_WORKERS)
    # One batch per process at a time; no dashboard on a port; no memory limit, as it would kill a
    # worker in the middle of a batch that fits into the machine's memory.
    own = {"n_workers": count, "threads_per_worker": 1, "host": "127.0.0.1"}
    return DaskTaskRunner(cluster_kwargs=own | {"dashboard_address": None, "memory_limit": 0})


def _start_forkserver() -> None:
    """Start the process of which Dask's workers are forks; returns before it has imported anything.

    Dask would set the same variables just before its first worker, and start that process then.
    """
    os.environ.update(ONE_THREAD)
    get_context("forkserver").set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()


def _ray(count: int, address: str | None) -> Any:
    """Ray workers on this machine, or an existing cluster."""
    # As above.
    from prefect_ray import RayTaskRunner  # type: ignore[import-untyped]

    if address:
        return RayTaskRunner(address=address)
    own = {"num_cpus": count, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    return RayTaskRunner(init_kwargs=own)


class Pool:
    """A task runner that starts with the first batch: a run served from the cache starts none."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._runner: Any = None
        # Futures that nobody asks for: Dask would cancel them if they were dropped.
        self._ahead: list[Any] = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop(kind, error, trace)

    def spread(
        self,
        task: Any,
        batches: Sequence[dict[str, Any]],
        ahead: Sequence[dict[str, Any]] = (),
    ) -> list[Any]:
        """Run a task on each batch of parameters; the results in no particular order.

        The first batch that fails raises its error, and the remaining ones are dropped. A batch
        whose process died is submitted again.

        Batches `ahead` come after the others and are not waited for: they keep the workers busy
        until the next call. What becomes of them is of no consequence, because whoever needs their
        work does it where it is missing.
        """
        done: list[Any] = []
        waiting, deaths = list(batches), 0
        try:
            while waiting:
                before = len(done)
                waiting, loss = self._round(task, waiting, done, ahead)
                ahead = ()
                deaths = 0 if len(done) > before else deaths + 1
                if loss is not None:
                    if deaths == MAX_DEATHS:
                        raise loss
                    # A broken pool accepts nothing any more: the next round starts a new one.
                    self._stop()
        except BaseException as error:
            self._stop(type(error), error, error.__traceback__)
            raise
        return done

    def _round(
        self,
        task: Any,
        batches: Sequence[dict[str, Any]],
        done: list[Any],
        ahead: Sequence[dict[str, Any]],
    ) -> tuple[list[dict[str, Any]], Exception | None]:
        """Submit batches once, append results to `done`; the lost batches and the last error."""
        # Wait for all batches: others may still be finished after one was lost.
        lost: list[dict[str, Any]] = []
        loss: Exception | None = None
        # All batches are submitted at once; the runner decides how many run in parallel.
        futures = [(batch, self._submit(task, batch)) for batch in batches]
        self._ahead += [self._submit(task, batch) for batch in ahead]
        for batch, future in futures:
            try:
                done.append(future.result())
            except Exception as error:
                if not is_loss(error):
                    raise
                lost.append(batch)
                loss = error
        return lost, loss

    def _submit(self, task: Any, batch: dict[str, Any]) -> Any:
        # Starting processes or a cluster takes seconds.
        if self._runner is None:
            self._runner = self._make().__enter__()
        return self._runner.submit(task, batch)

    def _stop(self, *how: Any) -> None:
        runner, self._runner = self._runner, None
        self._ahead.clear()
        if runner is not None:
            runner.__exit__(*(how or (None, None, None)))


def is_loss(error: BaseException) -> bool:
    """True when the process or machine of a task died, False when the task itself failed."""
    if isinstance(error, BrokenExecutor):
        return True
    # By name, so that Dask and Ray need not be imported.
    home, name = type(error).__module__, type(error).__name__
    # KilledWorker, FutureCancelledError, ...
    if home.startswith("distributed"):
        return True
    return home.startswith("ray.exceptions") and not name.startswith("RayTaskError")

"""Where the batches of a flow run are worked on: threads, processes, a Dask or a Ray cluster.

One place assembles Prefect's task runners. Results pass through the store alone, so every runner
gives the same dataset, and workers on other machines need nothing but the checkout, the sources and
the store at the same paths. Dask and Ray are imported when they are asked for.

A worker process that dies takes its batch with it and nothing else: Dask and Ray give the batch to
another worker by themselves, and what a broken pool of processes dropped is submitted again here.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from types import TracebackType
from typing import Any, Literal, get_args

from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from flows.environment import available_cpus
from pipeline.errors import UserError

RunnerName = Literal["threads", "processes", "dask", "ray"]

HELD_BYTES = 128 << 20
"""Free memory that a Dask worker keeps before it hands it back."""
RUNNER, ADDRESS = "ANOMALYSMITH_RUNNER", "ANOMALYSMITH_RUNNER_ADDRESS"
"""What holds for flow runs that name no runner: variables of the worker's environment."""
LIVES = 3
"""How often in a row processes may die with no batch finished in between, before the run fails.

A pool of processes breaks as a whole, so it cannot be told which batch killed it; as long as some
batch is finished every time, the others are submitted again.
"""


def chosen(name: str | None, address: str | None) -> tuple[RunnerName, str | None]:
    """What a run says, else what the environment says, else threads; UserError for other names."""
    said = name or os.environ.get(RUNNER) or "threads"
    if said not in get_args(RunnerName):
        known = ", ".join(get_args(RunnerName))
        raise UserError(f"the runner is one of {known}, got {said!r}")
    where = address or (os.environ.get(ADDRESS) if name is None else None) or None
    if where and said in ("threads", "processes"):
        raise UserError(
            f"{said} run on the worker's own machine, so runner_address {where!r} has no meaning; "
            "leave it out, or set runner to dask or ray"
        )
    return said, where  # type: ignore[return-value]  # it is among get_args(RunnerName)


def task_runner(name: RunnerName, workers: int | None, address: str | None = None) -> Any:
    """Prefect's task runner of that name, not started yet.

    `workers` counts threads or processes on this machine (default: the CPUs). `address` names a
    Dask scheduler (`tcp://host:8786`) or a Ray cluster (`ray://host:10001`) that is up already,
    with workers of its own.
    """
    count = workers or available_cpus()
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=count)
    if name == "processes":
        return ProcessPoolTaskRunner(max_workers=count)
    return (_dask if name == "dask" else _ray)(count, address)


def _dask(count: int, address: str | None) -> Any:
    from prefect_dask import DaskTaskRunner

    if address:
        return DaskTaskRunner(address=address)
    import dask

    # Dask's workers hand every 64 KiB back to the system at once, and fetch them again: on arrays
    # the size of pictures that is six times the system time, twice the whole.
    dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": HELD_BYTES})
    # One batch per process at a time; no page on a port; no limit of memory, which would kill a
    # worker in the middle of a batch that fits the machine.
    own = {"n_workers": count, "threads_per_worker": 1, "host": "127.0.0.1"}
    return DaskTaskRunner(cluster_kwargs=own | {"dashboard_address": None, "memory_limit": 0})


def _ray(count: int, address: str | None) -> Any:
    from prefect_ray import RayTaskRunner  # type: ignore[import-untyped]

    if address:
        return RayTaskRunner(address=address)
    own = {"num_cpus": count, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    return RayTaskRunner(init_kwargs=own)


class Pool:
    """A task runner that starts with the first batch, so a run that is served starts none."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._runner: Any = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop(kind, error, trace)

    def spread(self, task: Any, batches: Sequence[dict[str, Any]]) -> list[Any]:
        """What a task made of each batch of parameters, in no particular order.

        The first batch that fails ends it with its error, and what waits is dropped; a batch whose
        process died does not.
        """
        done: list[Any] = []
        waiting, lives = list(batches), LIVES
        try:
            while waiting:
                before = len(done)
                waiting, loss = self._round(task, waiting, done)
                lives = LIVES if len(done) > before else lives - 1
                if loss is not None:
                    if not lives:
                        raise loss
                    self._stop()
        except BaseException as error:
            self._stop(type(error), error, error.__traceback__)
            raise
        return done

    def _round(
        self, task: Any, batches: Sequence[dict[str, Any]], done: list[Any]
    ) -> tuple[list[dict[str, Any]], Exception | None]:
        """Submit batches once and add to `done`; those that were lost, and the last reason."""
        lost: list[dict[str, Any]] = []
        loss: Exception | None = None
        futures = [(batch, self._submit(task, batch)) for batch in batches]
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
        if self._runner is None:
            self._runner = self._make().__enter__()
        return self._runner.submit(task, batch)

    def _stop(self, *how: Any) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.__exit__(*(how or (None, None, None)))


def is_loss(error: BaseException) -> bool:
    """True when the process or machine under a task died, false when the task itself failed."""
    if isinstance(error, BrokenExecutor):
        return True
    home, name = type(error).__module__, type(error).__name__
    if home.startswith("distributed"):  # KilledWorker, FutureCancelledError, ...
        return True
    return home.startswith("ray.exceptions") and not name.startswith("RayTaskError")

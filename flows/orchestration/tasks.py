"""Retries and logging of this project's Prefect tasks."""

from flows import environment as _environment  # noqa: F401  isort: skip  first: it switches telemetry off

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from detectors.training.progress import Watcher
from pipeline.errors import AnomalysmithError
from pipeline.utils.files import TRANSIENT_ERRORS

# Seconds between two lines of progress in a log.
PAUSE = 30.0


def is_transient(task: Any, run: Any, state: Any) -> bool:
    """True for errors after which Prefect should retry: of disk, network share or memory.

    User errors and bugs are not retried: they would only fail again.
    """
    error = state.data
    if isinstance(error, AnomalysmithError):
        return error.transient
    if isinstance(error, MemoryError | ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError):
        return error.errno in TRANSIENT_ERRORS
    # Another job may free the GPU meanwhile. By name, so that torch need not be imported.
    return type(error).__name__ == "OutOfMemoryError"


# Finished work is on disk, in the stage cache or as a checkpoint, so Prefect needs no result store
# and no cache of its own.
retrying_task: Any = partial(
    task,
    persist_result=False,
    cache_policy=NO_CACHE,
    # Two more attempts, some seconds apart.
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=is_transient,
)


class RunLog(Watcher):
    """Writes the progress of a training or an evaluation to the log of its task run."""

    def __init__(self) -> None:
        self.title, self.total, self.logged = "", 0, 0.0

    def say(self, text: str) -> None:
        get_run_logger().info(text)

    def begin(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.logged = title, total, time.monotonic()
        get_run_logger().info("%s: %d of %d", title, done, total)

    def step(self, done: int, losses: Mapping[str, float]) -> None:
        if time.monotonic() - self.logged < PAUSE:
            return
        self.logged = time.monotonic()
        # Losses follow the counts.
        words = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        get_run_logger().info("%s: %d of %d %s", self.title, done, self.total, words)

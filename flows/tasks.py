"""How this project's Prefect tasks behave, and where what they have to say goes."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from detectors.watching import Watcher

PAUSE = 30.0
"""Seconds between two lines of progress in a log."""


def is_transient(task: Any, run: Any, state: Any) -> bool:
    """Retry what may pass by itself, a disk or memory hiccup; never a user's mistake."""
    return isinstance(state.data, OSError | MemoryError)


# What is finished lies on the disk: Prefect keeps neither results nor keys of its own.
plain_task: Any = partial(task, persist_result=False, cache_policy=NO_CACHE)
patient_task: Any = partial(
    task,
    persist_result=False,
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=is_transient,
)


class RunLog(Watcher):
    """What a training or an evaluation has to say goes to the log of its task run."""

    def __init__(self) -> None:
        self.title, self.total, self.said = "", 0, 0.0

    def say(self, text: str) -> None:
        get_run_logger().info(text)

    def begin(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.said = title, total, time.monotonic()
        get_run_logger().info("%s: %d of %d", title, done, total)

    def step(self, done: int, losses: Mapping[str, float]) -> None:
        if time.monotonic() - self.said < PAUSE:
            return
        self.said = time.monotonic()
        words = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        get_run_logger().info("%s: %d of %d %s", self.title, done, self.total, words)

"""How this project's Prefect tasks behave, and where what they have to say goes."""

import errno
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from detectors.training.progress import Watcher
from pipeline.errors import AnomalysmithError

PAUSE = 30.0
"""Seconds between two lines of progress in a log."""


PASSING = frozenset(
    (
        errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOLCK,
        errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED,
        errno.ECONNABORTED, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE,
    )
)  # fmt: skip
"""What a disk or a network share refuses now and may grant in some seconds. A full disk, a missing
file or a forbidden one is not among them: waiting does not mend those."""


def is_transient(task: Any, run: Any, state: Any) -> bool:
    """Retry what may pass by itself: a hiccup of disk, share or memory; never a user's mistake."""
    error = state.data
    if isinstance(error, AnomalysmithError):
        return error.passing
    if isinstance(error, MemoryError | ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError):
        return error.errno in PASSING
    # Another job may leave the GPU meanwhile. Torch's own error is known by its name.
    return type(error).__name__ == "OutOfMemoryError"


# What is finished lies on the disk: Prefect keeps neither results nor keys of its own.
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

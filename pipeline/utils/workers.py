"""Workers on this machine: forks of this process, or threads where it cannot be forked.

Forks share what the process has loaded and do not wait for each other's interpreter lock, which
takes threads a tenth of their time. Threads are taken for one worker, after the process has used a
GPU, which no fork can go on using, and beside other threads of Python: a fork has none of them, and
would wait for ever for a lock that one of them holds.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from typing import Any

from pipeline.errors import WorkerLost

Calls = Mapping[str, Callable[..., Any]]
Submit = Callable[..., "Future[Any]"]


@contextmanager
def worker_pool(
    count: int, calls: Calls, begin: Callable[[], None] = lambda: None
) -> Iterator[Submit]:
    """Yield `submit(name, *arguments)`, which gives the future of `calls[name](*arguments)`.

    Forks are made at the first call and inherit the calls as they are; arguments and results are
    sent, so these must be picklable and should be small. Each worker calls `begin` first. After an
    error, Ctrl-C too, calls in progress come to their end and no others start.

    Raises WorkerLost when a fork was killed.
    """
    if count > 1 and can_fork():
        context = multiprocessing.get_context("fork")
        stopped = context.Event()
        pool: Executor = ProcessPoolExecutor(count, context, _become, (calls, stopped, begin))
    else:
        stopped = None
        pool = ThreadPoolExecutor(count, "worker", begin)

    def submit(name: str, *arguments: Any) -> "Future[Any]":
        if stopped is None:
            return pool.submit(calls[name], *arguments)
        return pool.submit(_called, name, arguments)

    try:
        yield submit
    except BrokenExecutor as error:
        pool.shutdown()
        raise WorkerLost(
            "a worker process was killed, most likely because memory ran out; what was finished is "
            "kept, so run the same again, with fewer workers"
        ) from error
    except BaseException:
        if stopped is not None:
            # Some calls wait in the forks' queue already, where they cannot be cancelled.
            stopped.set()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def can_fork() -> bool:
    """Whether a fork of this process can do what the process does."""
    torch = sys.modules.get("torch")
    used_gpu = torch is not None and torch.cuda.is_initialized()
    return not used_gpu and threading.active_count() == 1


# In a fork: its calls, and the event after which it answers without working.
_fork: tuple[Calls, Any] | None = None


def _become(calls: Calls, stopped: Any, begin: Callable[[], None]) -> None:
    """Make this process, a fork, a worker."""
    global _fork
    _fork = calls, stopped
    # What was inherited stays; looked at by the collector, it would be copied.
    gc.freeze()
    # Ctrl-C reaches all processes of a terminal; the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    assert _fork is not None
    calls, stopped = _fork
    return None if stopped.is_set() else calls[name](*arguments)

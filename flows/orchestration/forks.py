"""Let processes exit cleanly that are forked after Prefect has run, such as data loader workers.

Prefect drains its services when a process ends. A forked child inherits the services but not the
threads behind them. Prefect stops them in the child, but forgets their "done" event, so that the
child would fail at its very end and exit with 1. Importing this module marks them as done there.
"""

from flows import environment as _environment  # noqa: F401  isort: skip  first: it switches telemetry off

import asyncio
import os

# Private, but of a package that the lock pins; Prefect has no public name for its services.
from prefect._internal.concurrency.services import _active_services


def _mark_as_done() -> None:
    done = asyncio.Event()
    done.set()
    for service in list(_active_services):
        service._done_event = done


# Registered after Prefect's own callback, and so called after it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_as_done)

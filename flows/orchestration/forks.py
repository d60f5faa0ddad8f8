"""Let processes exit cleanly that are forked after Prefect has run, such as data loader workers.

Prefect registers callbacks that drain its services when a process ends. A forked child inherits the
callbacks but not the threads behind them, so it would fail at its very end and exit with 1.
Importing this module removes the callbacks in children.
"""

import os
import threading


def _drop_callbacks_of_prefect() -> None:
    # A private list of CPython, 3.9 and later; there is no public way to remove a callback.
    callbacks = getattr(threading, "_threading_atexits", [])
    callbacks[:] = [call for call in callbacks if not _is_of_prefect(call)]


def _is_of_prefect(call: object) -> bool:
    # Callbacks are stored as partial functions.
    function = getattr(call, "func", call)
    return str(getattr(function, "__module__", "")).startswith("prefect")


os.register_at_fork(after_in_child=_drop_callbacks_of_prefect)

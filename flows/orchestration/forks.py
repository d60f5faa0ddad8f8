"""Children that are forked from a process in which Prefect has run, such as loader workers.

Prefect asks to drain its services when a process ends. A forked child inherits that wish but not
the threads behind it, fails at its very end and exits with 1. Importing this module makes children
leave Prefect's services to their parent.
"""

import os
import threading


def _leave_services_to_the_parent() -> None:
    wishes = getattr(threading, "_threading_atexits", [])  # CPython's own list, 3.9 and later
    wishes[:] = [call for call in wishes if not _is_prefects(call)]


def _is_prefects(call: object) -> bool:
    function = getattr(call, "func", call)
    return str(getattr(function, "__module__", "")).startswith("prefect")


os.register_at_fork(after_in_child=_leave_services_to_the_parent)

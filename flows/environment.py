"""The environment of a run, set before any library that reads it is imported.

Import this first. Nothing calls home, nothing is fetched behind the user's back, and what the user
has set already stays as it is.
"""

import os

QUIET = {
    "DO_NOT_TRACK": "1",  # Prefect's client and others honour it
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 s is too near what it takes
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "NUMBA_DISABLE_JIT": "1",  # rembg compiles what we never call (docs/decisions)
}

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)


def available_cpus() -> int:
    """CPUs that this process may use: the default number of workers."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1

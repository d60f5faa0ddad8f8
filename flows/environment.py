"""Environment variables of a run, set before any library that reads them is imported.

Import this module first. It switches off telemetry and implicit downloads; variables that the user
has set are left alone.
"""

import os

QUIET = {
    # Honoured by Prefect's client and other libraries.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # On slow machines the start takes about as long as the default of 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    # rembg would compile functions that are never called here (docs/decisions).
    "NUMBA_DISABLE_JIT": "1",
}

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)


def available_cpus() -> int:
    """CPUs that this process may use: the default number of workers."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:
        # Only Linux knows the CPUs of a process.
        return os.cpu_count() or 1

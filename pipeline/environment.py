"""Environment variables that keep libraries from calling home; the one list of them.

Import this module before any of those libraries: some read their variable once, when they are
imported. Whoever imports a library that has telemetry imports this first, so that a program which
only uses `pipeline` is as quiet as ours. Variables that the user has set are left alone.

The list is what is known; tests/repository/test_nothing_calls_home.py watches what programs do.
"""

import os

NO_TELEMETRY = {
    # Prefect's client and command line, and other libraries.
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Imported without it, onnxruntime 1.31 asks the DNS for Microsoft's event host and writes a
    # device id and a queue of events below ~/.cache/Microsoft.
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}

for _name, _value in NO_TELEMETRY.items():
    os.environ.setdefault(_name, _value)

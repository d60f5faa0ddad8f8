"""Environment variables of our programs, set before any library that reads them is imported.

Import this module first. To the telemetry that `pipeline.environment` switches off it adds what a
program may decide and a library may not: no implicit download. Variables that the user has set are
left alone.

On other systems than Linux it ends the program with one line: nothing has been tried there, and
Windows has no `flock`.
"""

import json
import os
import sys

from pipeline.environment import NO_TELEMETRY

PROGRAM = NO_TELEMETRY | {
    # Threads of PyTorch wait for each other asleep. Awake, they take the CPUs from the very threads
    # that they wait for, where other programs run: a training was ten times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # NumPy's products are small here: a second thread gains nothing, and waits awake for the next
    # one, which took a third of a processor from `generate`.
    "OPENBLAS_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    # No library of ours has one, and looking for them opens the metadata of all packages.
    "PYDANTIC_DISABLE_PLUGINS": "1",
    # rembg would compile functions that are never called here (docs/decisions).
    "NUMBA_DISABLE_JIT": "1",
    # On slow machines the start takes about as long as the default of 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}

for _name, _value in PROGRAM.items():
    os.environ.setdefault(_name, _value)

if sys.platform != "linux":
    _ERROR = (
        f"expected Linux, this is {sys.platform}, where nothing has been tried; use a Linux "
        "machine, the container image (docs/operation.md), or WSL 2 on Windows"
    )
    print(f"anomalysmith: {_ERROR}", file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"error": _ERROR, "exit_code": 2}))
    sys.exit(2)

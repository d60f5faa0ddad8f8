"""Check that all workers of a flow run have the same code, libraries and kind of device.

Cache keys are computed where the flow runs, from its code and libraries. A worker of another
release would store different pixels under these keys. Every batch therefore carries the software of
the flow, and a worker with different software rejects it.
"""

import socket

from pipeline.errors import UserError
from pipeline.generation.cache_keys import (
    ANALYSIS_CODE,
    CALIBRATION_CODE,
    SAMPLES_CODE,
    code_digest,
    device_class,
    software,
)

CODE = ANALYSIS_CODE + CALIBRATION_CODE + SAMPLES_CODE
# Compute the digests at import, when the files are still those that this process has loaded;
# `code_digest` caches them. If files are edited while a worker runs, the worker keeps its old code,
# and its digest tells it from flows that start later.
for _code in (ANALYSIS_CODE, CALIBRATION_CODE, SAMPLES_CODE, CODE):
    code_digest(_code)


def software_here() -> dict[str, str]:
    """Everything on this machine that decides pixels: our code, libraries, the kind of device."""
    driver, arithmetic = device_class()
    return {
        "anomalysmith's code": code_digest(CODE)[:16],
        **software(),
        "device": driver,
        "bfloat16": arithmetic,
    }


def require_alike(flow: dict[str, str]) -> None:
    """Raise UserError, with this machine's name and the differences, unless it equals the flow's.

    `flow` is what `software_here` returned where the flow runs.
    """
    here = software_here()
    # Every difference is named, as several may have to be fixed.
    differing = [
        f"{name} {here.get(name, 'none')} instead of {flow.get(name, 'none')}"
        for name in sorted(here.keys() | flow.keys())
        if here.get(name) != flow.get(name)
    ]
    if differing:
        raise UserError(
            f"the worker on {socket.gethostname()} differs from the flow's machine: "
            f"{'; '.join(differing)}; install the same checkout and lock on the same kind of device"
        )

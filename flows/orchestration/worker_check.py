"""Workers that make one dataset must be alike: the same code, libraries and kind of device.

Cache keys are settled where the flow runs and name its code. A worker of another release would put
its own pixels under them, so every batch carries what the flow runs on, and a worker that differs
refuses it.
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
# `code_digest` remembers what it read first. Read now, it is the code that this process runs: files
# that are edited while a worker lives make it differ from the flows that start after that.
for _family in (ANALYSIS_CODE, CALIBRATION_CODE, SAMPLES_CODE, CODE):
    code_digest(_family)


def software_here() -> dict[str, str]:
    """What decides pixels on this machine: our code, the libraries, the kind of device."""
    driver, arithmetic = device_class()
    return {
        "anomalysmith's code": code_digest(CODE)[:16],
        **software(),
        "device": driver,
        "bfloat16": arithmetic,
    }


def require_alike(flow: dict[str, str]) -> None:
    """UserError that names this machine and what differs, unless it is like the flow's."""
    here = software_here()
    differing = [
        f"{name} {here.get(name, 'none')} instead of {flow.get(name, 'none')}"
        for name in sorted(here.keys() | flow.keys())
        if here.get(name) != flow.get(name)
    ]
    if differing:
        raise UserError(
            f"the worker on {socket.gethostname()} is not like the flow's machine: "
            f"{'; '.join(differing)}; give it the same checkout, lock and kind of device"
        )

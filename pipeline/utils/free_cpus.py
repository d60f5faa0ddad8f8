"""How many CPUs this process may use, and how many of them other programs leave free.

Work is spread over the free ones: two threads that compute on one core wait for each other, and
take several times as long as one.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Seconds during which other programs are watched, and the load that needs no watching.
WATCHED, IDLE = 0.2, 0.5
# Where the system says what all its programs did, and what a container may use.
STAT, CGROUPS = Path("/proc/stat"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Cpus:
    """CPUs that this process may use, and how many of them are free now; at least one is."""

    usable: int
    free: int

    def describe(self) -> str:
        """Such as `2 of 4 CPUs are free`."""
        cpus, are = "CPU" if self.usable == 1 else "CPUs", "is" if self.free == 1 else "are"
        return f"{self.free} of {self.usable} {cpus} {are} free"


def cpus() -> Cpus:
    """Look now; takes a fifth of a second where other programs run."""
    usable = usable_cpus()
    return Cpus(usable, left_free(usable, os.cpu_count() or usable, busy_elsewhere()))


def usable_cpus(cgroups: Path = CGROUPS) -> int:
    """CPUs that the system lets this process use; in a container, at most its quota."""
    usable = len(os.sched_getaffinity(0))
    # The names of version 2 of control groups, then those of version 1.
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        # A group without a quota says `max`, or a negative number.
        with suppress(OSError, ValueError):
            quota, period = map(int, " ".join((cgroups / n).read_text() for n in names).split())
            if quota > 0:
                usable = min(usable, -(-quota // period))
    return max(1, usable)


def left_free(usable: int, all_cpus: int, busy: float) -> int:
    """How many of the usable CPUs are free on a machine where `busy` of all CPUs work for others.

    At least one; half a CPU counts as free.
    """
    return max(1, min(usable, int(all_cpus - busy + 0.5)))


def busy_elsewhere() -> float:
    """CPUs that other programs keep busy: both now and in the last minute.

    The load of the last minute alone would count what has just ended, also our own last command.
    """
    load = 0.0
    # Where the system does not say: none, or as many as in the last minute.
    with suppress(OSError, ValueError, IndexError):
        load = os.getloadavg()[0]
        if load >= IDLE:
            before, started = _busy_seconds(), time.perf_counter()
            time.sleep(WATCHED)
            load = min(load, (_busy_seconds() - before) / (time.perf_counter() - started))
    return load


def _busy_seconds() -> float:
    """Seconds that CPUs have worked for other processes than this one."""
    # The first line: user, nice, system, idle, waiting for disks, and what counts as work again.
    ticks = list(map(int, STAT.read_text().split("\n", 1)[0].split()[1:9]))
    worked = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    return worked - time.process_time()


def workers_for(say: Callable[[str], None], override: str) -> int:
    """As many workers of one thread as CPUs are free; `say` gets a line that tells so.

    `override` is what sets another number, such as `--workers N`.
    """
    found = cpus()
    workers = f"{found.free} worker{'s' if found.free > 1 else ''} of 1 thread"
    say(f"{workers}{' each' if found.free > 1 else ''}: {found.describe()}; {override} overrides")
    return found.free

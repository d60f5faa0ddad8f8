"""Free memory between what stays goes back to the system, where there is enough of it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.utils.free_memory import LARGE, give_back

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and needs glibc")
PAGE, MB = 4096, 1 << 20


def resident() -> int:
    return PAGE * int(Path("/proc/self/statm").read_text().split()[1])


def test_holes_between_what_stays_are_given_back_where_they_are_large_enough():
    # Small enough to lie side by side in the heap.
    blocks = [np.ones(100_000, np.uint8) for _ in range(600)]
    stays = blocks[::2]
    del blocks
    before = resident()
    give_back(LARGE - 1)
    give_back(holes=1 << 40)
    assert before - resident() < 5 * MB
    give_back(holes=10 * MB)
    assert before - resident() > 20 * MB
    assert all(block[-1] == 1 for block in stays)

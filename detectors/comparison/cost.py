"""What an image costs: the time of one image alone, as an inspection line scores it.

Shapes: H, W stored image; 3 colour (RGB).
"""

import statistics
import time
from collections.abc import Sequence

import numpy as np

from detectors.scoring import score, stack_images
from detectors.training.checkpoint import Restored

# The first passes load kernels and fill caches.
WARM_UP = 2
# Images that are timed; the median of so many is stable to a few percent.
TIMED = 10


def seconds_per_image(restored: Restored, images: Sequence[np.ndarray]) -> float:
    """Median wall-clock seconds from (H, W, 3) uint8 pixels to score and map, one image at a time.

    Resizing to the detector's input is included, decoding a file is not.
    """
    took = []
    for number in range(WARM_UP + TIMED):
        batch = stack_images([images[number % len(images)]])
        started = time.perf_counter()
        # The scores come back to the CPU, so a GPU has finished when this returns.
        score(restored.detector, restored.compute, batch)
        took.append(time.perf_counter() - started)
    return statistics.median(took[WARM_UP:])

"""anomalib's Perlin generator, timed in an environment of its own.

    python -m benchmarks.perlin_peer

Prints the processor seconds per image of 256 px, the median of 30. Every image gets an anomaly, and
its texture is generated as well. Only anomalib and PyTorch are imported here.
"""

import statistics
import time

import torch
from anomalib.data.utils.generators import PerlinAnomalyGenerator

# Images that are timed.
IMAGES = 30


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = PerlinAnomalyGenerator(probability=1.0)
    image_3HW = torch.rand(3, 256, 256)
    times = []
    # Two images to warm up; they are not counted.
    for _ in range(2 + IMAGES):
        started = time.process_time()
        generator(image_3HW)
        times.append(time.process_time() - started)
    print(statistics.median(times[2:]), flush=True)


if __name__ == "__main__":
    main()

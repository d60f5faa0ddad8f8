"""Small anomaly maps with ground truth, and all pixel metrics of them as one flat dictionary."""

import numpy as np
from hypothesis import strategies as st

from detectors.metrics.pixel_stream import PixelResult, PixelStream

CONFIG = [
    {"pixel_value": value, "saturation_threshold": threshold, "relative_saturation": relative}
    for value, threshold, relative in ((255, 1.0, True), (254, 0.5, True), (253, 3, False))
]
LOGICAL, STRUCTURAL = "logical_anomalies", "structural_anomalies"
# The arguments of `PixelStream.add`: map, masks, grey values, type.
Image = tuple[np.ndarray, np.ndarray, np.ndarray, str]


@st.composite
def images(draw, most: int = 4, levels: int = 6) -> list[Image]:
    """A few small images: maps with ties, overlapping channels, at least one anomaly."""
    size = draw(st.tuples(st.integers(1, 6), st.integers(2, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    types = [
        LOGICAL,
        *draw(st.lists(st.sampled_from(["good", LOGICAL, STRUCTURAL]), max_size=most)),
    ]
    found = []
    for type in types:
        map_HW = rng.integers(-levels, levels + 1, size).astype(np.float32) / 4
        count = 0 if type == "good" else rng.integers(1, 4)
        masks_KHW = rng.random((count, *size)) < rng.choice([0.1, 0.4])
        # No channel is empty, and none covers the whole image.
        masks_KHW[:, -1, -1] |= True
        masks_KHW[:, 0, 0] = False
        found.append((map_HW, masks_KHW, rng.choice([253, 254, 255], count).astype(np.uint8), type))
    return found


def measure(found: list[Image], **options) -> PixelResult:
    stream = PixelStream(CONFIG, **options)
    for image in found:
        stream.add(*image)
    return stream.result()


def numbers(result: PixelResult) -> dict[str, float]:
    """Every number of a result, under one flat name each."""
    flat = {}
    for name, part in {"pooled": result.pooled, **result.groups}.items():
        flat |= {f"{name} {metric}": value for metric, value in part.values.items()}
        flat |= {f"{name} aupro {limit}": area for limit, area in part.aupro_at.items()}
        flat |= {f"{name} spro {limit}": area for limit, area in part.spro_at.items()}
    return flat

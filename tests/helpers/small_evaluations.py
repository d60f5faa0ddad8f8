"""Small evaluations: versions with a real test split, and a tiny trained detector."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_detector
from small_results import header, image_result

from detectors import registry
from detectors.registry import configure
from detectors.training.job import TrainJob
from detectors.training.trainer import train
from pipeline.dataset.version import Version
from pipeline.generation.publish import publish
from pipeline.records import TestImage

SIZE = (64, 64)
LOGICAL, STRUCTURAL = "logical_anomalies", "structural_anomalies"
CONFIG = [
    {"defect_name": "missing_nut", "pixel_value": 255, "saturation_threshold": 40,
     "relative_saturation": False},
    {"defect_name": "extra_nut", "pixel_value": 254, "saturation_threshold": 0.5,
     "relative_saturation": True},
    {"defect_name": "scratch", "pixel_value": 253, "saturation_threshold": 1.0,
     "relative_saturation": True},
]  # fmt: skip
LOCO_TYPES = (
    *[("good", ())] * 5,
    *[(LOGICAL, (255,)), (LOGICAL, (254,)), (LOGICAL, (255, 254)), (LOGICAL, (255,))],
    *[(STRUCTURAL, (253,))] * 3,
)
AD_TYPES = (*[("broken", (255,))] * 3, *[("good", ())] * 4, *[("cut", (255,))] * 3)

Types = Sequence[tuple[str, tuple[int, ...]]]


def photographs(types: Types = AD_TYPES, size: tuple[int, int] = SIZE) -> Iterator[TestImage]:
    """One test image per type: a brightness ramp like the training images, a square per region."""
    height, width = size
    for number, (defect, values) in enumerate(types):
        rng = np.random.default_rng([11, number])
        ramp = np.linspace(40, 200, width)[None, :, None] + rng.normal(0, 4, (height, width, 3))
        image = np.clip(ramp, 0, 255).astype(np.uint8)
        masks = np.zeros((len(values), *size), np.bool_)
        for place, mask in enumerate(masks):
            row, column = rng.integers(0, height // 2, 2).tolist()
            mask[row : row + 6 + place, column : column + 9] = True
            image[mask] = rng.integers(0, 256, 3)
        yield TestImage(
            f"test/{defect}/{number:03d}.png", f"{number:064x}", defect, image, masks,
            np.array(values, np.uint8),
        )  # fmt: skip


def version_of(
    store: Path, types: Types, size: tuple[int, int] = SIZE, category: str = "tray", **head: Any
) -> Version:
    """A version with ten normals, two of them for validation, and these test images."""
    results = [image_result(number, size) for number in range(10)]
    plain = {"settings": {"kind": "mvtec_ad"}, "licence": "CC BY-NC-SA 4.0"}
    made = photographs(types, size)
    full = header(**plain | head)
    return publish(store, category, results, made, full, gallery=False, shard_images=4)


def loco_version(store: Path) -> Version:
    return version_of(store, LOCO_TYPES, settings={"kind": "mvtec_loco"}, defects_config=CONFIG)


@contextmanager
def tiny_known() -> Iterator[None]:
    """Inside, the tiny detector is registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.DETECTORS, tiny_detector.NAME, tiny_detector.ENTRY)
        yield


def trained(version: Version, out: Path, **changes: Any) -> Path:
    """The checkpoint of the tiny detector after a few steps, in float32 on the CPU."""
    recipe = configure(tiny_detector.NAME, "tiny", {"steps": 6} | changes)
    job = TrainJob(
        recipe=recipe, version=version.dir, out=out, device="cpu", precision="fp32", board=False
    )
    return train(job).checkpoint

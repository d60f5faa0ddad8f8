"""`compare` where one of the detectors is `parts`: left out on textures, reasons on its page."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_rules as toy
from small_results import image_result, small_version

from detectors.models.parts import model
from detectors.models.parts.finder import MachineFinder
from detectors.training.progress import Watcher
from flows.jobs.compare import CompareJob, compared, planned, train_all
from pipeline.dataset.version import Version
from pipeline.models.trunks import trunk_of
from pipeline.models.weights import store

SIZE = 64


class ToyMachine:
    find = toy.ToyFinder()
    trunk = trunk_of("bundled-teacher", store.require("bundled-teacher"))
    digests = {"proposals": "a" * 64}  # noqa: RUF012


def version_of(folder: Path, images: list[np.ndarray], edited: list[np.ndarray]) -> Version:
    """A version whose samples are all the same edit of their image."""
    results = []
    for number, (image, other) in enumerate(zip(images, edited, strict=True)):
        result = image_result(number, image.shape[:2])
        attempts = [
            attempt
            if attempt.sample is None
            else replace(
                attempt,
                sample=replace(attempt.sample, pixels_HW3=other, change_HW=(image != other).any(2)),
            )
            for attempt in result.attempts
        ]
        results.append(replace(result, pixels_HW3=image, attempts=tuple(attempts)))
    return small_version(folder, results=results, tests=0)


def compare(version: Version, out: Path, size: int) -> dict[str, Any]:
    """As the command does it."""
    job = CompareJob(
        version=version.dir, out=out, detectors=("parts", "nearest"), profile="tiny", size=size,
        changes=("nearest.bank=64",), device="cpu", precision="fp32",
    )  # fmt: skip
    plan = planned(job)
    failed = {name: str(error) for name, error in train_all(plan, Watcher()).items()}
    return compared(job, plan, failed, Watcher())


def cloth(seed: int) -> np.ndarray:
    """A weave with a little noise; (64, 64, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    threads = 110 + 18 * np.sin(1.1 * x + rng.random()) * np.sin(0.9 * y + rng.random())
    noise = rng.normal(0, 6, (SIZE, SIZE, 1))
    return np.clip(threads[..., None] + noise, 0, 255).astype(np.uint8).repeat(3, 2)


@pytest.mark.parametrize(
    "machine", [ToyMachine, pytest.param(MachineFinder, marks=pytest.mark.slow)]
)
def test_on_a_texture_parts_is_left_out_with_one_line(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "MachineFinder", machine)
    images = [cloth(seed) for seed in range(10)]
    holed = [image.copy() for image in images]
    for image in holed:
        image[20:40, 20:40] = 20
    found = compare(version_of(tmp_path / "store", images, holed), tmp_path / "out", SIZE)
    assert found["recommendation"]["detector"] == "nearest"
    (left,) = found["left_out"]
    assert left["detector"] == "parts"
    assert re.search(r"part|in common", left["why"])
    assert "\n" not in left["why"]
    assert left["why"] in found["text"]


def test_reasons_stand_beside_hits(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "MachineFinder", ToyMachine)
    monkeypatch.setattr("detectors.models.parts.unexplained.BANK", 200)
    monkeypatch.setattr("detectors.models.parts.surfaces.BANK", 200)
    monkeypatch.setattr("detectors.models.parts.surfaces.ENLARGED", 64)
    boards = [toy.board(seed) for seed in range(10)]
    lacking = [board.copy() for board in boards]
    for board in lacking:
        toy.wipe(board, 32, 64)
    found = compare(version_of(tmp_path / "store", boards, lacking), tmp_path / "out", toy.SIZE)
    assert re.search(
        r"part_1\.count: expected 3, found 2 \(\d+ % sure\)", Path(found["page"]).read_text()
    )

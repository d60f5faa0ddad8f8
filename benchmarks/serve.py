"""How long a page of `anomalysmith serve` takes on a version of 100 000 samples, on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.serve [--samples 100000] [--version DIR]

A version of tiny images is generated into a temporary folder first (minutes) unless one is named,
through the writer of real ones. Each page is asked for in this process, without a socket or a
browser. `first` is the first answer, when tables are built; the other columns are of the answers
after it, the processor's time apart since other programs may have run as well.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
from fastapi.testclient import TestClient

from flows.serve.app import create_app
from pipeline.dataset.version import Version, open_version
from pipeline.dataset.version_writer import VersionHeader
from pipeline.gate.settings import GateSettings
from pipeline.generation.publish import publish
from pipeline.kinds import CONTROLS, EDIT_KINDS
from pipeline.records import (
    Attempt,
    Edit,
    ForegroundMask,
    ImageResult,
    ObjectProposals,
    Sample,
    Verdict,
)
from pipeline.utils.text_table import table

# Side of an image in pixels; accepted and rejected samples of an image.
PX, ACCEPTED, REJECTED = 64, 4, 2
REPEATS = 15
# The host that the pages are asked on.
HOST = "http://127.0.0.1:8765"
# Scores that most samples of a real version have.
SCORES = ("border", "change_area", "changed_fraction", "clipped", "delta_e", "duplicate_iou",
          "foreground_share", "noise_ratio", "outline_ratio", "painted", "patch_distance",
          "seam_ratio")  # fmt: skip


def results(samples: int) -> Iterator[ImageResult]:
    """Images of noise with boxes as edits, until there are so many accepted samples."""
    for number in range(-(-samples // ACCEPTED)):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, (PX, PX, 3), np.uint8)
        mask = np.zeros((PX, PX), np.bool_)
        mask[8:24, 8:24] = True
        yield ImageResult(
            name=f"train/good/{number:06d}.png",
            digest=f"{number:064x}",
            split="train",
            pixels_HW3=image,
            foreground=ForegroundMask(mask),
            proposals=ObjectProposals(mask[None], np.ones(1, np.float32), mask),
            attempts=tuple(attempt(turn, image, mask, rng) for turn in range(ACCEPTED + REJECTED)),
        )


def attempt(turn: int, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Attempt:
    """One attempt with random scores; the first ones of an image are accepted."""
    kinds = CONTROLS if turn == 0 else EDIT_KINDS
    kind, seed = str(rng.choice(kinds)), int(rng.integers(2**63))
    scores = dict(zip(SCORES, rng.random(len(SCORES)).tolist(), strict=True))
    accepted = turn < ACCEPTED
    verdict = Verdict(accepted, "" if accepted else ("seam", "faint")[turn % 2], scores)
    pixels = np.where(mask[..., None], 255 - image, image)
    sample = Sample(Edit(kind, (0,), {}, seed), pixels, mask, mask)
    return Attempt(turn, 0, kind, seed, sample, verdict)


def generated(store: Path, samples: int) -> Version:
    """A version of so many accepted samples."""
    head = VersionHeader(
        settings={"gate": GateSettings().model_dump(mode="json")}, plan_digest="0" * 64
    )
    return publish(store, "noise", results(samples), (), head, gallery=False)


def addresses(version: Version, samples: int) -> dict[str, list[str]]:
    """What is asked for, with as many different addresses as it is repeated."""
    home = f"/v/{quote(version.category)}/{version.name}"
    rng = np.random.default_rng(0)
    some = rng.choice(samples, REPEATS + 1, replace=False).tolist()
    pages = range(1, REPEATS + 2)
    return {
        "list of products": ["/"] * (REPEATS + 1),
        "gallery, a page": [f"{home}?page={10 * page}" for page in pages],
        "gallery, sorted by a score": [f"{home}?sort=-seam_ratio&page={page}" for page in pages],
        "gallery, filtered by kind, verdict and range": [
            f"{home}?kind=missing&verdict=accepted&range=seam_ratio:0.2:0.8&page={page}"
            for page in pages
        ],
        "gallery, part of an image name, distribution": [
            f"{home}?image=00{page}&score=delta_e" for page in pages
        ],
        "sample, in a sorted gallery": [f"{home}/sample/{row}?sort=seam_ratio" for row in some],
        "thumbnail": [f"{home}/thumb/marked/{row}" for row in some],
        "layer": [f"{home}/layer/marked/{row}" for row in some],
    }


def measured(client: TestClient, paths: list[str]) -> tuple[float, ...]:
    """Seconds of the first answer; median and longest of the others; their median on the CPU."""
    times, busy = [], []
    for path in paths:
        started, worked = time.perf_counter(), time.process_time()
        answer = client.get(path)
        times.append(time.perf_counter() - started)
        busy.append(time.process_time() - worked)
        assert answer.status_code == 200, (path, answer.text[:200])
    return times[0], statistics.median(times[1:]), max(times[1:]), statistics.median(busy[1:])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--version", type=Path, help="a version that exists, of any category")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.version:
            version = open_version(args.version)
        else:
            version = generated(Path(folder), args.samples)
        samples = int(version.index["counts"]["accepted"])
        height, width = version.image_size
        cores = len(os.sched_getaffinity(0))
        print(f"{samples:,} samples of {width} x {height} px, {cores} core{'s' * (cores > 1)}")
        client = TestClient(create_app(version.dir.parent.parent), base_url=HOST)
        rows = [
            (what, *(f"{1000 * seconds:.0f} ms" for seconds in measured(client, paths)))
            for what, paths in addresses(version, samples).items()
        ]
    print(table(("page", "first", "median", "longest", "processor"), rows))


if __name__ == "__main__":
    main()

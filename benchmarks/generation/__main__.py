"""Speed of generation: each row against a named peer, or against its own parts, in the same run.

    python -m benchmarks.generation [--quick] [--images N] [--memory N] [--peers .venv-peers]
    python -m benchmarks.generation --source mvtec_ad:DATA/bottle [--limit N]
    python -m benchmarks.generation --given-proposals [--peers .venv-peers]

The baselines are segment-anything's generator, anomalib's Perlin generator (in its own environment,
as `make test-peers` builds it), eager PyTorch, a loop that embeds the image for every click, and
our own first run. Processor time of one thread; the claims are about ratios. `--memory 5000` adds
the rows about memory, which take a quarter of an hour; `--quick` leaves out ViT-B and uses few
images. With `--source` the table has one row per stage of `generate` of that folder, and no other;
with `--given-proposals` it has the rows of the classical profile.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.generation import foreground, memory, pipeline, proposals, stages
from benchmarks.generation.rows import Claim, print_head
from benchmarks.timing import median_seconds
from flows.jobs.generate import generate
from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.models import device as devices
from scenes.loco import write_loco


def main(arguments: Sequence[str] = ()) -> list[Claim]:
    """Print the table row by row and return its rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images, no ViT-B")
    parser.add_argument("--images", type=int, help="images of each product")
    parser.add_argument("--memory", type=int, default=0, metavar="N", help="watch memory over N")
    peers = Path(os.environ.get("PEERS", ".venv-peers"))
    parser.add_argument("--peers", type=Path, default=peers, help="environment with anomalib")
    parser.add_argument("--source", metavar="KIND:PATH", help="only the stages of this folder")
    parser.add_argument("--given-proposals", action="store_true", help="only these rows")
    parser.add_argument("--limit", type=int, help="its first images by name")
    args = parser.parse_args(arguments)
    # One thread: processor time would add up several.
    devices.one_thread()
    # Rows follow one by one, as soon as they are measured.
    print_head()
    found = measured(args.images or (1 if args.quick else 4), args.quick, args.memory, args.peers)
    if args.given_proposals:
        found = pipeline.given_proposals(4 * (args.images or 1), args.peers)
    if args.source:
        found = stages.rows(args.source, args.limit)
    rows = []
    for row in found:
        print(row, flush=True)
        rows.append(row)
    return rows


def measured(images: int, quick: bool, memory_images: int, peers: Path) -> Iterator[Claim]:
    """Every row, as soon as it is measured."""
    if memory_images:
        # First, because models of other rows would still occupy memory.
        yield from memory.rows(memory_images)
    yield from proposals.rows(images, full_size=not quick)
    yield from foreground.rows(images)
    yield from pipeline.rows(4 * images, peers)
    yield cached_run()


def cached_run() -> Claim:
    """The same command again, served from the published version; wall time, as it has workers."""
    with tempfile.TemporaryDirectory() as folder:
        # A small category: the ratio hardly depends on its size.
        root = write_loco(
            Path(folder), "bag", train=6, validation=2, test_good=1, per_defect=1, size=256
        )
        manifest = manifest_for_source("mvtec_loco", root, store=str(Path(folder) / "store"))
        settings = resolve(manifest, "bag")
        first = generate(settings, workers=2).seconds
        # `median_seconds` discards one call; every call finds the published version.
        again = median_seconds(lambda: generate(settings, workers=2), repeats=3)
    return Claim("second run, 8 images, wall", f"{again:.3f} s", "first run", f"{first:.3f} s",
                 first / again, 10)  # fmt: skip


if __name__ == "__main__":
    sys.exit(not all(row.holds for row in main(sys.argv[1:])))

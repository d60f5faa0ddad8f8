"""Speed of training and scoring of detectors, against anomalib's EfficientAD-M in the same run.

    python -m benchmarks.detectors [--quick] [--json FILE] [--peers .venv-peers] [--threads 1]

Ours and theirs take turns, call by call; medians of processor time with one thread, of wall time
with more. Teachers and images are random: values do not change the time of a convolution. anomalib
runs in its own process in the environment that `make test-peers` builds; without it, the rows that
need it are left out with the reason. Claims about bfloat16 are checked where the processor
multiplies it in tiles (AMX), those about GPUs where there is one; elsewhere the ratios are printed
for information. `--quick` uses small networks and claims nothing about them.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.detectors.own import glcf_rows, gpu_rows, scoring_rows
from benchmarks.detectors.peers import against_anomalib
from benchmarks.detectors.rendered import loading_rows, precision_rows, rendered_version
from benchmarks.detectors.rows import HEAD, Timing
from benchmarks.runs import hardware, table
from pipeline.models import device as devices


def main(arguments: Sequence[str] = ()) -> list[Timing]:
    """Print the table and return its rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small networks, no claims")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    peers = Path(os.environ.get("PEERS", ".venv-peers"))
    parser.add_argument("--peers", type=Path, default=peers, help="environment with anomalib")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    devices.one_thread()
    torch.set_num_threads(args.threads)
    # Processor time of several threads would add up.
    kept = "processor" if args.threads == 1 else "wall"
    print(f"\n## Detectors\n\n{hardware()}; {kept} time on the CPU, wall time with "
          "synchronisation on a GPU\n")  # fmt: skip
    # Rows follow one by one, as soon as they are measured.
    print(table(HEAD, ()), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measured(args, Path(folder)):
            print(row, flush=True)
            rows.append(row)
    if args.json:
        # The hardware belongs to the numbers.
        content = {
            "hardware": hardware(), "threads": args.threads,
            "rows": [row.to_json() for row in rows],
        }  # fmt: skip
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    return rows


def measured(args: argparse.Namespace, folder: Path) -> Iterator[Timing]:
    """All rows, one group after another."""
    yield from against_anomalib(args.peers, args.quick, args.threads)
    yield from glcf_rows(args.quick)
    yield from scoring_rows()
    yield from gpu_rows()
    # The rows above need random numbers only; those below need a dataset version.
    version = rendered_version(folder)
    yield from loading_rows(version, args.quick)
    yield from precision_rows(version, folder)


if __name__ == "__main__":
    sys.exit(not all(row.holds for row in main(sys.argv[1:])))

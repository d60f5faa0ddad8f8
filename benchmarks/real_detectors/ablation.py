"""Does training on synthetic anomalies help SemRec? Rows that differ in what its U-Net sees.

All rows have encoders of their own, the same steps and no early stopping: its criterion would
favour rows that train on what is validated. The local branch is the same in all of them.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.ablation.__main__ import pair
from benchmarks.real_detectors.mending import share_mended
from benchmarks.real_detectors.table import COLUMNS
from benchmarks.runs import Result, found, hardware, run, spread, table
from detectors.networks.corruption import LEVELS
from detectors.registry import Profile, Recipe, configure
from detectors.training.checkpoint import load
from pipeline.dataset.version import Version


@dataclass(frozen=True, slots=True)
class Row:
    """One variant: name, what the object branch's inputs are, and the changed settings."""

    name: str
    words: str
    changes: Mapping[str, Any] = field(default_factory=dict)


ROWS = (
    Row("edited", "edited images of pairs, some clean ones", {}),
    Row("clean", "clean images only", {"clean_share": 1.0}),
    # With shared inputs the object branch, too, gets Perlin noise on the (here clean) image.
    Row("perlin", "Perlin noise on clean images only", {"clean_share": 1.0, "inputs": "shared"}),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the ablation besides those of every training."""
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--branches", choices=("both", "object"), default="both",
                        help="object: without the local branch, which no row changes")  # fmt: skip
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE",
                        help="settings that all rows share")  # fmt: skip


def main(args: argparse.Namespace, chosen: Sequence[Version]) -> list[Result]:
    """Train what is missing and print the table; the results, each with `row` and `mended`."""
    torch.set_num_threads(args.threads)
    shared = {"branches": args.branches, **dict(map(pair, args.set))}
    results: list[Result] = []
    for version in chosen:
        for row in (row for row in ROWS if row.name in args.rows):
            recipe = recipe_of(row, args.profile, args.steps, shared)
            for seed in args.seeds:
                result = run(version, recipe, seed, args.out, label=f"semrec-{row.name}",
                             device=args.device, precision=args.precision)  # fmt: skip
                # Measured anew each time: it takes seconds, and results stay as `run` wrote them.
                restored = load(result["checkpoint"], args.device, args.precision)
                mended = share_mended(restored, version)
                results.append({**result, "row": row.name, "mended": mended})
                print(f"{version.category}, {row.name}, seed {seed}: "
                      f"{spread(found([result], COLUMNS['all']))} after "
                      f"{result['train_seconds']:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    print(f"SemRec, profile {args.profile}, {args.steps} steps, seeds {args.seeds}. {hardware()}.")
    print(f"\n{table_of(results)}")
    return results


def recipe_of(row: Row, profile: Profile, steps: int, shared: Mapping[str, Any]) -> Recipe:
    """SemRec's recipe of a row: own encoders, the map's score alone, exactly `steps` steps."""
    fixed = {"encoders": "own", "regions": (), "steps": steps, "min_steps": 0, "stop_on": "never",
             "validate_every": 0}  # fmt: skip
    return configure("semrec", profile, {**fixed, **shared, **row.changes})


def table_of(results: Sequence[Result]) -> str:
    """A Markdown table, one row per set and variant: AUROC, and the share mended at each level."""
    words = {row.name: row.words for row in ROWS}
    head = ("set", "row", "the U-Net trains on", *(f"image AUROC, {name}" for name in COLUMNS),
            *(f"mended, {level}" for level in LEVELS))  # fmt: skip
    rows = []
    for category, name in dict.fromkeys((r["category"], r["row"]) for r in results):
        of = [r for r in results if (r["category"], r["row"]) == (category, name)]
        rows.append([
            category, name, words[name],
            *(spread(found(of, path)) for path in COLUMNS.values()),
            *(spread(found(of, f"mended.{level}"), 2) for level in LEVELS),
        ])  # fmt: skip
    return table(head, rows)

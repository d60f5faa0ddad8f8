"""Ablation of GLCF: the rows of the paper's ablation, and ours, as settings.

    python -m benchmarks.glcf_ablation --versions STORE/tray/0001-* STORE/bag/0001-* --seeds 0 1 2 \
        --out out/glcf-ablation

A row either trains, or scores the network of `full` again with other weights of scales and branches
(it starts from that checkpoint and trains no step). For one version and seed, eight networks are
trained. Finished runs are reused and interrupted ones resumed, so the command may be repeated and
extended. The tables go to standard output and to `OUT/glcf.md`, the numbers to `OUT/glcf.json`.
Test images are scored at the end and select nothing.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.ablation.__main__ import pair
from benchmarks.ablation.tables import Runs, report
from benchmarks.command import command
from benchmarks.runs import Result, run
from detectors.registry import PROFILES, Profile, configure
from pipeline.dataset.version import Version, open_version
from pipeline.errors import UserError
from pipeline.utils.files import write_atomic

FULL = "full"


@dataclass(frozen=True, slots=True)
class Row:
    """One variant: the settings that it changes, and whether it needs a training of its own."""

    name: str
    words: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = True


# Name, description in the table, changed settings; the last value tells whether the row trains.
ROWS = (
    Row(FULL, "as the settings say: PSS, three scales, both branches"),
    Row("no-bottleneck", "decoders see the deepest level", {"bottleneck": False}),
    Row("no-ms-pem", "tokens of stride 32 only", {"embedded": (3,)}),
    Row("no-aggregation", "no semantic tokens", {"aggregation": "none"}),
    Row("ps", "semantic tokens: PS", {"aggregation": "ps"}),
    Row("pgs", "semantic tokens: PGS", {"aggregation": "pgs"}),
    Row("pss", "semantic tokens: PSS", {"aggregation": "pss"}),
    Row("expand", "up-sampling of the released code", {"up": "expand"}),
    Row("clean-target", "GLCF-D: synthetic samples, clean target", {"clean_target": True}),
    Row("correspondence", "global map: F against G", {"global_map": "correspondence"}, False),
    Row("stride-4", "finest scale alone", {"scale_weights": (1, 0, 0)}, False),
    Row("stride-8", "middle scale alone", {"scale_weights": (0, 1, 0)}, False),
    Row("stride-16", "coarsest scale alone", {"scale_weights": (0, 0, 1)}, False),
    Row("local", "local branch alone", {"branch_weights": (1, 0)}, False),
    Row("global", "global branch alone", {"branch_weights": (0, 1)}, False),
    Row("calibrated", "weights chosen on synthetics", {"weights": "calibrated"}, False),
    Row("distance", "image score: distance of what all maps hold", {"score": "distance"}, False),
)
# The published score; others do not depend on the weights, which rows change.
PUBLISHED: Mapping[str, Any] = {"regions": (), "score": "deviation"}


def main(arguments: Sequence[str] | None = None) -> Path:
    """Train and score missing runs, print the tables and return the output folder."""
    args = _parser().parse_args(arguments)
    # In the order of ROWS, whatever the order of the arguments.
    rows = [row for row in ROWS if row.name in args.rows]
    changes: dict[str, Any] = dict(pair(text) for text in args.set)
    if args.steps is not None:
        # Applied to all rows.
        changes |= {"steps": args.steps}
    # Row -> category -> seed -> result, as the tables expect it.
    found: Runs = {}
    for version in opened(args.versions):
        for seed in args.seeds:
            results = measured(rows, version, seed, args.out, args.profile, changes, args.device)
            for name, result in results.items():
                found.setdefault(name, {}).setdefault(version.category, {})[seed] = result
    words = {row.name: row.words for row in rows}
    text = report(found, words, [], args.profile, what="GLCF", against=FULL)
    print(text)
    write_atomic(args.out / "glcf.md", text.encode())
    write_atomic(args.out / "glcf.json", json.dumps(found, indent=1).encode())
    return Path(args.out)


def opened(folders: Sequence[Path]) -> list[Version]:
    """Open the versions; UserError when two are of the same category, which tables cannot show."""
    found = [open_version(folder) for folder in folders]
    categories = [version.category for version in found]
    for category in categories:
        # Results are kept by category, so a second version would overwrite the first.
        if categories.count(category) > 1:
            raise UserError(f"two versions are of {category}; name one version per category")
    return found


def measured(
    rows: Sequence[Row],
    version: Version,
    seed: int,
    out: Path,
    profile: Profile,
    changes: Mapping[str, Any],
    device: str = "auto",
) -> dict[str, Result]:
    """The result of every row; `full` is also trained when only its derived rows are given."""
    results: dict[str, Result] = {}

    def once(row: Row, start: Path | None = None) -> Result:
        # No step: only the settings of scoring differ from `full`.
        steps = {"steps": 0} if start else {}
        recipe = configure("glcf", profile, {**PUBLISHED, **changes, **row.changes, **steps})
        # Runs that only score have a label of their own: they must not be mistaken for the trained
        # `full`.
        made = run(
            version, recipe, seed, out / "runs", start=start, device=device, details=True,
            label="glcf-scored" if start else "",
        )  # fmt: skip
        auroc = made["metrics"]["image_auroc"]
        score = "no AUROC" if auroc is None else f"image AUROC {auroc:.3f}"
        print(f"{version.category}, seed {seed}, {row.name}: {score}", file=sys.stderr, flush=True)
        return made

    for row in rows:
        if row.trains:
            results[row.name] = once(row)
            continue
        # Trained at most once: `run` returns a finished run from its folder.
        full = results.get(FULL) or once(ROWS[0])
        results[row.name] = once(row, Path(full["checkpoint"]))
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--versions", type=Path, nargs="+", required=True, metavar="DIR",
                        help="dataset versions, one per category")  # fmt: skip
    parser.add_argument("--rows", nargs="+", default=[row.name for row in ROWS], metavar="NAME",
                        choices=[row.name for row in ROWS])  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--profile", choices=PROFILES, default="cpu")
    parser.add_argument("--steps", type=int, help="instead of the profile's")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE",
                        help="settings that all rows share")  # fmt: skip
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("out/glcf-ablation"))
    return parser


if __name__ == "__main__":
    command("glcf_ablation", main)

"""Ablation of SemRec: the variants of `ROWS`, several seeds, paired differences.

    anomalysmith generate --manifest m.yaml                   # preset full, holes by LaMa
    anomalysmith generate --manifest m.yaml --preset paper
    anomalysmith generate --manifest m.yaml --inpaint telea
    python -m benchmarks.ablation --store STORE --categories tray bag pins --out out/ablation

Every row of `ROWS` selects the versions that it trains on by how they were generated, and names the
settings that it changes. A row without such a version is left out and reported. Finished runs are
reused and interrupted ones resumed, so the command may be repeated and extended; `--jobs 2` trains
two at a time and divides the threads between them. The tables go to standard output and to
`OUT/ablation.md`, the numbers to `OUT/ablation.json`. Test images are scored at the end and select
nothing.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation.tables import Runs, report
from benchmarks.command import command
from benchmarks.runs import Result, run
from detectors.registry import PROFILES, Profile, Recipe, configure
from pipeline.dataset.version import Version, open_version, versions
from pipeline.errors import UserError
from pipeline.utils.files import write_atomic
from pipeline.utils.hashing import digest_of

# Backends that inpaint without a network.
PLAIN = ("telea", "ns")


@dataclass(frozen=True, slots=True)
class Row:
    """One variant: name, description, kind of version (see `chosen`), and changed settings."""

    name: str
    words: str
    made: str
    changes: Mapping[str, Any] = field(default_factory=dict)


# f1 and f2 repeat e on versions of one inpainter each.
ROWS = (
    Row("a", "no object branch", "full", {"branches": "local"}),
    Row("b", "clean pairs only", "full", {"clean_share": 1.0}),
    Row("c", "preset paper", "paper", {"controls": False}),
    Row("d", "preset full, no controls", "full", {"controls": False}),
    Row("e", "preset full, controls", "full"),
    Row("f1", "as e, holes filled by Telea", "telea"),
    Row("f2", "as e, holes filled by small LaMa", "small_lama"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One training, which several rows may share; identified by version, recipe and seed."""

    version: Path
    recipe: Recipe
    seed: int
    label: str


def main(arguments: Sequence[str] | None = None) -> Path:
    """Train missing runs, print the tables and return the output folder."""
    args = _parser().parse_args(arguments)
    rows = [row for row in ROWS if row.name in args.rows]
    changes = dict(pair(text) for text in args.set)
    if args.steps is not None:
        # min_steps 0: early stopping may not ask for more steps than there are.
        changes |= {"steps": str(args.steps), "min_steps": "0"}
    jobs, remarks = planned(rows, args.store, args.categories, args.seeds, args.profile, changes)
    # Rows that share a training refer to one job: each job runs once.
    done = carried_out(sorted(set(jobs.values()), key=str), args.out, args.jobs, args.device)
    found: Runs = {}
    for (row, category, seed), job in jobs.items():
        found.setdefault(row, {}).setdefault(category, {})[seed] = done[job]
    text = report(found, {row.name: row.words for row in rows}, remarks, args.profile)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out / "ablation.md", text.encode())
    write_atomic(args.out / "ablation.json", json.dumps(found, indent=1).encode())
    return Path(args.out)


def planned(
    rows: Sequence[Row],
    stores: Sequence[Path],
    categories: Sequence[str],
    seeds: Sequence[int],
    profile: Profile,
    changes: Mapping[str, Any],
) -> tuple[dict[tuple[str, str, int], "Job"], list[str]]:
    """The training of every row, category and seed, and remarks on rows that are left out."""
    jobs: dict[tuple[str, str, int], Job] = {}
    remarks = []
    for category in categories:
        # Versions may be spread over several stores, for example one per inpainter.
        known = [version for store in stores for version in versions(store, category)]
        if not known:
            raise UserError(f"no version of {category} in {', '.join(map(str, stores))}")
        for row in rows:
            version = chosen(known, row.made)
            if version is None:
                remarks.append(f"{row.name} has no version of {category} made by `{row.made}`")
                continue
            recipe = configure("semrec", profile, {**changes, **row.changes})
            for seed in seeds:
                jobs[row.name, category, seed] = Job(version.dir, recipe, seed, row.name)
    return _shared(jobs), remarks


def chosen(known: Iterable[Version], made: str) -> Version | None:
    """The newest version of a kind: `paper` or `full` (by a network), or full by one inpainter."""
    fitting = []
    for version in known:
        edits, inpainter = version.index["settings"]["edits"], inpainter_of(version)
        # LaMa of any size, or a diffusion model.
        by_network = inpainter not in PLAIN
        # A list of kinds would replace the preset's.
        full = edits["preset"] == "full" and edits["kinds"] is None
        ways = {"paper": edits["preset"] == "paper" and by_network, "full": full and by_network}
        if ways.get(made, full and inpainter == made):
            fitting.append(version)
    # `versions` lists the oldest first.
    return fitting[-1] if fitting else None


def inpainter_of(version: Version) -> str:
    """The inpainting backend as recorded in the index; empty when it is not recorded."""
    names = [name for name in version.index["weights"] if name.startswith("inpaint/")]
    return names[0].removeprefix("inpaint/") if names else ""


def carried_out(jobs: Sequence[Job], out: Path, workers: int, device: str) -> dict[Job, Result]:
    """Every result, trained where missing; `workers` at a time, each in a process of its own."""
    done: dict[Job, Result] = {}
    # Processes share the cores.
    threads = max(1, torch.get_num_threads() // workers)
    # Spawn: forked processes would inherit PyTorch's threads in an undefined state.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _threads, (threads,))
    with pool:
        waiting = {pool.submit(_one, job, out / "runs", device): job for job in jobs}
        for number, finished in enumerate(as_completed(waiting), 1):
            job = waiting[finished]
            done[job] = result = finished.result()
            auroc = result["metrics"]["image_auroc"]
            score = "no AUROC" if auroc is None else f"image AUROC {auroc:.3f}"
            print(
                f"[{number}/{len(jobs)}] {job.label}, {result['category']}, seed {job.seed}: "
                f"{score} after {result['steps']} steps, {result['train_seconds']:.0f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return done


def _one(job: Job, out: Path, device: str) -> Result:
    version = open_version(job.version)
    # One label for all rows: shared trainings must share a folder.
    return run(version, job.recipe, job.seed, out, label="semrec", device=device, details=True)


def _threads(count: int) -> None:
    torch.set_num_threads(count)


def _shared(jobs: dict[tuple[str, str, int], Job]) -> dict[tuple[str, str, int], Job]:
    """The same mapping with one job for all rows that amount to the same training."""
    first: dict[str, Job] = {}
    shared = {}
    for key, job in jobs.items():
        # Two rows amount to the same training when version, category, seed and settings are equal.
        parts = (job.version.name, key[1], job.seed, job.recipe.settings.model_dump(mode="json"))
        shared[key] = first.setdefault(digest_of(parts), job)
    return shared


def pair(text: str) -> tuple[str, str]:
    """Split `KEY=VALUE`; UserError without an equals sign."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes KEY=VALUE, got {text!r}")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, action="append", required=True, metavar="DIR",
                        help="where the versions are; may be given several times")  # fmt: skip
    parser.add_argument("--categories", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--rows", nargs="+", default=[row.name for row in ROWS], metavar="LETTER",
                        choices=[row.name for row in ROWS])  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--profile", choices=PROFILES, default="tiny")
    parser.add_argument("--steps", type=int, help="instead of the profile's")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE",
                        help="settings that all rows share")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    return parser


if __name__ == "__main__":
    command("ablation", main)

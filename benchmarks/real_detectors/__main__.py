"""Do the detectors detect on scenes of real parts and on photographs? Sets, versions, tables.

    python -m benchmarks.real_detectors make --kind free --photographs MVTEC_AD --out DIR
    python -m benchmarks.real_detectors subset --data DIR --normals 20 --out DIR20
    python -m benchmarks.real_detectors generate --data DIR --store STORE
    python -m benchmarks.real_detectors run --store STORE --profile cpu --seeds 0 1 2
    python -m benchmarks.real_detectors ablation --store STORE --categories free --steps 2000
    python -m benchmarks.real_detectors reasons --checkpoint RUN/checkpoint --data DIR

Everything but `make` and `subset` takes any folder or version, for example of MVTec AD. Finished
trainings are read again and interrupted ones resumed. Test images are scored at the end and select
nothing.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.command import command
from benchmarks.real_detectors import ablation, reasons
from benchmarks.real_detectors.contents import ARRANGEMENTS
from benchmarks.real_detectors.folder import write_set, write_subset
from benchmarks.real_detectors.stores import generate_store
from benchmarks.real_detectors.table import table_of
from benchmarks.real_parts.backgrounds import BACKGROUNDS
from benchmarks.results import runs_of
from benchmarks.runs import Result, hardware
from detectors.registry import DETECTORS, PROFILES
from pipeline.dataset.version import Version, open_version, versions
from pipeline.errors import UserError
from pipeline.utils.files import write_atomic

PHOTOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "mvtec_ad"


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    args.act(args)


def make(args: argparse.Namespace) -> None:
    """Write a set of composed scenes."""
    started = time.perf_counter()
    used = write_set(
        args.out, args.kind, args.photographs, normals=args.normals, good_test=args.good,
        logical=args.logical, structural=args.structural, seed=args.seed, size=args.size,
        background=args.background,
    )  # fmt: skip
    for kind, counts in used.counts().items():
        print(f"{kind}: " + ", ".join(f"{n} {pool}" for pool, n in counts.items()) + " photographs")
    print(f"{args.out}: {time.perf_counter() - started:.0f} s")


def subset(args: argparse.Namespace) -> None:
    """Copy a set with fewer normals."""
    write_subset(args.data, args.out, args.normals)
    print(f"{args.out}: the first {args.normals} normals of {args.data}")


def generate(args: argparse.Namespace) -> None:
    """Generate a version from a folder."""
    report = generate_store(
        args.data, args.store, category=args.category, layout=args.layout,
        per_image=args.per_image, limit=args.limit, workers=args.workers,
    )  # fmt: skip
    print(
        f"{report.version_dir}: {report.images} images, {report.anomalous} anomalous of "
        f"{report.accepted} accepted samples, {report.seconds:.0f} s"
    )


def run(args: argparse.Namespace) -> None:
    """Train and evaluate detectors, then print the table."""
    torch.set_num_threads(args.threads)
    results: list[Result] = []
    for version in chosen(args.store, args.categories):
        for seed in args.seeds:
            results += runs_of(version, args.detectors, args.profile, args.steps, seed, args.out,
                               args.device, args.precision)  # fmt: skip
    _written(results, args.json)
    print(f"Profile {args.profile}, seeds {args.seeds}. {hardware()}.\n\n{table_of(results)}")


def ablated(args: argparse.Namespace) -> None:
    """Train SemRec's variants, then print the table."""
    _written(ablation.main(args, chosen(args.store, args.categories)), args.json)


def reasons_of(args: argparse.Namespace) -> None:
    """Compare the reasons of a checkpoint of `parts` with the truth."""
    print(f"{args.data}: {reasons.measure(args.checkpoint, args.data)}")


def _written(results: Sequence[Result], path: Path | None) -> None:
    if path:
        write_atomic(path, json.dumps(results, indent=1).encode())


def chosen(stores: Sequence[Path], categories: Sequence[str] | None) -> list[Version]:
    """The newest version of every category in stores; a store may also be a version's own folder.

    UserError when nothing is found.
    """
    found: dict[str, Version] = {}
    for store in stores:
        if (store / "index.json").is_file():
            one = open_version(store)
            found[one.category] = one
            continue
        names = categories or sorted(path.name for path in store.iterdir() if path.is_dir())
        # `versions` lists the oldest first.
        found |= {name: known[-1] for name in names if (known := versions(store, name))}
    if not found:
        raise UserError(f"no version in {', '.join(map(str, stores))}; generate one first")
    return list(found.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    made = commands.add_parser("make", help="compose a set of real parts")
    made.set_defaults(act=make)
    made.add_argument("--kind", choices=ARRANGEMENTS, required=True)
    made.add_argument("--out", type=Path, required=True, metavar="DIR")
    made.add_argument("--photographs", type=Path, default=PHOTOGRAPHS, metavar="DIR")
    made.add_argument("--normals", type=int, default=150)
    made.add_argument("--good", type=int, default=60, help="good test images")
    made.add_argument("--logical", type=int, default=80, help="test images that break the rule")
    made.add_argument("--structural", type=int, default=40, help="with a really broken part")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--size", type=int, default=256, help="px")
    made.add_argument("--background", choices=BACKGROUNDS, default="cloth")

    cut = commands.add_parser("subset", help="the same set with fewer normals")
    cut.set_defaults(act=subset)
    cut.add_argument("--data", type=Path, required=True, metavar="DIR")
    cut.add_argument("--out", type=Path, required=True, metavar="DIR")
    cut.add_argument("--normals", type=int, required=True, help="the first so many by name")

    generated = commands.add_parser("generate", help="a dataset version of a folder")
    generated.set_defaults(act=generate)
    generated.add_argument("--data", type=Path, required=True, metavar="DIR")
    generated.add_argument("--store", type=Path, required=True, metavar="DIR")
    generated.add_argument("--category", help="instead of the folder's name")
    generated.add_argument("--layout", help="instead of the guessed one")
    generated.add_argument("--per-image", type=int, help="samples, instead of the default")
    generated.add_argument("--limit", type=int, help="only the first so many normals")
    generated.add_argument("--workers", type=int, default=1)

    ran = commands.add_parser("run", help="train, evaluate, print the table")
    ran.set_defaults(act=run)
    ran.add_argument("--detectors", nargs="+", default=list(DETECTORS), metavar="NAME")
    ran.add_argument("--steps", type=int, help="instead of the profile's")

    mended = commands.add_parser("ablation", help="does training on synthetic pairs help SemRec?")
    mended.set_defaults(act=ablated)
    ablation.add_arguments(mended)

    why = commands.add_parser("reasons", help="does `parts` name the rule that is broken?")
    why.set_defaults(act=reasons_of)
    why.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    why.add_argument("--data", type=Path, required=True, metavar="DIR")

    for trains, out in ((ran, "out/real"), (mended, "out/real-ablation")):
        trains.add_argument("--store", type=Path, nargs="+", required=True, metavar="DIR",
                            help="stores, or folders of single versions")  # fmt: skip
        trains.add_argument("--categories", nargs="+", metavar="NAME", help="instead of all")
        trains.add_argument("--profile", choices=PROFILES, default="tiny")
        trains.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
        trains.add_argument("--out", type=Path, default=Path(out), metavar="DIR")
        trains.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, too")
        trains.add_argument("--threads", type=int, default=torch.get_num_threads())
        trains.add_argument("--device", default="auto")
        trains.add_argument("--precision", default="auto")
    return parser


if __name__ == "__main__":
    command("real_detectors", main)

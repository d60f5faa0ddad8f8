"""Every detector on every version with several seeds: the tables of docs/results.md.

    python -m benchmarks.results --versions STORE/tray/0001-… STORE/bottle/0001-… \
        --profile tiny --seeds 0,1,2 --out out/results

Finished runs are reused and interrupted ones resumed, so the command may be repeated and extended.
PUAD is EfficientAD with another score: where both are given, it starts from EfficientAD's
checkpoint of the same seed and trains no step; its seconds include EfficientAD's. Runs that are not
possible (no samples, no teacher) are reported and left out. Test images are scored at the end and
select nothing.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from scipy.stats import spearmanr

from benchmarks.published import SHIFTED, published
from benchmarks.runs import Result, found, hardware, run, spread, table
from detectors.models.efficientad.settings import EfficientAdSettings
from detectors.registry import DETECTORS, PROFILES, Profile, Recipe, configure
from pipeline.dataset.version import Version, open_version
from pipeline.errors import AnomalysmithError

# Title of a table, and the dotted path of its metric in a result.
TABLES = (
    ("image AUROC, all anomalies", "metrics.image_auroc"),
    ("image AUROC, logical anomalies", "metrics.per_type.logical.image_auroc"),
    ("image AUROC, structural anomalies", "metrics.per_type.structural.image_auroc"),
    ("AUPRO", "metrics.aupro"),
    ("AU-sPRO at 0.05", "metrics.spro"),
    ("IAP", "metrics.iap"),
    ("IAP@90", "metrics.iap90"),
    ("image AUROC of validation normals against validation synthetics", "validation.auroc"),
    ("seconds of training", "train_seconds"),
)
# The two metrics whose correlation is reported.
VALIDATION, TEST = "validation.auroc", "metrics.image_auroc"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--versions", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), metavar="NAME")
    parser.add_argument("--profile", choices=PROFILES, default="tiny")
    parser.add_argument("--steps", type=int, help="instead of the profile's")
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for version in map(open_version, args.versions):
        for seed in map(int, args.seeds.split(",")):
            # All detectors of one version and seed together, because PUAD reuses EfficientAD's run.
            results += runs_of(version, args.detectors, args.profile, args.steps, seed, args.out,
                               args.device, args.precision)  # fmt: skip
    print("\n".join(report(results, args.profile)))


def runs_of(
    version: Version,
    detectors: Sequence[str],
    profile: Profile,
    steps: int | None,
    seed: int,
    out: Path,
    device: str = "auto",
    precision: str = "auto",
) -> list[Result]:
    """The results of detectors on one version with one seed; failures go to standard error."""
    done: dict[str, Result] = {}
    # PUAD last, so that EfficientAD's checkpoint exists.
    for name in sorted(detectors, key=lambda name: name == "puad"):
        start = None
        try:
            recipe = recipe_of(name, profile, steps)
            if name == "puad" and "efficientad" in done:
                start = Path(done["efficientad"]["checkpoint"])
                # PUAD's recipe with exactly EfficientAD's settings, so that the weights fit.
                recipe = sharing(recipe_of("efficientad", profile, steps), profile)
            result = run(version, recipe, seed, out, start=start, device=device,
                         precision=precision)  # fmt: skip
        # A run that is impossible must not stop the others.
        except AnomalysmithError as error:
            print(f"{version.category}, {name}, seed {seed}: left out: {error}", file=sys.stderr)
            continue
        # PUAD needs EfficientAD's training, so its time counts.
        if start is not None:
            shared = done["efficientad"]["train_seconds"]
            result = result | {"train_seconds": result["train_seconds"] + shared}
        done[name] = result
        print(
            f"{version.category}, {name}, seed {seed}: {spread(found([result], TEST))} after "
            f"{result['train_seconds']:.0f} s",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    # In the given order again.
    return [done[name] for name in detectors if name in done]


def recipe_of(name: str, profile: Profile, steps: int | None) -> Recipe:
    """The profile's recipe, with `steps` instead of its own where the detector trains at all."""
    recipe = configure(name, profile)
    if steps is None or not recipe.schedule.steps:
        return recipe
    # min_steps 0: early stopping may not ask for more steps than there are.
    return configure(name, profile, {"steps": steps, "min_steps": 0})


def sharing(efficientad: Recipe, profile: Profile) -> Recipe:
    """PUAD with the settings of that EfficientAD and no training step of its own."""
    assert isinstance(efficientad.settings, EfficientAdSettings)
    return configure("puad", profile, efficientad.settings.model_dump() | {"steps": 0})


def report(results: Sequence[Result], profile: str) -> list[str]:
    """The page: a table per metric, and the correlation of synthetic validation and real test."""
    seeds = sorted({result["seed"] for result in results})
    lines = [
        f"Profile {profile}, seeds {', '.join(map(str, seeds))}; mean ± standard deviation over "
        "seeds; in brackets the 95 % bootstrap interval over test images, its ends averaged over "
        f"seeds. {hardware()}.",
        "",
        tests(results),
    ]
    for title, path in TABLES:
        # A metric that no run has (no pixel masks, no such type) has no table.
        if found(results, path):
            lines += ["", f"### {title}", "", metric_table(results, path)]
    if any(quoted(result, metric) for result in results if result["detector"] == "destseg"
           for metric in ("iap", "iap90")):  # fmt: skip
        lines += ["", SHIFTED]
    return [*lines, "", "### Does validation on synthetics correlate with the test?", "",
            *correlation(results)]  # fmt: skip


def tests(results: Sequence[Result]) -> str:
    """Table of the numbers of good and anomalous test images of each category."""
    rows = {
        column(r): (r["metrics"]["good"], r["metrics"]["images"] - r["metrics"]["good"])
        for r in results
    }
    return table(("test images", *rows), [
        ("good", *(good for good, _ in rows.values())),
        ("anomalous", *(bad for _, bad in rows.values())),
    ])  # fmt: skip


def metric_table(results: Sequence[Result], path: str) -> str:
    """Table of detectors by categories, with published values where there are any."""
    # Unique, in the order of first appearance.
    labels = list(dict.fromkeys(result["label"] for result in results))
    columns = list(dict.fromkeys(map(column, results)))
    rows = [
        [label, *(
            cell([r for r in results if (r["label"], column(r)) == (label, name)], path)
            for name in columns
        )]
        for label in labels
    ]  # fmt: skip
    return table(("detector", *columns), rows)


def cell(results: Sequence[Result], path: str) -> str:
    """Text of one cell: a detector on a category, over its seeds."""
    # Seconds are shown without decimals.
    text = spread(found(results, path), 0 if path == "train_seconds" else 3)
    head, _, metric = path.rpartition(".")
    intervals = [
        pair
        for result in results
        if metric == "image_auroc" and (pair := interval(result, head, metric)) is not None
    ]
    # Bootstrap intervals differ between seeds; their ends are averaged.
    if intervals:
        low, high = (statistics.fmean(ends) for ends in zip(*intervals, strict=True))
        text += f" [{low:.2f}, {high:.2f}]"
    if results and head == "metrics" and (value := quoted(results[0], metric)) is not None:
        text += f" (published {value:.3f})"
    return text


def interval(result: Result, head: str, metric: str) -> tuple[float, float] | None:
    """The bootstrap interval of a metric of the pool or of an anomaly type."""
    # A missing level (a type without images) ends in None.
    place = result
    for part in head.split("."):
        place = place.get(part) or {}
    pair = (place.get("intervals") or {}).get(metric)
    return None if pair is None else (pair[0], pair[1])


def quoted(result: Result, metric: str) -> float | None:
    """The published value for a photographed category; there is none for rendered ones."""
    # Both kinds have a category `bottle`; the licence tells them apart.
    if "rendered" in result["licence"]:
        return None
    return published(result["detector"], result["category"], metric)


def column(result: Result) -> str:
    """The category, marked when it is rendered: there are photographed and rendered bottles."""
    return result["category"] + (" (rendered)" if "rendered" in result["licence"] else "")


def correlation(results: Sequence[Result]) -> list[str]:
    """Spearman's correlation of validation and test image AUROC: over all runs, per category."""
    lines = [f"- all runs: {rank_correlation(results)}"]
    for name in dict.fromkeys(map(column, results)):
        of_category = [result for result in results if column(result) == name]
        lines.append(f"- {name}: {rank_correlation(of_category)}")
    return lines


def rank_correlation(results: Iterable[Result]) -> str:
    """Spearman's rho with its p-value and the number of runs, as text."""
    # Only runs that have both metrics.
    pairs = [
        (validation[0], test[0])
        for result in results
        if (validation := found([result], VALIDATION)) and (test := found([result], TEST))
    ]
    one, other = ([pair[place] for pair in pairs] for place in range(2))
    # A rank correlation of two values is always 1 or -1.
    if len(set(one)) < 3 or len(set(other)) < 3:
        return f"too few different values among {len(pairs)} runs"
    rho, p = spearmanr(one, other)
    return f"Spearman's rho = {rho:.2f} (p = {p:.2g}, {len(pairs)} runs)"


if __name__ == "__main__":
    main()

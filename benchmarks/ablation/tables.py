"""The tables of the ablation: means over categories and seeds, intervals, and paired differences.

An interval is the middle 95 % of bootstrap resamples. Each resample draws test images of every
category (stratified into good ones and anomaly types) and seeds, both with replacement, and takes
the mean. Two rows are compared on the same draws, so what is hard for both does not widen their
difference. IAP needs all pixels of all images at once; its intervals draw seeds only and do not
cover the choice of images.

Shapes: N test images; R resamples; S seeds; C categories.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations

import numpy as np

from benchmarks.runs import Result, hardware, table
from detectors.metrics.bootstrap import interval, resample_counts, resampled
from detectors.metrics.per_type import group_of
from pipeline.errors import IntegrityError
from pipeline.records import GOOD

# Results by row, category and seed.
Runs = dict[str, dict[str, dict[int, Result]]]

RESAMPLES = 1000
# Anomaly types that get a table each; pooled is all of them.
GROUPS = ("logical", "structural", "pooled")
METRICS = {"image_auroc": "image AUROC", "image_ap": "image AP", "iap": "IAP", "iap90": "IAP@90"}
# Metrics that resamples of images are computed for.
BY_IMAGE = ("image_auroc", "image_ap")
STAR = "A star: zero is outside the interval. IAP gets none, as its interval draws seeds only."
# Metrics of the table of paired differences.
COMPARED = ("image_auroc", "iap")


def report(
    found: Runs,
    words: Mapping[str, str],
    remarks: Sequence[str],
    profile: str,
    what: str = "SemRec",
    against: str | None = None,
) -> str:
    """The whole page in Markdown; rows are compared with each other, or with `against` only."""
    rows = [row for row in words if row in found]
    lines = [f"# Ablation of {what}, profile {profile}", "", hardware() + ".", ""]
    if not rows:
        return "\n".join([*lines, "No row could be trained.", *remarks, ""])
    # Steps and seeds of all runs, for the headline.
    runs = [result for row in rows for seeds in found[row].values() for result in seeds.values()]
    lines += [
        f"Categories: {', '.join(sorted({result['category'] for result in runs}))}; seeds: "
        f"{', '.join(map(str, sorted({result['seed'] for result in runs})))}; steps: "
        f"{', '.join(map(str, sorted({result['steps'] for result in runs})))}. Means over "
        "categories and seeds with 95 % intervals (images and seeds resampled; IAP: seeds only).",
        *(["", *(f"Left out: {remark}." for remark in remarks)] if remarks else []),
    ]
    for group in GROUPS:
        cells = [
            (row, words[row], *(_cell(found[row], group, metric) for metric in METRICS))
            for row in rows
        ]
        head = ("row", "variant", *METRICS.values())
        lines += ["", f"## {group} anomalies against good images", "", table(head, cells)]
    lines += ["", "## Paired differences", ""]
    head = ("rows", *(f"{METRICS[metric]}, {group}" for metric in COMPARED for group in GROUPS))
    pairs = [
        (f"{one} - {other}", *(
            difference(found[one], found[other], group, metric)
            for metric in COMPARED for group in GROUPS
        ))
        for one, other in combinations(rows, 2)
        if against in (None, one, other)
    ]  # fmt: skip
    lines += [table(head, pairs), "", STAR, ""]
    return "\n".join(lines)


def difference(one: Mapping, other: Mapping, group: str, metric: str) -> str:
    """Mean difference of two rows on their common runs, with its interval; a dash without any."""
    shared = {
        category: sorted(set(one[category]) & set(other[category]))
        for category in one
        if category in other
    }
    shared = {category: seeds for category, seeds in shared.items() if seeds}
    if not shared:
        return "–"
    for category, seeds in shared.items():
        # Paired differences need the same images in the same order.
        if _images(one[category][seeds[0]]) != _images(other[category][seeds[0]]):
            raise IntegrityError(
                f"the versions of {category} that are compared have different test images; "
                "generate them from the same source"
            )
    cut = [
        {c: {s: row[c][s] for s in seeds} for c, seeds in shared.items()} for row in (one, other)
    ]
    means = [mean(row, group, metric) for row in cut]
    if means[0] is None or means[1] is None:
        return "–"
    # Both use the same draws, so their difference is paired.
    first, second = (samples(row, group, metric) for row in cut)
    bounds = interval(first - second) if _drawn(cut[0], metric) else None
    return _written(means[0] - means[1], bounds, signed=True, starred=metric in BY_IMAGE)


def mean(row: Mapping, group: str, metric: str) -> float | None:
    """The mean over categories of the mean over seeds; None where a run lacks the metric."""
    means = []
    for seeds in row.values():
        values = [_value(result, group, metric) for result in seeds.values()]
        numbers = [value for value in values if value is not None]
        # A mean over some of the runs would not be comparable with other rows.
        if len(numbers) != len(values):
            return None
        means.append(float(np.mean(numbers)))
    return float(np.mean(means)) if means else None


def samples(row: Mapping, group: str, metric: str) -> np.ndarray:
    """Resampled means of a row, (R,). The draws depend on category and number of seeds only."""
    sums_R = np.zeros(RESAMPLES)
    for category, seeds in row.items():
        results = [seeds[seed] for seed in sorted(seeds)]
        if metric in BY_IMAGE:
            values_SR = np.stack([_resampled(result, group)[metric] for result in results])
        else:
            values = [_value(result, group, metric) for result in results]
            # Not resampled over images: the same value in every resample.
            values_SR = np.array(values, float)[:, None].repeat(RESAMPLES, 1)
        # The random stream depends on category and number of seeds, hence equal draws for all rows.
        stream = [len(results), *category.encode()]
        picks_RS = np.random.default_rng(stream).integers(
            0, len(results), (RESAMPLES, len(results))
        )
        # Mean over the drawn seeds, then over categories.
        sums_R += np.take_along_axis(values_SR.T, picks_RS, 1).mean(1)
    return sums_R / len(row)


def _cell(row: Mapping, group: str, metric: str) -> str:
    value = mean(row, group, metric)
    if value is None:
        return "–"
    return _written(value, interval(samples(row, group, metric)) if _drawn(row, metric) else None)


def _drawn(row: Mapping, metric: str) -> bool:
    """Whether there is something to resample: images, or several seeds."""
    return metric in BY_IMAGE or min(len(seeds) for seeds in row.values()) > 1


def _written(
    value: float, bounds: tuple[float, float] | None, signed: bool = False, starred: bool = False
) -> str:
    form = "{:+.3f}" if signed else "{:.3f}"
    if bounds is None:
        return form.format(value)
    # Zero outside the interval.
    star = "*" if starred and (bounds[0] > 0 or bounds[1] < 0) else ""
    return f"{form.format(value)}{star} ({form.format(bounds[0])} to {form.format(bounds[1])})"


def _value(result: Result, group: str, metric: str) -> float | None:
    metrics = result["metrics"]
    of = metrics if group == "pooled" else metrics["per_type"].get(group, {})
    return of.get(metric)


def _images(result: Result) -> tuple[tuple[str, str], ...]:
    return tuple((row["name"], row["type"]) for row in result["metrics"]["scores"])


def _resampled(result: Result, group: str) -> dict[str, np.ndarray]:
    scores = tuple(row["score"] for row in result["metrics"]["scores"])
    return _values(_images(result), scores, group)


@cache
def _values(
    images: tuple[tuple[str, str], ...], scores: tuple[float, ...], group: str
) -> dict[str, np.ndarray]:
    """Metrics of the resamples; the same images are drawn for every row and seed."""
    groups_N = np.array([group_of(type) for _, type in images])
    labels_N = (groups_N != GOOD).astype(np.int64)
    # Stratified by type; the fixed seed gives the same images for every run.
    counts_RN = resample_counts(groups_N, RESAMPLES, seed=0)
    wanted_N = (
        # Anomalies of the group against all good images.
        np.ones(len(images), bool) if group == "pooled" else (groups_N == group) | (labels_N == 0)
    )
    return resampled(labels_N[wanted_N], np.array(scores)[wanted_N], counts_RN[:, wanted_N])

"""The table of a set: image AUROC by anomaly type, false alarms at the 5 % line, what it costs.

    rows = table_of(results)

False alarms are counted over the good test images of all seeds.
"""

from collections.abc import Iterable, Sequence

from benchmarks.runs import Result, found, spread, table

COLUMNS = {
    "logical": "metrics.per_type.logical.image_auroc",
    "structural": "metrics.per_type.structural.image_auroc",
    "all": "metrics.image_auroc",
}
# The line that promises at most 5 % of false alarms.
LINE = "threshold_5"
HEAD = (
    "set", "detector", "runs", *(f"image AUROC, {name}" for name in COLUMNS),
    "false alarms at 5 %", "found at 5 %", "training, s", "per image, s",
)  # fmt: skip


def table_of(results: Sequence[Result]) -> str:
    """A Markdown table, one row per set and detector, mean ± deviation over seeds."""
    rows = []
    # In the order of first appearance.
    for category, label in dict.fromkeys((r["category"], r["label"]) for r in results):
        of = [r for r in results if (r["category"], r["label"]) == (category, label)]
        rows.append([
            category, label, len(of),
            *(spread(found(of, path)) for path in COLUMNS.values()),
            rate(of, "false_alarms", "good"), rate(of, "found", "anomalous"),
            spread(found(of, "train_seconds"), 0), spread(list(map(seconds_per_image, of))),
        ])  # fmt: skip
    return table(HEAD, rows)


def rate(results: Iterable[Result], count: str, total: str) -> str:
    """`9/180 (5.0 %)`: a count at the 5 % line over all runs that have this threshold."""
    lines = [result["metrics"]["thresholds"].get(LINE) for result in results]
    have = [line for line in lines if line is not None]
    if not have:
        return "–"
    counted, of = (sum(line[key] for line in have) for key in (count, total))
    share = f" ({100 * counted / of:.1f} %)" if of else ""
    missing = f", {len(lines) - len(have)} without" if len(have) < len(lines) else ""
    return f"{counted}/{of}{share}{missing}"


def seconds_per_image(result: Result) -> float:
    """Seconds of the evaluation, which also decodes and measures, per test image."""
    return float(result["evaluate_seconds"]) / max(1, int(result["metrics"]["images"]))

"""Statistics of a version: counts, acceptance, rejection reasons, mask areas, bytes."""

from typing import Any

import numpy as np

from pipeline.dataset.version import Version
from pipeline.reports.audit import text as audit_text
from pipeline.utils.text_table import table

# Of the mask areas.
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def stats(version: Version) -> dict[str, Any]:
    """All figures as a JSON-able mapping. Areas are fractions of the image."""
    # Counts come from the index; only mask areas and sizes are measured here.
    index = version.index
    counts = index["counts"]
    by_kind = {
        kind: row | {"rate": row["accepted"] / row["attempted"] if row["attempted"] else 0.0}
        for kind, row in sorted(counts["by_kind"].items())
    }
    # Sizes by path below the version's folder.
    files = {
        path.relative_to(version.dir).as_posix(): path.stat().st_size
        for path in sorted(version.dir.rglob("*"))
        if path.is_file()
    }
    return {
        "category": index["category"],
        "version": version.name,
        "digest": index["digest"],
        "licence": index["licence"],
        "image_size": index["image_size"],
        "images": counts["images"],
        "attempts": counts["attempts"],
        "accepted": counts["accepted"],
        "anomalous": counts["anomalous"],
        "controls": counts["controls"],
        "splits": counts["splits"],
        "test": counts["test"],
        "by_kind": by_kind,
        # Versions without a rule book have no such key; neither has an unaudited one below.
        **({"by_rule": counts["by_rule"]} if "by_rule" in counts else {}),
        "rejected": counts["rejected"],
        "failures": len(index["failures"]),
        "mask_area": _areas(version),
        **({"audit": index["audit"]} if "audit" in index else {}),
        "bytes": {"total": sum(files.values()), "files": files},
    }


def as_text(figures: dict[str, Any]) -> str:
    """The figures of `stats` as plain text tables."""
    # People expect width first.
    height, width = figures["image_size"]
    lines = [
        f"{figures['category']} {figures['version']}  {width}x{height}  "
        f"licence: {figures['licence'] or 'not stated'}",
        "",
        table(
            ("split", "images", "samples"),
            [(name, row["images"], row["samples"]) for name, row in figures["splits"].items()]
            + [("test", figures["test"]["images"], "-")],
        ),
        "",
        table(
            ("kind", "attempted", "accepted", "rate"),
            [
                (kind, row["attempted"], row["accepted"], f"{row['rate']:.0%}")
                for kind, row in figures["by_kind"].items()
            ]
            + [
                (
                    "all",
                    figures["attempts"],
                    figures["accepted"],
                    f"{figures['accepted'] / max(figures['attempts'], 1):.0%}",
                )
            ],
        ),
    ]
    # Sections that only some versions have.
    if "by_rule" in figures:
        rules = sorted(figures["by_rule"].items())
        rows = [(rule, row["attempted"], row["accepted"]) for rule, row in rules]
        lines += ["", table(("rule", "attempted", "accepted"), rows)]
    # The most frequent reason first.
    if figures["rejected"]:
        reasons = sorted(figures["rejected"].items(), key=lambda item: (-item[1], item[0]))
        lines += ["", table(("rejection reason", "attempts"), reasons)]
    if figures["mask_area"]:
        head = ("mask area", *(f"{quantile:.0%}" for quantile in QUANTILES))
        rows = [
            (kind, *(f"{area:.2%}" for area in areas.values()))
            for kind, areas in figures["mask_area"].items()
        ]
        lines += ["", table(head, rows)]
    if "audit" in figures:
        lines += ["", audit_text.as_text(figures["audit"])]
    # Every file of the version, the gallery too.
    sizes = [(name, _bytes(size)) for name, size in figures["bytes"]["files"].items()]
    sizes.append(("all", _bytes(figures["bytes"]["total"])))
    lines += ["", table(("file", "size"), sizes)]
    if figures["failures"]:
        lines += ["", f"unusable inputs: {figures['failures']}"]
    return "\n".join(lines) + "\n"


def _areas(version: Version) -> dict[str, dict[str, float]]:
    """Quantiles, by kind, of the share of the image that a change mask covers."""
    height, width = version.image_size
    shares: dict[str, list[float]] = {}
    for shard in version.shards:
        for j in range(shard.samples):
            share = shard.masked_pixels(j) / (height * width)
            shares.setdefault(shard.kind(j), []).append(share)
    return {
        kind: {f"{q:g}": _quantile(sorted(found), q) for q in QUANTILES}
        for kind, found in sorted(shares.items())
    }


def _quantile(values: list[float], q: float) -> float:
    """What `np.quantile` says of sorted values, without the tenth of a second that it imports."""
    place = q * (len(values) - 1)
    return float(np.interp(place, range(len(values)), values))


def _bytes(size: int) -> str:
    """A size in decimal units, as file managers show it."""
    value = float(size)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"

"""What a version holds, in numbers: counts, acceptance, reasons, mask areas, bytes."""

from typing import Any

import numpy as np

from pipeline.dataset.version import Version
from pipeline.reports.audit import text as audit_text

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def stats(version: Version) -> dict[str, Any]:
    """All figures as a JSON-able mapping. Areas are fractions of the image."""
    index = version.index
    counts = index["counts"]
    by_kind = {
        kind: row | {"rate": row["accepted"] / row["attempted"] if row["attempted"] else 0.0}
        for kind, row in sorted(counts["by_kind"].items())
    }
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
        **({"by_rule": counts["by_rule"]} if "by_rule" in counts else {}),
        "rejected": counts["rejected"],
        "failures": len(index["failures"]),
        "mask_area": _areas(version),
        **({"audit": index["audit"]} if "audit" in index else {}),
        "bytes": {"total": sum(files.values()), "files": files},
    }


def as_text(figures: dict[str, Any]) -> str:
    """The same figures as plain text tables."""
    height, width = figures["image_size"]
    lines = [
        f"{figures['category']} {figures['version']}  {width}x{height}  "
        f"licence: {figures['licence'] or 'not stated'}",
        "",
        *_table(
            ("split", "images", "samples"),
            [(name, row["images"], row["samples"]) for name, row in figures["splits"].items()]
            + [("test", figures["test"]["images"], "-")],
        ),
        "",
        *_table(
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
    if "by_rule" in figures:
        rules = sorted(figures["by_rule"].items())
        rows = [(rule, row["attempted"], row["accepted"]) for rule, row in rules]
        lines += ["", *_table(("rule", "attempted", "accepted"), rows)]
    if figures["rejected"]:
        reasons = sorted(figures["rejected"].items(), key=lambda item: (-item[1], item[0]))
        lines += ["", *_table(("rejected because", "attempts"), reasons)]
    if figures["mask_area"]:
        head = ("mask area", *(f"{quantile:.0%}" for quantile in QUANTILES))
        rows = [
            (kind, *(f"{area:.2%}" for area in areas.values()))
            for kind, areas in figures["mask_area"].items()
        ]
        lines += ["", *_table(head, rows)]
    if "audit" in figures:
        lines += ["", audit_text.as_text(figures["audit"])]
    sizes = [(name, _bytes(size)) for name, size in figures["bytes"]["files"].items()]
    sizes.append(("all", _bytes(figures["bytes"]["total"])))
    lines += ["", *_table(("file", "size"), sizes)]
    if figures["failures"]:
        lines += ["", f"inputs that could not be used: {figures['failures']}"]
    return "\n".join(lines) + "\n"


def _areas(version: Version) -> dict[str, dict[str, float]]:
    """Quantiles of the share of the image that the change masks cover, by kind."""
    height, width = version.image_size
    shares: dict[str, list[float]] = {}
    for shard in version.shards:
        for j in range(shard.samples):
            share = float(np.count_nonzero(shard.mask(j))) / (height * width)
            shares.setdefault(shard.kind(j), []).append(share)
    return {
        kind: {f"{q:g}": float(np.quantile(found, q)) for q in QUANTILES}
        for kind, found in sorted(shares.items())
    }


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    cells = [head, *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    text = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return [text[0], "-" * max(map(len, text)), *text[1:]]


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"

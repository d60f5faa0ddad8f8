"""`anomalysmith diff A B`: what changed between two versions, as text, JSON and one HTML page."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import (
    Json,
    is_standard_output,
    print_note,
    print_result,
    stdout_to_stderr,
    write_output,
)
from pipeline.utils.text_table import table

if TYPE_CHECKING:
    from pipeline.reports.diff.changes import Diff, GateChange, ImageChange, SampleChange

EXAMPLES = 6
# Characters of a value that are shown.
_WIDEST = 60

# One line of a list: image or setting, and what changed.
Entry = tuple[str, str]


def diff_command(
    before: Annotated[
        Path,
        typer.Argument(metavar="VERSION_A", help="The earlier version.", show_default=False),
    ],
    after: Annotated[
        Path,
        typer.Argument(metavar="VERSION_B", help="The later version.", show_default=False),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write a page with images: before, after, where; - is standard output.",
        ),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Examples of each change in text and page; --json lists all.  "
            f"[default: {EXAMPLES}]",
            show_default=False,
        ),
    ] = EXAMPLES,
    as_json: Json = False,
) -> None:
    """Show what changed between two versions of one category, sample by sample, by kind.

    A sample is identified by the digest of its source file, its number there and its label. Its
    accepted edit in A is compared with the one in B: added, removed, pixels, metadata or split
    changed. A gate decision has changed where both tried the same edit with different verdicts. The
    exit code is 0 in either case.
    """
    from pipeline.dataset.version import open_version
    from pipeline.reports.diff.compare import diff

    aside = is_standard_output(html, as_json)
    with stdout_to_stderr(as_json):
        found = diff(open_version(before), open_version(after))
    if html is not None:
        from pipeline.reports.diff.page import render

        write_output(html, render(found, examples).encode())
        if not aside:
            print_note(f"page: {html.resolve()}")
    text = as_text(found, examples)
    print_result(found.to_json() if as_json else None, as_json, text, aside=aside)


def as_text(found: "Diff", examples: int = EXAMPLES) -> str:
    """Totals, a table by kind, then the first examples of each kind of change."""
    one, other = (version.index["counts"] for version in (found.before, found.after))
    totals = [
        (name, one[name], other[name]) for name in ("images", "attempts", "accepted", "controls")
    ]
    totals.append(("test images", one["test"]["images"], other["test"]["images"]))
    # Both names in the same column.
    lines = [
        f"{found.before.category}: A {found.before.name}",
        f"{' ' * len(found.before.category)}  B {found.after.name}",
        "",
        _verdict(found),
    ]
    if not found.equal:
        lines += ["", table(("", "A", "B"), totals), "", _by_kind(found)]
    # Why anything may differ at all: settings, weights, libraries.
    made = [(name, _change(pair)) for name, pair in found.making.items()]
    lines += _section("made with", made, None)
    # A file that was replaced under its name is another image.
    images = [(name, "another file under this name") for name in found.replaced]
    images += [_image(change) for change in found.images]
    lines += _section("images", images, examples)
    # Samples by the way in which they changed.
    for way in _TITLES:
        changes = found.gate if way == "gate" else found.of(way)
        lines += _section(_TITLES[way], [_LINES[way](change) for change in changes], examples)
    lines += _section("attempts", _attempts(found), None)
    for title, names in (("real test split", found.test), ("unusable inputs", found.failures)):
        entries = [(name, way) for way, some in names.items() for name in some]
        lines += _section(title, entries, examples)
    return "\n".join(lines)


def _verdict(found: "Diff") -> str:
    """The result in one line."""
    if found.equal:
        made = "; they were made differently" if found.making else ""
        return (
            f"equal: both have the same content digest {found.before.digest[:12]}{made} "
            "(`verify` checks each)"
        )
    # The digest covers the order of rows.
    if found.only_order:
        return "the same rows in another order"
    counts = found.counts()
    # Only the ways that occurred.
    said = [f"{_TITLES[way]} {counts[way]}" for way in _TITLES if counts[way]]
    return ", ".join(said) or "all samples and gate decisions are the same"


def _by_kind(found: "Diff") -> str:
    """Counts of every kind of edit by way of change."""
    # A column for each way of change, and a last row with the sums.
    head = ("kind", "same", *_TITLES)
    rows = [(kind, *counts.values()) for kind, counts in found.by_kind().items()]
    return table(head, [*rows, ("all", *found.counts().values())])


def _section(title: str, entries: Sequence[Entry], limit: int | None) -> list[str]:
    """A titled list in two columns, cut after `limit` entries; empty when there are none."""
    if not entries or limit == 0:
        return []
    shown = entries[:limit]
    more = len(entries) - len(shown)
    lines = ["", f"{title}: {len(entries)}" if limit else title]
    lines.append(table(None, shown, "<", indent="  "))
    return [*lines, f"  … and {more} more"] if more else lines


def _added(change: "SampleChange") -> Entry:
    """A sample of B alone, and why A has none."""
    assert change.after is not None
    return _where(change), f"{change.kind}{_try(change.after.record)}; A: {why(change)}"


def _removed(change: "SampleChange") -> Entry:
    """A sample of A alone, and why B has none."""
    assert change.before is not None
    return _where(change), f"{change.kind}{_try(change.before.record)}; B: {why(change)}"


def _pixels(change: "SampleChange") -> Entry:
    """A sample with other pixels or masks."""
    assert change.before is not None
    assert change.after is not None
    # The edit is named once, unless the two versions chose different ones.
    before, after = change.before.record, change.after.record
    same = (before["kind"], before["attempt"]) == (after["kind"], after["attempt"])
    then = "" if same else f" -> {after['kind']}{_try(after)}"
    # Pixels are counted, masks are only named.
    masks = [name.replace("_", " ") for name in change.arrays if name != "pixels"]
    what = ", ".join([f"{change.changed_pixels} px", *masks])
    return _where(change), f"{before['kind']}{_try(before)}{then}: {what}"


def _metadata(change: "SampleChange") -> Entry:
    """Kind and attempt with their values, other fields by group, a single field in full."""
    # Kind and attempt first, as they explain most other differences.
    pairs = dict(change.metadata or {})
    said = [f"{n} {_change(pairs.pop(n))}" for n in ("kind", "attempt") if n in pairs]
    if len(pairs) == 1:
        said += [f"{name} {_change(pair)}" for name, pair in pairs.items()]
    else:
        groups = Counter(name.split(".")[0] for name in pairs)
        said += [name if n == 1 else f"{name} ({n} fields)" for name, n in groups.items()]
    return _where(change), f"{change.kind}: {', '.join(said)}"


def _split(change: "SampleChange") -> Entry:
    return _where(change), f"{change.kind}: {_change(change.split or ('', ''))}"


def _gate(change: "GateChange") -> Entry:
    """An attempt that both versions made and judged differently."""
    return change.id, f"{change.kind}: {_change(change.decisions)}"


_TITLES = {
    "added": "added",
    "removed": "removed",
    "pixels": "pixels changed",
    "metadata": "metadata changed",
    "split": "split changed",
    "gate": "gate decision changed",
}
_LINES: dict[str, Any] = {
    "added": _added,
    "removed": _removed,
    "pixels": _pixels,
    "metadata": _metadata,
    "split": _split,
    "gate": _gate,
}


def _where(change: "SampleChange") -> str:
    """The id of a sample without its attempt, which may differ between versions."""
    return f"{change.image}@{change.number}"


def _try(record: dict[str, Any]) -> str:
    """The attempt of a sample, unless it is the first, as for most samples."""
    return f" (attempt {record['attempt']})" if record["attempt"] else ""


def why(change: "SampleChange") -> str:
    """Why the other version has no such sample."""
    reasons = sorted((change.rejected or {}).items(), key=lambda item: (-item[1], item[0]))
    if not reasons:
        return "not tried"
    return "rejected " + ", ".join(f"{count}× {reason}" for reason, count in reasons)


def _image(change: "ImageChange") -> Entry:
    """An image that was added, removed, renamed, or decodes differently."""
    # Both names only where the file was renamed.
    names = list(dict.fromkeys(name for name in (change.before, change.after) if name))
    split = f" {_change(change.split)}" if change.split else ""
    return " -> ".join(names), f"{', '.join(change.ways)}{split}"


def _attempts(found: "Diff") -> list[Entry]:
    """Attempts that differ without a change of samples or of gate decisions."""
    said = {
        "only_before": "in A only",
        "only_after": "in B only",
        "other_edit": "in both with another seed or kind",
        "remeasured": "judged alike with other scores",
    }
    return [(said[name], str(count)) for name, count in found.attempts.items() if count]


def _change(pair: tuple[Any, Any]) -> str:
    before, after = map(_short, pair)
    return f"{before} -> {after}"


def _short(value: Any) -> str:
    """One value, cut to fit a line; of a digest the twelve digits that are shown elsewhere."""
    text = "–" if value is None or value == "" else str(value)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return f"{text[:12]}…"
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"

"""`anomalysmith diff A B`: what changed between two versions, as text, JSON and one HTML page."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import Json, answer, quiet_output, remark, table
from pipeline.reports.diff.changes import WAYS, Diff, GateChange, ImageChange, SampleChange

EXAMPLES = 6
_WIDEST = 60

Entry = tuple[str, str]
"""One line of a list: what it is about, and what is said about it."""


def diff_command(
    before: Annotated[
        Path,
        typer.Argument(metavar="VERSION_A", help="The version of before.", show_default=False),
    ],
    after: Annotated[
        Path,
        typer.Argument(metavar="VERSION_B", help="The version of after.", show_default=False),
    ],
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a page with pictures: before, after, where."),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="How many of each change text and page show; --json lists all.  "
            f"[default: {EXAMPLES}]",
            show_default=False,
        ),
    ] = EXAMPLES,
    as_json: Json = False,
) -> None:
    """Say what changed between two versions of one category, sample by sample, by kind.

    A sample is known by its source file's digest, its number there and its label. Its accepted edit
    in A is held against the one in B: added, removed, pixels, metadata or split changed. A gate
    decision has changed where both tried the same edit and judged differently. Exit code 0 either
    way.
    """
    from pipeline.dataset.version import open_version
    from pipeline.reports.diff.compare import diff

    with quiet_output(as_json):
        found = diff(open_version(before), open_version(after))
        if html is not None:
            from pipeline.reports.diff.page import write_page

            remark(f"pictures: {write_page(found, html, examples).resolve()}")
    answer(found.to_json() if as_json else None, as_json, as_text(found, examples))


def as_text(found: Diff, examples: int = EXAMPLES) -> str:
    """Totals, a table by kind, then the first examples of each kind of change."""
    one, other = (version.index["counts"] for version in (found.before, found.after))
    totals = [
        (name, one[name], other[name]) for name in ("images", "attempts", "accepted", "controls")
    ]
    totals.append(("test images", one["test"]["images"], other["test"]["images"]))
    lines = [
        f"{found.before.category}: A {found.before.name}",
        f"{' ' * len(found.before.category)}  B {found.after.name}",
        "",
        _verdict(found),
    ]
    if not found.equal:
        lines += ["", table(("", "A", "B"), totals), "", _by_kind(found)]
    made = [(name, _change(pair)) for name, pair in found.making.items()]
    lines += _section("made with", made, None)
    images = [(name, "another file under this name") for name in found.replaced]
    images += [_image(change) for change in found.images]
    lines += _section("images", images, examples)
    for way in WAYS:
        changes = found.gate if way == "gate" else found.of(way)
        lines += _section(_TITLES[way], [_LINES[way](change) for change in changes], examples)
    lines += _section("attempts", _attempts(found), None)
    for title, names in (("real test split", found.test), ("unusable inputs", found.failures)):
        told = [(name, way) for way, some in names.items() for name in some]
        lines += _section(title, told, examples)
    return "\n".join(lines)


def _verdict(found: Diff) -> str:
    if found.equal:
        made = "; they were made differently" if found.making else ""
        return (
            f"equal: both state the same content, digest {found.before.digest[:12]}{made} "
            "(`verify` proves each)"
        )
    if found.only_order:
        return "the same rows in another order"
    counts = found.counts()
    said = [f"{_TITLES[way]} {counts[way]}" for way in WAYS if counts[way]]
    return ", ".join(said) or "all samples and gate decisions are the same"


def _by_kind(found: Diff) -> str:
    head = ("kind", "same", *WAYS)
    rows = [(kind, *counts.values()) for kind, counts in found.by_kind().items()]
    return table(head, [*rows, ("all", *found.counts().values())])


def _section(title: str, entries: Sequence[Entry], limit: int | None) -> list[str]:
    """A titled list in two columns, cut after `limit` entries; nothing when there are none."""
    if not entries or limit == 0:
        return []
    shown = entries[:limit]
    more = len(entries) - len(shown)
    width = max(len(name) for name, _ in shown)
    lines = ["", f"{title}: {len(entries)}" if limit else title]
    lines += [f"  {name.ljust(width)}  {what}" for name, what in shown]
    return [*lines, f"  … and {more} more"] if more else lines


def _added(change: SampleChange) -> Entry:
    assert change.after is not None
    return _where(change), f"{change.kind}{_try(change.after.record)}; A: {why(change)}"


def _removed(change: SampleChange) -> Entry:
    assert change.before is not None
    return _where(change), f"{change.kind}{_try(change.before.record)}; B: {why(change)}"


def _pixels(change: SampleChange) -> Entry:
    assert change.before is not None
    assert change.after is not None
    before, after = change.before.record, change.after.record
    same = (before["kind"], before["attempt"]) == (after["kind"], after["attempt"])
    then = "" if same else f" -> {after['kind']}{_try(after)}"
    masks = [name.replace("_", " ") for name in change.arrays if name != "pixels"]
    what = ", ".join([f"{change.changed_pixels} px", *masks])
    return _where(change), f"{before['kind']}{_try(before)}{then}: {what}"


def _metadata(change: SampleChange) -> Entry:
    """Kind and attempt with their values, other fields by group, a single field in full."""
    pairs = dict(change.metadata or {})
    said = [f"{n} {_change(pairs.pop(n))}" for n in ("kind", "attempt") if n in pairs]
    if len(pairs) == 1:
        said += [f"{name} {_change(pair)}" for name, pair in pairs.items()]
    else:
        groups = Counter(name.split(".")[0] for name in pairs)
        said += [name if n == 1 else f"{name} ({n} fields)" for name, n in groups.items()]
    return _where(change), f"{change.kind}: {', '.join(said)}"


def _split(change: SampleChange) -> Entry:
    return _where(change), f"{change.kind}: {_change(change.split or ('', ''))}"


def _gate(change: GateChange) -> Entry:
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


def _where(change: SampleChange) -> str:
    return f"{change.image}@{change.number}"


def _try(record: dict[str, Any]) -> str:
    """The first attempt is the rule and not worth a word."""
    return f" (attempt {record['attempt']})" if record["attempt"] else ""


def why(change: SampleChange) -> str:
    """Why the other version has no such sample."""
    reasons = sorted((change.refused or {}).items(), key=lambda item: (-item[1], item[0]))
    if not reasons:
        return "not tried"
    return "refused " + ", ".join(f"{count}× {reason}" for reason, count in reasons)


def _image(change: ImageChange) -> Entry:
    names = list(dict.fromkeys(name for name in (change.before, change.after) if name))
    split = f" {_change(change.split)}" if change.split else ""
    return " -> ".join(names), f"{', '.join(change.ways)}{split}"


def _attempts(found: Diff) -> list[Entry]:
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
    """One value, cut to what fits a line; a digest to what people compare."""
    text = "–" if value is None or value == "" else str(value)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return f"{text[:12]}…"
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"

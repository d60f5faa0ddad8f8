"""The page of `diff --html`: examples of every way of change, before | after | changed pixels.

Like the gallery it is one file that needs only a browser: images embedded, no script, every name
escaped by the template.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.version import Version
from pipeline.reports.diff.changes import (
    ACCEPTED,
    WAYS,
    Diff,
    GateChange,
    Pair,
    Place,
    SampleChange,
)
from pipeline.utils.files import write_atomic
from pipeline.utils.html import render_template, thumbnail_uri

# Examples per way of change.
EXAMPLES = 6
# Quality of WebP (0-100): a little above the gallery's, because small changes matter here.
QUALITY = 86
TITLES = {
    "added": "Added",
    "removed": "Removed",
    "pixels": "Pixels changed",
    "metadata": "Metadata changed",
    "split": "Split changed",
    "gate": "Gate decision changed",
}

_TEMPLATE = Path(__file__).with_name("page.html.j2")
# One per kind of the two versions, in alphabetical order.
_HUES = ("#2f9e8f", "#d9822b", "#7a68d8", "#c94f7c", "#4a90d9", "#8a9a2e", "#b0603a", "#5f7f95")
_ACCENT = np.array((255, 46, 136), np.float32)
# Grey levels of difference from which a pixel is drawn in full colour.
_STRONG = 64

_Card = dict[str, Any]
# (H, W, 3) uint8, or nothing where a version stores no pixels.
_Image = np.ndarray | None


def write_page(found: Diff, path: Path, examples: int = EXAMPLES) -> Path:
    """Write the page with at most `examples` of each kind of change and return its path."""
    write_atomic(path, render(found, examples).encode())
    return path


def render(found: Diff, examples: int = EXAMPLES) -> str:
    """The page as text."""
    counts, by_kind = found.counts(), found.by_kind()
    sections = [_section(found, way, counts[way], examples) for way in WAYS if counts[way]]
    # Each card's images are variables of its own class in the style sheet.
    cards = [card for section in sections for card in section["cards"]]
    for number, card in enumerate(cards):
        card["class"] = f"c{number}"
    return render_template(
        _TEMPLATE,
        diff=found,
        before=found.before,
        after=found.after,
        counts=counts,
        ways=WAYS,
        titles=TITLES,
        by_kind=by_kind,
        totals=_totals(found.before, found.after),
        making=[(name, *map(_short, pair)) for name, pair in found.making.items()],
        names=_names(found),
        sections=sections,
        cards=cards,
        hues={kind: _HUES[number % len(_HUES)] for number, kind in enumerate(by_kind)},
    )


def _section(found: Diff, way: str, count: int, examples: int) -> dict[str, Any]:
    """One way of change: its title, its count and some cards, each sample drawn once.

    A sample with several ways is drawn in the first of them; `above` counts those.
    """
    if way == "gate":
        cards = [_gate_card(found, change) for change in _spread(found.gate, examples)]
        return {"way": way, "title": TITLES[way], "count": count, "above": 0, "cards": cards}
    # A sample is drawn under its first way only.
    mine = [change for change in found.of(way) if change.ways[0] == way]
    cards = [_sample_card(change) for change in _spread(mine, examples)]
    above = count - len(mine)
    return {"way": way, "title": TITLES[way], "count": count, "above": above, "cards": cards}


def _spread(changes: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` changes, taken from the kinds in turn, in the order of the diff."""
    decks: dict[str, int] = {}
    turns = []
    for place, change in enumerate(changes):
        decks[change.kind] = turn = decks.get(change.kind, -1) + 1
        turns.append((turn, place))
    return [changes[place] for place in sorted(place for _, place in sorted(turns)[:limit])]


def _sample_card(change: SampleChange) -> _Card:
    one, other = change.before, change.after
    # Pixels as stored, before the page compresses them.
    before, after = _edited(one), _edited(other)
    # A sample that only one version has is compared with the normal image it was generated from.
    if one is None or other is None:
        absent = _original(one or other)
        said = f"no sample: {_rejected(change)}; the normal image"
        before, after = (absent, after) if one is None else (before, absent)
        captions = [_caption(one, said), _caption(other, said)]
    else:
        captions = [_caption(one), _caption(other)]
    return {
        "name": f"{change.image}@{change.number}",
        "kinds": list(dict.fromkeys(p.record["kind"] for p in (one, other) if p)),
        "ways": [TITLES[way].lower() for way in change.ways],
        "note": ", ".join(name.replace("_", " ") for name in change.arrays),
        **_images(before, after, captions),
        "facts": _facts({**_split_fact(change.split), **(change.metadata or {})}),
    }


def _gate_card(found: Diff, change: GateChange) -> _Card:
    # Rejected attempts have pixels only where the version kept them.
    one = _kept(found.before, change.before)
    other = _kept(found.after, change.after)
    sides = zip(change.decisions, (one, other), strict=True)
    captions = []
    for decision, place in sides:
        verdict = decision if decision == ACCEPTED else f"rejected: {decision}"
        captions.append(verdict + ("" if place else " · pixels not stored"))
    # Scores that only one version measured are shown with a dash.
    scores = {"decision": change.decisions} | {
        f"scores.{name}": (change.before["scores"].get(name), change.after["scores"].get(name))
        for name in sorted({*change.before["scores"], *change.after["scores"]})
    }
    return {
        "name": change.id,
        "kinds": [change.kind],
        "ways": [f"{change.decisions[0]} → {change.decisions[1]}"],
        "note": "",
        **_images(_edited(one), _edited(other), captions),
        "facts": _facts(scores),
    }


def _kept(version: Version, row: Mapping[str, Any]) -> Place | None:
    """Where a version stores the pixels of an attempt: samples, kept rejects, or nowhere (None)."""
    # The table names the shard by its file.
    readers = [*version.shards, *([version.rejects] if version.rejects else [])]
    for shard in readers:
        if shard.path.name == row["shard"]:
            return Place(shard, row["row"], shard.record(row["row"]))
    return None


def _images(before: _Image, after: _Image, captions: list[str]) -> _Card:
    """The three images of a card as data URIs, empty where there is none."""
    changed = None
    if before is not None and after is not None:
        differs_HW = (before != after).any(2)
        changed = _changed(before, after) if differs_HW.any() else None
        share = f"{differs_HW.mean():.2%}" if differs_HW.any() else "no pixel"
        captions = [*captions, f"changed: {int(differs_HW.sum())} px, {share}"]
        if changed is None:
            captions[-1] = "no pixel differs"
    else:
        captions = [*captions, "only one side has pixels"]
    # Keys of the template: before, after, difference.
    images = zip(("b", "a", "d"), (before, after, changed), captions, strict=True)
    return {
        "images": [
            {
                "key": key,
                "uri": "" if image is None else thumbnail_uri(image, QUALITY),
                "caption": caption,
            }
            for key, image, caption in images
        ]
    }


def _changed(before_HW3: np.ndarray, after_HW3: np.ndarray) -> np.ndarray:
    """The second image pale and grey, with changed pixels in colour by strength.

    Even a change of one grey level gets 40 % of the colour, so it can be seen.
    """
    # The largest difference of the three channels; int16 because uint8 would wrap around.
    step_HW = np.abs(before_HW3.astype(np.int16) - after_HW3).max(2)
    grey_HW1 = after_HW3.mean(2, keepdims=True, dtype=np.float32) * 0.45 + 90
    share_HW1 = np.where(step_HW > 0, 0.4 + 0.6 * np.minimum(step_HW / _STRONG, 1), 0)[..., None]
    return (grey_HW1 * (1 - share_HW1) + _ACCENT * share_HW1).round().astype(np.uint8)


def _edited(place: Place | None) -> _Image:
    return place.shard.edited(place.row) if place else None


def _original(place: Place | None) -> _Image:
    return place.shard.original(place.shard.source(place.row)) if place else None


def _caption(place: Place | None, absent: str = "") -> str:
    if place is None:
        return absent
    record = place.record
    return f"{record['kind']} · attempt {record['attempt'] + 1} · {record['source']['split']}"


def _rejected(change: SampleChange) -> str:
    """Why the other version has no such sample."""
    reasons = (change.rejected or {}).items()
    listed = ", ".join(f"{count}× {reason}" for reason, count in reasons)
    return f"rejected {listed}" if listed else "not attempted"


def _split_fact(split: Pair | None) -> dict[str, Pair]:
    return {"split": split} if split else {}


def _facts(pairs: Mapping[str, Pair]) -> list[tuple[str, str, str, bool]]:
    """Rows of a card's table: name, both values, and whether they differ."""
    return [(name, _short(a), _short(b), a != b) for name, (a, b) in pairs.items()]


def _totals(before: Version, after: Version) -> list[tuple[str, int, int]]:
    """Counts of both versions by name."""
    names = ("images", "attempts", "accepted", "anomalous", "controls")
    one, other = before.index["counts"], after.index["counts"]
    rows = [(name, one[name], other[name]) for name in names]
    return [*rows, ("real test images", one["test"]["images"], other["test"]["images"])]


def _names(found: Diff) -> list[tuple[str, str, int]]:
    """Changes of source images, the test split and failed inputs: way, names, count."""
    # Grouped by what happened, because a list of images with their changes would be too long.
    ways: dict[str, list[str]] = {}
    for change in found.images:
        for way in change.ways:
            ways.setdefault(f"image {way}", []).append(change.after or change.before or "")
    ways["file replaced"] = found.replaced
    for title, names in (("test image", found.test), ("unusable input", found.failures)):
        ways |= {f"{title} {way}": list(some) for way, some in names.items()}
    return [(way, _listed(names), len(names)) for way, names in ways.items() if names]


def _listed(names: Iterable[str], limit: int = 12) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _short(value: Any) -> str:
    """A value as text; digests are shortened, because 64 digits fill the table."""
    if value is None or value == "":
        return "–"
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}…"
    return f"{value:.5g}" if isinstance(value, float) else str(value)

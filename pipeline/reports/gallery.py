"""The gallery: a static page that shows samples step by step, including rejected ones.

Each card shows the steps in order: normal image, foreground, proposals, edited image, change mask.
The page needs only a browser: no server, no network, images embedded. Each image is embedded once,
and the browser draws overlays above it. The page ends with its own digest, so `verify` can check a
file that, unlike the data, may be generated again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.files import GALLERY
from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import Version, open_version
from pipeline.gate.checks import LimitTexts, score_limits
from pipeline.kinds import KINDS
from pipeline.reports.audit import text as audit_text
from pipeline.utils.files import write_atomic
from pipeline.utils.html import THUMBNAIL_SIDE, data_uri, render_template, thumbnail_uri

# Samples on the page at most; more make the file too heavy for a browser.
LIMIT = 240

_TEMPLATE = Path(__file__).with_name("gallery.html.j2")
# One per kind, in the order of KINDS; controls come last and are grey.
_HUES = (
    "#2f9e8f", "#d9822b", "#7a68d8", "#c94f7c", "#8a9a2e", "#4a90d9", "#b0603a", "#a347ba",
    "#c2a01e", "#3f9a4c", "#5f7f95", "#8593a3",
)  # fmt: skip
# CSS classes, and the data URIs of each by the variables of the style sheet.
Embedded = list[tuple[str, dict[str, str]]]
# Colour of change masks, which hardly any product has.
_ACCENT = (255, 46, 136)


@dataclass(frozen=True, slots=True)
class _Row:
    """A stored sample with its record."""

    shard: ShardReader
    sample: int
    record: dict[str, Any]

    @property
    def verdict(self) -> str:
        if not self.record["accepted"]:
            return "rejected"
        return "accepted" if self.record["label"] else "control"

    @property
    def image(self) -> str:
        return self.record["source"]["name"]


def write_gallery(version_dir: Path, limit: int = LIMIT) -> Path:
    """Write the page of a published version again, with at most `limit` samples."""
    version = open_version(version_dir)
    return write_gallery_of(version, version.dir, limit)


def write_gallery_of(
    version: Version, folder: Path, limit: int = LIMIT, embedded: Embedded | None = None
) -> Path:
    """Write `gallery/index.html` into a folder and return its path.

    `embedded` are the images of as many samples where they were made before.
    """
    # `verify` reads the digest from the last line; HTML allows a comment there.
    page = render(version, limit, embedded).encode()
    digest = hashlib.sha256(page).hexdigest()
    path = folder / GALLERY
    write_atomic(path, page + f"<!-- sha256 {digest} -->\n".encode())
    return path


def embedded_images(version: Version, limit: int = LIMIT) -> Embedded:
    """The images of the page, which are most of its work; they do not depend on an audit."""
    rows = choose(version, limit)
    return _images(rows, _numbered(rows))


def render(version: Version, limit: int = LIMIT, embedded: Embedded | None = None) -> str:
    """The page as text; `embedded` as above."""
    rows = choose(version, limit)
    images = _numbered(rows)
    counts, limits = version.index["counts"], score_limits(version.index)
    # Kinds of another release may be in the index, too.
    kinds = sorted({*KINDS, *counts["by_kind"]}, key=_place)
    return render_template(
        _TEMPLATE,
        index=version.index,
        counts=counts,
        name=version.index.get("version", version.name),
        images=_images(rows, images) if embedded is None else embedded,
        cards=[_card(row, images[row.image], number, limits) for number, row in enumerate(rows)],
        hues={kind: _HUES[number % len(_HUES)] for number, kind in enumerate(kinds)},
        kinds=_bars(counts["by_kind"]),
        rules=_bars(counts.get("by_rule", {})),
        reasons=_reasons(counts["rejected"]),
        audit=_audit(version.index.get("audit", {})),
        shown=_tally(rows),
        settings=list(_flat(version.index["settings"])),
    )


def choose(version: Version, limit: int = LIMIT) -> list[_Row]:
    """At most `limit` samples, spread over kinds and images; up to a quarter are rejects.

    Rejects may take more where there are too few accepted samples to fill the page.
    """
    accepted = [_Row(s, j, s.record(j)) for s in version.shards for j in range(s.samples)]
    kept = [version.rejects] if version.rejects else []
    rejects = [_Row(s, j, s.record(j)) for s in kept for j in range(s.samples)]
    # Choose the rejects first; accepted samples fill the rest of the page.
    rejects = _spread(rejects, "reason", max(limit // 4, limit - len(accepted)))
    rows = _spread(accepted, "kind", limit - len(rejects)) + rejects
    order = {name: number for number, name in enumerate(dict.fromkeys(r.image for r in accepted))}
    # Round by round over the images, each image starting with another kind, so the first screen
    # shows many images and many kinds instead of every edit of the first image.
    decks: dict[tuple[bool, str], list[_Row]] = {}
    for row in rows:
        decks.setdefault((row.verdict == "rejected", row.image), []).append(row)
    keyed = []
    for (rejected, image), deck in decks.items():
        place = order.get(image, len(order))
        # Anomalies before controls; the sort is stable, so kinds keep their order.
        deck.sort(key=lambda row: row.verdict == "control")
        for turn in range(len(deck)):
            keyed.append(((rejected, turn, place), deck[(turn + place) % len(deck)]))
    return [row for _, row in sorted(keyed, key=lambda entry: entry[0])]


def _spread(rows: Sequence[_Row], by: str, limit: int) -> list[_Row]:
    """Equal shares per group where groups are large enough, evenly spaced inside a group."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.record[by], []).append(row)
    chosen: list[_Row] = []
    # Small groups first, so what they cannot fill goes to the larger ones.
    for left, name in enumerate(sorted(groups, key=lambda name: (len(groups[name]), name))):
        share = (limit - len(chosen)) // (len(groups) - left)
        group = groups[name]
        take = min(max(share, 0), len(group))
        steps = np.linspace(0, len(group) - 1, take).round().astype(int).tolist()
        chosen += [group[step] for step in steps]
    return chosen


def _card(row: _Row, image: int, number: int, limits_of: LimitTexts) -> dict[str, Any]:
    """The values of one card; `image` and `number` choose its embedded images."""
    record = row.record
    # Counts of proposals and the foreground's fallback belong to the source image.
    source = row.shard.image_record(row.shard.source(row.sample))
    edit = record["edit"]
    broken, limits = record.get("broken", []), limits_of(record)
    # Versions of older releases have the names alone.
    said = "; ".join(record.get("findings", [])) or ", ".join(broken)
    # Broken rules are shown where a rule book judged the sample.
    facts = [
        ("id", record["id"]),
        *([("broken rules", said or "none")] if record.get("rule") or broken else []),
        ("split", record["source"]["split"]),
        ("seed", record["seed"]),
        ("targets", ", ".join(f"proposal {target}" for target in edit["targets"]) or "–"),
        *((name, _short(value)) for name, value in _flat(edit["parameters"])),
    ]
    return {
        "number": number,
        "image": image,
        "name": row.image,
        "kind": record["kind"],
        "verdict": row.verdict,
        "reason": record["reason"],
        "rule": record.get("rule", ""),
        "try": f"sample {record['number']} · attempt {record['attempt'] + 1}",
        "found": source["proposals"],
        "fallback": source["foreground"]["fallback"],
        "area": float(row.shard.mask(row.sample).mean()),
        "facts": facts,
        "scores": [
            (name, _short(value), limits.get(name, ""))
            for name, value in sorted(record["scores"].items())
        ],
    }


def _audit(found: Mapping[str, Any]) -> dict[str, Any]:
    """Bars from 0.5 to 1, with the interval as a line over them; empty without an audit."""

    def bar(row: dict[str, Any], says: str, tone: str) -> dict[str, Any]:
        # AUROC 0.5 to 1 becomes 0 to 100 % of the bar; below 0.5 the bar is empty.
        spans = [row["auroc"] or 0.5, *(row["interval"] or (0.5, 0.5))]
        at, low, high = (100 * min(1.0, max(0.0, 2 * (value - 0.5))) for value in spans)
        return row | {"says": says, "tone": tone, "at": at, "low": low, "width": high - low}

    # Names of CSS variables: bad is red, good green, soft grey, calm blue.
    tones = {"warning": "bad", "trace": "bad", "fine": "good"}
    return {
        "traces": [
            bar(row, row["says"], tones.get(row["verdict"], "soft"))
            for row in audit_text.shortcut_rows(found)
        ],
        "kinds": [bar(row, row["word"], "calm") for row in audit_text.kind_rows(found)],
        "remarks": audit_text.remarks(found),
        "limit": 100 * 2 * (found.get("shortcut", {}).get("limit", 0.6) - 0.5),
    }


def _numbered(rows: Sequence[_Row]) -> dict[str, int]:
    """Images in the order of appearance, for the classes of the style sheet."""
    return {name: number for number, name in enumerate(dict.fromkeys(row.image for row in rows))}


def _images(rows: Sequence[_Row], images: Mapping[str, int]) -> Embedded:
    """CSS classes and their variables with data URIs: each image once, each sample once.

    Variables: `o` original, `f` foreground, `p` proposals of an image; `e` edited, `m` mask.
    """
    found: Embedded = []
    done: set[str] = set()
    for number, row in enumerate(rows):
        shard, source = row.shard, row.shard.source(row.sample)
        if row.image not in done:
            done.add(row.image)
            proposals, _ = shard.proposals(source)
            variables = {
                "o": thumbnail_uri(shard.original(source)),
                "f": _foreground(shard.foreground(source)),
                "p": _proposals(proposals, shard.size_HW),
            }
            found.append((f"i{images[row.image]}", variables))
        edited, mask = shard.edited(row.sample), shard.mask(row.sample)
        found.append((f"s{number}", {"e": thumbnail_uri(edited), "m": _change(mask)}))
    return found


def _foreground(mask_HW: np.ndarray) -> str:
    """The background darkened, with a bright outline around the foreground."""
    mask = _enlarged(mask_HW)
    # Indices into the palette below: clear, dark, outline.
    layer = np.where(mask, 0, 1).astype(np.uint8)
    layer[_outline(mask)] = 2
    return _layer(layer, [(0, 0, 0, 0), (8, 10, 14, 165), (94, 234, 212, 255)])


def _proposals(masks_NHW: np.ndarray, size_HW: tuple[int, int]) -> str:
    """Each proposal in its own colour, filled faintly and outlined; the best is on top."""
    layer = np.zeros_like(_enlarged(np.zeros(size_HW, np.bool_)), np.uint8)
    palette = [(0, 0, 0, 0)]
    # A palette has 256 entries: one for the background and two per proposal.
    for number in reversed(range(min(len(masks_NHW), 120))):
        mask = _enlarged(masks_NHW[number])
        # Faint inside and opaque on the outline, so overlapping proposals stay visible.
        colour = _hue(number)
        layer[mask] = len(palette)
        layer[_outline(mask)] = len(palette) + 1
        palette += [(*colour, 105), (*colour, 255)]
    return _layer(layer, palette)


def _change(mask_HW: np.ndarray) -> str:
    """The change mask as an outline with a thin dark rim, over a faint tint."""
    import cv2

    mask = _enlarged(mask_HW)
    layer = mask.astype(np.uint8)
    line = _outline(mask)
    rim = cv2.dilate(line.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    # The rim lies outside the mask, so the outline keeps its full width.
    layer[rim & ~mask] = 3
    layer[line] = 2
    return _layer(layer, [(0, 0, 0, 0), (*_ACCENT, 60), (*_ACCENT, 255), (20, 0, 10, 190)])


def _enlarged(mask_HW: np.ndarray) -> np.ndarray:
    """The mask at twice the resolution of the page's images, with smoothed edges."""
    import cv2

    longest = max(mask_HW.shape)
    scale = 2 * min(1.0, THUMBNAIL_SIDE / longest) if longest else 1.0
    height, width = (max(1, round(side * scale)) for side in mask_HW.shape)
    # Enlarge smoothly, blur, and threshold: pixel steps become curves.
    grey = mask_HW.astype(np.uint8) * np.uint8(255)
    shrinks = height < mask_HW.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.GaussianBlur(cv2.resize(grey, (width, height), interpolation=how), (0, 0), 1.2) > 127


def _outline(mask_HW: np.ndarray) -> np.ndarray:
    """The inner border of a mask, about three overlay pixels wide at full size."""
    import cv2

    # Thinner lines on small overlays.
    width = 3 if max(mask_HW.shape) < 400 else 5
    # Outside the image counts as inside, so a mask that fills the image has no line at its border.
    inner = cv2.erode(mask_HW.astype(np.uint8), np.ones((width, width), np.uint8))
    return mask_HW & (inner == 0)


def _layer(layer_HW: np.ndarray, palette_N4: Sequence[tuple[int, ...]]) -> str:
    """Palette indices as a transparent PNG, which is far smaller than one with four channels."""
    from PIL import Image

    image = Image.fromarray(layer_HW)
    image.putpalette([channel for colour in palette_N4 for channel in colour[:3]])
    return data_uri(image, "png", transparency=bytes(colour[3] for colour in palette_N4))


def _hue(number: int) -> tuple[int, int, int]:
    """Consecutive numbers get distant hues: steps of the golden ratio around the circle."""
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb((0.07 + number * 0.618034) % 1.0, 0.78, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _place(kind: str) -> tuple[int, str]:
    """Sort key: kinds in the order of `KINDS`, controls last, unknown ones after them."""
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)


def _bars(counted: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Rows of a bar chart of acceptance."""
    return [
        {"name": name, **row, "rate": row["accepted"] / max(row["attempted"], 1)}
        for name, row in sorted(counted.items(), key=lambda item: _place(item[0]))
    ]


def _reasons(rejected: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rejection reasons, the most frequent first, with bars relative to it."""
    most = max(rejected.values(), default=1)
    ordered = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "count": count, "share": count / most} for name, count in ordered]


def _tally(rows: Sequence[_Row]) -> dict[str, Any]:
    """What the filters of the page offer."""
    verdicts = [row.verdict for row in rows]
    return {
        "all": len(rows),
        "verdicts": {name: verdicts.count(name) for name in ("accepted", "control", "rejected")},
        "kinds": sorted({row.record["kind"] for row in rows}, key=_place),
        "reasons": sorted({row.record["reason"] for row in rows} - {""}),
    }


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as dotted names with plain values."""
    if not isinstance(value, Mapping):
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        return [(prefix, "–" if text is None or text == "" else text)]
    pairs: list[tuple[str, Any]] = []
    for name in sorted(value):
        pairs += _flat(value[name], f"{prefix}.{name}" if prefix else name)
    return pairs


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

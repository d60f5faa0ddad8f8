"""The shortcut audit: could a detector tell samples by traces of editing instead of their meaning?

One simple probe (`features.py`, `probe.py`) is evaluated on several comparisons, from what a
detector sees to what isolates the trace; docs/audit.md explains how to read them:

    image    whole images: anomalies against controls. Both were edited. This is the main question:
             its AUROC is the version's figure, and above 0.6 there is a warning.
    content  the same without a single edited pixel: untouched sources, with the edited region of
             the anomalies left out. It contains what the images show, and no trace.
    inside   change masks alone: anomalies against controls that show the same sort of thing
             (inpainted background, a pasted object) and whose masks have the same size and outline.
    parts_content  the same pairs before the edit: the objects in their places, untouched.
    repaint  controls against their untouched sources inside the same mask: only the inpainting
             differs. `repaint_image`: over whole images.
    outside  what no edit may have changed. Must be 0.5, else there is a warning, too.

Only `inside` compares different regions, so only there could the shape of a mask leak the label.
Anomalies and controls are therefore paired by area and outline, and the probe is also evaluated on
the shape alone.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any

import cv2
import numpy as np

from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import Version
from pipeline.kinds import CONTROL, CONTROLS, KINDS, is_control, kind_of
from pipeline.reports.audit.features import REACH, residuals, residuals_after, statistics
from pipeline.reports.audit.probe import Area, probe
from pipeline.utils.free_memory import give_back

# Samples that are evaluated at most, so the audit of a large version stays short.
MOST_ANOMALIES, MOST_CONTROLS = 120, 80
# With fewer samples on one side an AUROC has no verdict; its interval is still shown.
FEWEST = 20
# AUROC above which whole images give a warning, and other rows show a trace.
LIMIT = 0.6
# How far two masks may differ and still be paired: distance in log area and log outline.
CALIPER = 0.7
# Share of the image that the change masks must leave for `outside`.
LEAST_OUTSIDE = 0.1

# Names of rows in the index.
MAIN, BACKGROUND, OBJECTS = "image", "inside_ground", "inside_parts"
PLAIN = {BACKGROUND: "Inpainted background", OBJECTS: "Pasted objects"}


@dataclass(frozen=True, slots=True)
class Row:
    """One stored sample: where it is stored and what it is, no pixels."""

    shard: ShardReader
    sample: int
    image: str
    kind: str

    @property
    def label(self) -> int:
        return int(not is_control(self.kind))

    @property
    def mask_HW(self) -> np.ndarray:
        return self.shard.mask(self.sample)

    @property
    def objects_HW(self) -> np.ndarray:
        """The edited objects in the source, dilated as the edit dilates them."""
        edit = self.shard.record(self.sample)["edit"]
        size = 2 * int(edit["parameters"].get("dilation", 0)) + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        return cv2.dilate(self.shard.object_mask(self.sample).astype(np.uint8), disc) > 0

    @property
    def source_HW3(self) -> np.ndarray:
        return self.shard.original(self.shard.source(self.sample))


@dataclass(slots=True, eq=False)
class _Table:
    """Examples for one comparison: features, labels and source images."""

    features: list[np.ndarray] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def add(self, features_F: np.ndarray, label: int, image: str) -> None:
        self.features.append(features_F)
        self.labels.append(label)
        self.images.append(image)

    def area(self) -> Area:
        return probe(np.array(self.features), self.labels, self.images)


def shortcut(version: Version) -> dict[str, Any]:
    """The audit of a version, JSON-able; `notes` say what could not be compared."""
    rows = list(rows_of(version))
    controls = spread([row for row in rows if not row.label], MOST_CONTROLS)
    # Anomalies of images that also have a control are preferred.
    both = {row.image for row in controls}
    anomalies = spread([row for row in rows if row.label], MOST_ANOMALIES, first=both)
    # `edited` is an old key for the number of anomalies.
    counts = {"edited": len(anomalies), "controls": len(controls), "limit": LIMIT}
    if not anomalies or not controls:
        nothing: dict[str, Any] = {"auroc": None, "interval": None, "warning": False, "rows": []}
        lacking = "anomalies" if not anomalies else "controls"
        return counts | nothing | {"notes": [f"nothing to compare: there are no {lacking}"]}
    rows_out, notes = _compare(anomalies, controls)
    image = rows_out[0]
    return counts | {
        "auroc": image["auroc"],
        "interval": image["interval"],
        "warning": any(row["warning"] for row in rows_out),
        "rows": rows_out,
        "notes": notes,
    }


def rows_of(version: Version) -> Iterator[Row]:
    """Every accepted sample of a version."""
    for shard in version.shards:
        names = [shard.image_record(i)["name"] for i in range(shard.images)]
        for j in range(shard.samples):
            yield Row(shard, j, names[shard.source(j)], shard.kind(j))


def spread(rows: Sequence[Row], limit: int, first: Collection[str] = ()) -> list[Row]:
    """At most `limit` rows, kinds in turn; a digest decides which rows of a kind.

    Rows of the images in `first` come before others, because comparing within an image is fairest.
    """
    kinds: dict[str, list[tuple[bool, str, Row]]] = {}
    for row in rows:
        # The digest is a random order that does not change when other samples are added.
        key = hashlib.sha256(f"{row.image}@{row.sample}".encode()).hexdigest()
        kinds.setdefault(row.kind, []).append((row.image not in first, key, row))
    decks = [sorted(kinds[kind], key=lambda entry: entry[:2]) for kind in sorted(kinds)]
    turns = (entry for turn in zip_longest(*decks) for entry in turn if entry is not None)
    chosen = [row for _, _, row in islice(turns, limit)]
    return sorted(chosen, key=lambda row: (row.image, row.kind, row.sample))


def _compare(
    anomalies: Sequence[Row], controls: Sequence[Row]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the report, the main one first, and notes on what is missing."""
    tables: dict[str, _Table] = defaultdict(_Table)
    # Features by the identity of a row: of its mask, and of the same place before the edit.
    inside: dict[int, np.ndarray] = {}
    untouched: dict[int, np.ndarray] = {}
    rest = _outside_of(anomalies, controls)
    # Image by image, so the residuals of a source are computed once.
    image = None
    for row in sorted((*anomalies, *controls), key=lambda row: row.image):
        if row.image != image:
            image, source_HW3 = row.image, row.source_HW3
            before, rest_F = residuals(source_HW3), None
            before_F = statistics(before, np.ones(row.shard.size_HW, np.bool_))
        edited_HW3, mask_HW = row.shard.edited(row.sample), row.mask_HW
        found = residuals_after(before, source_HW3, edited_HW3)
        whole_F = statistics(found, np.ones_like(mask_HW))
        inside[id(row)] = statistics(found, mask_HW)
        untouched[id(row)] = statistics(before, row.objects_HW if row.label else mask_HW)
        tables["image"].add(whole_F, row.label, row.image)
        # An anomaly's own region is left out: before the edit it shows what the edit took away.
        content_F = statistics(before, ~mask_HW) if row.label else before_F
        tables["content"].add(content_F, row.label, row.image)
        if id(row) in rest:
            free_HW = rest[id(row)]
            # Where paste-back holds nothing differs, and both samples of an image share the
            # statistics of their source, computed once.
            if (edited_HW3 != source_HW3).any(2)[_grown(free_HW)].any():
                tables["outside"].add(statistics(found, free_HW), row.label, row.image)
            else:
                rest_F = statistics(before, free_HW) if rest_F is None else rest_F
                tables["outside"].add(rest_F, row.label, row.image)
        # A control against its own source: label 1 is the edited one.
        if not row.label:
            name = "repaint_" + row.kind.removeprefix(CONTROL)
            tables[name].add(inside[id(row)], 1, row.image)
            tables[name].add(untouched[id(row)], 0, row.image)
            tables["repaint_image"].add(whole_F, 1, row.image)
            tables["repaint_image"].add(before_F, 0, row.image)
        # Nine float images: free before the next ones are made.
        del found
        give_back(mask_HW.size)
    rows = [_row(name, tables.pop(name).area()) for name in (MAIN, "content")]
    # A reference to compare the main row with; never a warning.
    rows[1] |= {"verdict": "reference", "warning": False}
    notes: list[str] = []
    # Inside the masks, only comparisons of the same sort of content are fair.
    for name, alike, left in _families(anomalies):
        right = [row for row in controls if row.kind in alike]
        pairs = _paired(left, right)
        if pairs:
            rows.append(_row(name, _table(pairs, inside).area()))
            rows[-1]["shape"] = _table(pairs, _shapes(pairs)).area().to_json()
        if pairs and name == OBJECTS:
            content = _row("parts_content", _table(pairs, untouched).area())
            rows.append(content | {"verdict": "reference", "warning": False})
        if left and not pairs:
            notes.append(f"{PLAIN[name]} not compared: no {alike[0]} has masks of similar size")
    for name in sorted(tables):
        rows.append(_row(name, tables[name].area(), must_be_even=name == "outside"))
    if "outside" not in tables:
        notes.append("Outside not compared: the change masks leave too little of the images")
    return rows, notes


def _paired(left: Sequence[Row], right: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs of an anomaly and a control whose masks have similar size and outline."""
    pairs = match([shape_of(row.mask_HW) for row in left], [shape_of(row.mask_HW) for row in right])
    return [(left[i], right[j]) for i, j in pairs]


def _shapes(pairs: Sequence[tuple[Row, Row]]) -> dict[int, np.ndarray]:
    return {id(row): shape_of(row.mask_HW) for pair in pairs for row in pair}


def _table(pairs: Sequence[tuple[Row, Row]], features: dict[int, np.ndarray]) -> _Table:
    table = _Table()
    for row in [row for pair in pairs for row in pair]:
        table.add(features[id(row)], row.label, row.image)
    return table


def _families(anomalies: Sequence[Row]) -> list[tuple[str, tuple[str, ...], list[Row]]]:
    """Row name, the control kinds whose masks show the same sort of thing, and the anomalies.

    Kinds whose mask shows both inpainted background and a pasted object have no such control.
    """
    families = []
    for name, shows in ((BACKGROUND, "background"), (OBJECTS, "object")):
        controls = tuple(kind for kind in CONTROLS if mask_content(kind) == shows)
        families.append((name, controls, [r for r in anomalies if mask_content(r.kind) == shows]))
    return families


def mask_content(kind: str) -> str:
    """What the change mask of a kind contains; an object for kinds of other releases."""
    return kind_of(kind).mask_shows if kind in KINDS else "object"


def _row(name: str, area: Area, *, must_be_even: bool = False) -> dict[str, Any]:
    """One line of the audit; `verdict` is fine, warning, trace or few.

    Above the limit whole images give a warning, however wide the interval. The other rows look at
    regions that no detector is given: there a trace must be significant, and it is no warning.
    """
    verdict = "few"
    if area.auroc is not None and area.interval is not None:
        low, high = area.interval
        # The tolerance covers intervals that end exactly at 0.5.
        chance = low - 1e-9 <= 0.5 <= high + 1e-9
        above = not chance if must_be_even else area.auroc > LIMIT
        if min(area.positives, area.negatives) >= FEWEST and (
            name == MAIN or not (above and chance)
        ):
            worst = "warning" if must_be_even or name == MAIN else "trace"
            verdict = worst if above else "fine"
    return {"name": name, **area.to_json(), "verdict": verdict, "warning": verdict == "warning"}


def shape_of(mask_HW: np.ndarray) -> np.ndarray:
    """(2,) float64: log area, and log outline length relative to a disc of the same area."""
    area = max(1, int(mask_HW.sum()))
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    # Outside the image counts as outside the mask, so masks that touch the border have an outline.
    inner = cv2.erode(
        mask_HW.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    outline = max(1, area - int(inner.sum()))
    return np.log([area, outline / np.sqrt(4 * np.pi * area)])


def match(first_N2: Sequence[np.ndarray], second_M2: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of similar shape, the nearest first, each row in at most one pair (greedy)."""
    if not len(first_N2) or not len(second_M2):
        return []
    distances_NM = np.linalg.norm(np.array(first_N2)[:, None] - np.array(second_M2)[None], axis=2)
    # Stable, so ties are broken by position and equal versions give equal pairs.
    order = np.argsort(distances_NM, axis=None, kind="stable")
    left: set[int] = set()
    right: set[int] = set()
    pairs = []
    for i, j in zip(*np.unravel_index(order, distances_NM.shape), strict=True):
        if distances_NM[i, j] > CALIPER:
            break
        if i not in left and j not in right:
            left.add(int(i))
            right.add(int(j))
            pairs.append((int(i), int(j)))
    return pairs


def _outside_of(anomalies: Sequence[Row], controls: Sequence[Row]) -> dict[int, np.ndarray]:
    """By the identity of a row, what neither it nor its companion of the same image has changed.

    One anomaly and one control per image share one region. Where nothing was changed both have the
    same statistics, so the probe comes out at exactly 0.5.
    """
    # Reversed, so the first sample of each image wins.
    companions = {row.image: row for row in reversed(anomalies)}
    found: dict[int, np.ndarray] = {}
    for control in {row.image: row for row in reversed(controls)}.values():
        if control.image not in companions:
            continue
        anomaly = companions[control.image]
        free_HW = ~_grown(control.mask_HW | anomaly.mask_HW)
        if free_HW.mean() >= LEAST_OUTSIDE:
            found |= {id(control): free_HW, id(anomaly): free_HW}
    return found


def _grown(where_HW: np.ndarray) -> np.ndarray:
    """A region and all pixels that its statistics depend on."""
    side = 2 * REACH + 1
    return cv2.dilate(where_HW.astype(np.uint8), np.ones((side, side), np.uint8)) > 0

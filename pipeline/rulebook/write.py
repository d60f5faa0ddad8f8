"""Write a draft: the YAML that a person reviews and edits, the examples, and a contact sheet.

screw_bag.rules.yaml          counts, places, appearance, with comments on what was seen
screw_bag.rules.safetensors   the examples by which parts are recognised
screw_bag.rules.png           a row of examples per part, so that a person can name it
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.records import bounding_box
from pipeline.rulebook.book import Book, PartRules, Place, Prototypes, save_examples
from pipeline.rulebook.draft import Draft
from pipeline.rulebook.parts import Parts
from pipeline.utils.files import write_atomic

# Examples per row of the contact sheet.
SHOWN = 10
# Pixels of the contact sheet: side of a tile, space between tiles, width of the titles.
TILE, GUTTER, MARGIN = 96, 8, 210
# Longest title in characters that fits there.
TITLE = 24

_HEAD = """\
# Rules of {category}, drafted from {images} normal images. Review and edit them: rename parts (also
# in `totals` and `together`), correct counts and places, delete wrong rules. {sheet} shows a
# row of examples per part. If two rows are one part, merge them: `examples: [0, 3]`.
#
#   count   5, or [4, 6], or any
#   place   box: [left, top, right, bottom], or slots: one part in each, or anywhere;
#           from the product's centre, x right and y down; unit: square root of its area
#   size    square root of the part's area, in the same unit; or any
#   colour  mean CIELAB and the largest distance from it; or any
#   turn    around/within: degrees of the long axis; upright: least similarity to the examples;
#           or any
#
# Rules are called {example}.count, {example}.place and so on; samples are labelled with them.
"""


def write_draft(
    draft: Draft,
    path: Path,
    found: Sequence[Parts],
    image: Callable[[int], np.ndarray],
) -> list[Path]:
    """Write book, examples and contact sheet into one folder; returns the three paths.

    `image(k)` returns the uint8 pixels in which `found[k]` was found.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".safetensors"), path.with_suffix(".png")
    # The examples first: the book names their SHA-256.
    digest = save_examples(draft.examples, beside[0])
    prototypes = Prototypes(file=beside[0].name, sha256=digest)
    book = draft.book.model_copy(update={"prototypes": prototypes})
    write_atomic(path, text_of(book, draft, beside[1].name).encode())
    # OpenCV encodes BGR.
    done, data = cv2.imencode(".png", contact_sheet(draft, found, image)[:, :, ::-1])
    assert done
    write_atomic(beside[1], data.tobytes())
    return [path, *beside]


def text_of(book: Book, draft: Draft, sheet: str) -> str:
    """The YAML of a book, with comments for the person who reviews it; `sheet` is a file name."""
    first = next(iter(book.parts))
    lines = [
        _HEAD.format(
            category=book.category, images=book.drafted_from, sheet=sheet, example=first
        ).rstrip("\n"),
        f"version: {book.version}",
        f'category: "{book.category}"',
        f"drafted_from: {book.drafted_from}",
        f"prototypes: {{file: {book.prototypes.file!r}, sha256: {book.prototypes.sha256}}}",
        "frame: " + book.frame + "  # or image: places count from the image's centre",
        "",
        "parts:",
    ]
    # By hand instead of by a YAML library, which would drop the comments.
    for name, part in book.parts.items():
        lines += [f"  {name}:  # {draft.remarks.get(part.kinds[0], '')}".rstrip(" #")]
        lines += [f"    {line}" for line in _part_lines(part)]
    for key in ("totals", "together"):
        entries = getattr(book, key)
        if entries:
            lines += ["", f"{key}:  # {_MEANING[key]}"]
        for entry in entries:
            count = f", count: {_number(entry.count)}" if key == "totals" else ""
            lines.append(f"  - {{name: {entry.name}, parts: [{', '.join(entry.parts)}]{count}}}")
    lines += [
        "",
        f"order: {str(book.order).lower()}  # no slot holds a part of another kind",
        f"unknown: {str(book.unknown).lower()}  # no part is of an unknown kind",
    ]
    if draft.not_used:
        lines += [
            "",
            "# not used, because no rule was evident (still recognised, so not `unknown`):",
        ]
        lines += [f"#   row {index}: {why}" for index, why in sorted(draft.not_used.items())]
    return "\n".join(lines) + "\n"


_MEANING = {
    "totals": "total count of several kinds",
    "together": "these kinds occur in equal numbers",
}


def _part_lines(part: PartRules) -> Iterator[str]:
    yield f"examples: {_number(part.examples)}"
    yield f"count: {_number(part.count)}"
    if isinstance(part.place, str):
        yield f"place: {part.place}"
    elif part.place.box is not None:
        yield f"place: {{box: {list(part.place.box)}}}"
    else:
        yield from _slot_lines(part.place)
    yield f"size: {part.size if isinstance(part.size, str) else list(part.size)}"
    colour, turn = part.colour, part.turn
    if isinstance(colour, str):
        yield f"colour: {colour}"
    else:
        yield f"colour: {{lab: {list(colour.lab)}, within: {colour.within}}}"
    if isinstance(turn, str):
        yield f"turn: {turn}"
        return
    axis = [] if turn.around is None else [f"around: {turn.around}", f"within: {turn.within}"]
    side = [] if turn.upright is None else [f"upright: {turn.upright}"]
    yield f"turn: {{{', '.join(axis + side)}}}"


def _slot_lines(place: Place) -> Iterator[str]:
    slots = [f"[{x}, {y}]" for x, y in place.slots or ()]
    if len(slots) == 1:
        yield f"place: {{slots: [{slots[0]}], radius: {place.radius}}}"
        return
    yield "place:"
    yield f"  radius: {place.radius}"
    yield "  slots:"
    yield from (f"    - {slot}" for slot in slots)


def _number(value: int | str | tuple[int, ...]) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def contact_sheet(
    draft: Draft, found: Sequence[Parts], image: Callable[[int], np.ndarray]
) -> np.ndarray:
    """A row of crops per group, from the most typical to the oddest; (H, W, 3) uint8 RGB."""
    width = MARGIN + SHOWN * (TILE + GUTTER)
    # Groups without rules are shown too, so that a person can see what was left out.
    names = {kind: name for name, part in draft.book.parts.items() for kind in part.kinds}
    rows = []
    for index, members in enumerate(draft.shown):
        row = np.full((TILE + GUTTER, width, 3), 255, np.uint8)
        title = names.get(index, "not used")
        _write(row, title, 40, (0, 0, 0))
        _write(row, f"row {index}, {len(members)} seen", 62, (120, 120, 120))
        # Evenly spread over all members.
        spread = np.linspace(0, len(members) - 1, min(SHOWN, len(members))).round().astype(int)
        for column, k in enumerate(spread):
            where, number = members[k]
            tile = _tile(image(where), found[where].masks_NHW[number])
            left = MARGIN + column * (TILE + GUTTER)
            row[GUTTER // 2 : GUTTER // 2 + TILE, left : left + TILE] = tile
        rows.append(row)
    return np.concatenate(rows)


def _tile(image_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The part in its surroundings with its outline drawn, (TILE, TILE, 3) uint8."""
    # A square around the part, a third larger.
    x0, y0, x1, y1 = bounding_box(mask_HW)
    side = int(1.35 * max(x1 - x0, y1 - y0)) + 4
    left, top = (x0 + x1 - side) // 2, (y0 + y1 - side) // 2
    scale = TILE / side
    move = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    size = (TILE, TILE)
    tile = cv2.warpAffine(
        image_HW3, move, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    inside = cv2.warpAffine(mask_HW.astype(np.float32), move, size) > 0.5
    # A colour that hardly occurs in products.
    outlines, _ = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    return cv2.drawContours(tile, outlines, -1, (255, 0, 160), 1)


def _write(row: np.ndarray, text: str, y: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(row, text[:TITLE], (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)

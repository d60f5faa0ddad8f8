"""Contact sheet of a rule book: a row of cutouts per group of parts, so that a person can name it.

Row k shows group k of the examples, from the most typical part to the oddest. The title of a row is
the name that the book gives the group, so it is drawn again when the name changes.

Shapes: R rows; H, W sheet.
"""

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from pipeline.errors import UserError
from pipeline.records import bounding_box
from pipeline.rulebook.book import Book
from pipeline.rulebook.draft import Draft
from pipeline.rulebook.parts import Parts

# Examples per row.
SHOWN = 10
# Pixels: side of a tile, space between tiles, width of the titles, height of the name in them.
TILE, GUTTER, MARGIN, NAME = 96, 8, 210, 48
# Longest name in characters that fits there.
LONGEST = 24
NOT_USED = "not used"


def contact_sheet(
    draft: Draft, found: Sequence[Parts], image: Callable[[int], np.ndarray]
) -> np.ndarray:
    """A row of crops per group; (H, W, 3) uint8 RGB. `image(k)` is where `found[k]` was found."""
    width = MARGIN + SHOWN * (TILE + GUTTER)
    rows = []
    # Groups without rules are shown too, so that a person can see what was left out.
    for index, members in enumerate(draft.shown):
        row = np.full((TILE + GUTTER, width, 3), 255, np.uint8)
        _write(row, f"row {index}, {len(members)} seen", 62, (120, 120, 120))
        # Evenly spread over all members.
        spread = np.linspace(0, len(members) - 1, min(SHOWN, len(members))).round().astype(int)
        for column, k in enumerate(spread):
            where, number = members[k]
            tile = _tile(image(where), found[where].masks_NHW[number])
            left = MARGIN + column * (TILE + GUTTER)
            row[GUTTER // 2 : GUTTER // 2 + TILE, left : left + TILE] = tile
        rows.append(row)
    return titled(np.concatenate(rows), draft.book)


def titled(sheet_HW3: np.ndarray, book: Book) -> np.ndarray:
    """A copy of a sheet with the names of a book beside its rows."""
    names = names_of(book)
    sheet_HW3 = sheet_HW3.copy()
    for index in range(len(sheet_HW3) // (TILE + GUTTER)):
        row = sheet_HW3[index * (TILE + GUTTER) :][: TILE + GUTTER]
        row[:NAME, :MARGIN] = 255
        _write(row, names.get(index, NOT_USED), 40, (0, 0, 0))
    return sheet_HW3


def names_of(book: Book) -> Mapping[int, str]:
    """The name of every group that a book uses."""
    return {kind: name for name, part in book.parts.items() for kind in part.kinds}


def row_of(sheet_HW3: np.ndarray, index: int) -> np.ndarray:
    """The cutouts of one group without their title, (TILE, W, 3); IndexError outside the sheet."""
    if not 0 <= index < len(sheet_HW3) // (TILE + GUTTER):
        raise IndexError(f"the sheet has no row {index}")
    row = sheet_HW3[index * (TILE + GUTTER) :][GUTTER // 2 : GUTTER // 2 + TILE, MARGIN:]
    # Groups with few members leave white tiles at the end.
    used = np.flatnonzero((row != 255).any((0, 2)))
    return row[:, : used[-1] + 1 if len(used) else TILE]


def encode(sheet_HW3: np.ndarray) -> bytes:
    """The sheet as a PNG."""
    # OpenCV encodes BGR.
    done, data = cv2.imencode(".png", sheet_HW3[:, :, ::-1])
    assert done
    return data.tobytes()


def decode(content: bytes) -> np.ndarray:
    """The sheet of a PNG; UserError for anything that is no image."""
    data = np.frombuffer(content, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise UserError("the contact sheet is no PNG; draft the rule book again")
    return image[:, :, ::-1]


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
    cv2.putText(row, text[:LONGEST], (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)

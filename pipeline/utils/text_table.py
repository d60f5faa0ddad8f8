"""Plain-text tables for terminals: columns padded to their widest cell, two spaces apart."""

from collections.abc import Sequence
from typing import Any

from pipeline.utils.names import visible

GAP = "  "


def table(
    head: Sequence[str] | None,
    rows: Sequence[Sequence[Any]],
    align: str = "<>",
    *,
    indent: str = "",
    width: int | None = None,
) -> str:
    """Rows as one string without a final newline; `head` stands above them over a ruled line.

    `align` has one `<` (left) or `>` (right) per column; its last character also holds for all
    columns after it. With `width`, cells of the last column lose their beginning, so that lines
    stay within that many characters: the end of a path says more than its root.
    """
    # A name with a line break would look like two rows.
    cells = [[visible(str(cell)) for cell in row] for row in ([head] if head else []) + [*rows]]
    if not cells:
        return ""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        room = max(1, width - len(indent) - sum(widths[:-1]) - len(GAP) * (len(widths) - 1))
        cells = [[*row[:-1], _last_part(row[-1], room)] for row in cells]
        widths[-1] = min(widths[-1], room)
    sides = align + align[-1] * (len(widths) - len(align))
    lines = [
        (indent + GAP.join(f"{cell:{side}{wide}}" for cell, side, wide in columns)).rstrip()
        for columns in (zip(row, sides, widths, strict=False) for row in cells)
    ]
    if head:
        longest = max(map(len, lines)) - len(indent)
        lines.insert(1, indent + "-" * longest)
    return "\n".join(lines)


def _last_part(text: str, room: int) -> str:
    return text if len(text) <= room else "…" + text[len(text) + 1 - room :]

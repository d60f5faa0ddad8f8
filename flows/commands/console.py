"""What commands print and how they end: answers on standard output, everything else on error.

With `--json`, standard output holds one JSON object on its last line and nothing else; whatever a
library prints meanwhile goes to standard error.
"""

import errno
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, NoReturn

import typer

DONE, BUG, MISTAKE, SKIPPED, BROKEN = 0, 1, 2, 3, 4
"""Exit codes; `docs/cli.md` says what each means."""
INTERRUPTED = 130

_WORST_FIRST = (BUG, BROKEN, MISTAKE, SKIPPED, DONE)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")
]

# What the disk or its owner refuses is the user's to mend; other OSErrors are looked into as bugs.
_REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT,
    errno.ENOTDIR, errno.EISDIR,
)  # fmt: skip


def worst(codes: Sequence[int]) -> int:
    """The gravest of several exit codes."""
    return min(codes, key=_WORST_FIRST.index, default=DONE)


@contextmanager
def quiet_output(as_json: bool) -> Iterator[None]:
    """Keep standard output clean while the work is done, when a program reads it."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def answer(content: Any, as_json: bool, text: str) -> None:
    """The one thing a command has to say."""
    typer.echo(json.dumps(content, ensure_ascii=False) if as_json else text.rstrip("\n"))


def remark(text: str) -> None:
    """Something beside the answer: standard error."""
    typer.echo(text, err=True)


def complain(error: BaseException | str) -> None:
    """One line per mistake, without a traceback."""
    for line in str(error).splitlines():
        if line.strip():
            typer.echo(f"anomalysmith: {line.strip()}", err=True)


def is_refusal(error: OSError) -> bool:
    """True for what the file system refuses: no space, no permission, no such file."""
    return error.errno in _REFUSALS


def leave(code: int) -> NoReturn:
    raise typer.Exit(code)


def in_words(choices: Iterable[str], last: str) -> str:
    """`a, b or c`: names as a sentence lists them."""
    *others, final = choices
    return f"{', '.join(others)} {last} {final}" if others else final


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Plain text columns; the first is left-aligned, the others right."""
    cells = [tuple(head), *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *others = zip(row, widths, strict=True)
        parts = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(parts).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])

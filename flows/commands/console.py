"""Output and exit codes of all commands: results on standard output, everything else on error.

With `--json`, standard output holds one JSON object on its last line and nothing else; whatever a
library prints meanwhile goes to standard error.
"""

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pipeline.errors import UserError
from pipeline.utils.files import COMMAND_ERRORS, named_disk_errors, write_atomic
from pipeline.utils.names import visible, visible_lines

# Exit codes; `docs/cli.md` explains each. SKIPPED means done, but some inputs could not be used.
DONE, BUG, USER_ERROR, SKIPPED, INTEGRITY_ERROR = 0, 1, 2, 3, 4
# 128 + SIGINT, as shells have it.
INTERRUPTED = 130
# 128 + SIGPIPE: whoever read the output, such as `head`, had enough.
READER_GONE = 141
# Names of standard output for options that name an output file.
STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")

# A bug outranks all others: nothing that the run printed can be trusted then.
_WORST_FIRST = (BUG, INTEGRITY_ERROR, USER_ERROR, SKIPPED, DONE)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")
]

AllNormal = Annotated[
    bool,
    typer.Option(
        "--all-normal",
        help="Read a plain folder although names or pixels in it look like defects or masks: every "
        "image is good.",
    ),
]
FollowLinks = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder outside that links may lead into, such as the cache of DVC or git-annex; "
        "otherwise links must stay inside.",
    ),
]


def worst_code(codes: Sequence[int]) -> int:
    """The worst of several exit codes."""
    return min(codes, key=_WORST_FIRST.index, default=DONE)


@contextmanager
def stdout_to_stderr(as_json: bool) -> Iterator[None]:
    """With `--json`, send what libraries print to standard error, so standard output stays JSON."""
    # Without --json nobody parses the output.
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def open_closed_streams() -> None:
    """Open standard streams that the caller closed (`2>&-`, some daemons) on the null device.

    Otherwise libraries write to None, and the next file that is opened gets the stream's number.
    Called once, at the start of the program.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The lowest free number, which is this stream's: those below are open by now.
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)
            setattr(sys, name, os.fdopen(null, "r" if number == 0 else "w", closefd=False))


def escape_what_cannot_be_printed() -> None:
    """Let no character end a command: a terminal that lacks it gets `\\u2192` in its place.

    Called once, at the start of the program.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_result(content: Any, as_json: bool, text: str, *, aside: bool = False) -> None:
    """Print the result of a command: `content` as one line of JSON, or `text`.

    With `aside` standard output is taken by a file that an option sent there (`-`).
    """
    shown = json_text(content) if as_json else visible_lines(text.rstrip("\n"))
    typer.echo(shown, err=aside)


def json_text(content: Any, indent: int | None = None) -> str:
    """JSON with the letters of every script, in ASCII where standard output lacks some of them."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    # `backslashreplace` would write rare characters as \U0001f600, which is no JSON.
    except UnicodeEncodeError:
        return json.dumps(content, indent=indent)
    return text


def is_standard_output(path: Path | None, as_json: bool = False) -> bool:
    """True for `-`, and for the names under which the system knows standard output.

    UserError when `--json` needs it as well.
    """
    found = path is not None and str(path) in STANDARD_OUTPUT
    if found and as_json:
        raise UserError(f"{path} and --json both write to standard output; name a file")
    return found


def write_output(path: Path, content: bytes) -> None:
    """Write a file that an option names; `-` is standard output.

    Call it outside of `stdout_to_stderr`.
    """
    if not is_standard_output(path):
        with named_disk_errors(path.parent):
            write_atomic(path, content)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def print_note(text: str) -> None:
    """Print a remark that is not part of the result, on standard error."""
    typer.echo(visible_lines(text), err=True)


def print_error(error: BaseException | str) -> None:
    """Print an error on standard error, without a traceback; each line with the program's name."""
    # An error over several inputs has one line for each.
    for line in str(error).splitlines():
        if line.strip():
            typer.echo(f"anomalysmith: {visible(line.strip())}", err=True)


def is_user_error(error: OSError) -> bool:
    """True for file system errors that the user can fix: no space, no permission, no such file."""
    return error.errno in COMMAND_ERRORS


def exit_with(code: int) -> NoReturn:
    """End the command with this exit code; files and bars that are open are closed on the way."""
    raise typer.Exit(code)


def join_words(choices: Iterable[str], last: str) -> str:
    """Names as a sentence lists them: `a, b or c` with `last` "or"."""
    *others, final = choices
    return f"{', '.join(others)} {last} {final}" if others else final

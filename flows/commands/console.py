"""Output and exit codes of all commands: results on standard output, everything else on error.

With `--json`, standard output holds one JSON object on its last line and nothing else; whatever a
library prints meanwhile goes to standard error.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, NoReturn

import typer

from pipeline.utils.files import COMMAND_ERRORS

# Exit codes; `docs/cli.md` explains each. SKIPPED means done, but some inputs could not be used.
DONE, BUG, USER_ERROR, SKIPPED, INTEGRITY_ERROR = 0, 1, 2, 3, 4
# 128 + SIGINT, as shells have it.
INTERRUPTED = 130

# A bug outranks all others: nothing that the run printed can be trusted then.
_WORST_FIRST = (BUG, INTEGRITY_ERROR, USER_ERROR, SKIPPED, DONE)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")
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


def print_result(content: Any, as_json: bool, text: str) -> None:
    """Print the result of a command: `content` as one line of JSON, or `text`."""
    typer.echo(json.dumps(content, ensure_ascii=False) if as_json else text.rstrip("\n"))


def print_note(text: str) -> None:
    """Print a remark that is not part of the result, on standard error."""
    typer.echo(text, err=True)


def print_error(error: BaseException | str) -> None:
    """Print an error on standard error, without a traceback; each line with the program's name."""
    # An error over several inputs has one line for each.
    for line in str(error).splitlines():
        if line.strip():
            typer.echo(f"anomalysmith: {line.strip()}", err=True)


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

"""`docs/cli.md`: the command reference, written by the program itself.

python -m flows.reference     write docs/cli.md again; a test fails while it is stale
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """\
# The command line

This page is written by `python -m flows.reference` from the program itself.

Answers go to standard output, progress and remarks to standard error. With `--json`, standard
output holds one JSON object on its last line and nothing else.

| exit code | meaning |
|---|---|
| 0 | done; samples that the gate refused are part of the job and counted |
| 1 | a bug of ours, with a traceback |
| 2 | a mistake that you can mend, one line on standard error |
| 3 | done, but some input files could not be used; they are named |
| 4 | stored bytes are not what was written |
| 130 | interrupted; what is finished is kept, the same command goes on |

When `generate` makes several categories, one that fails does not stop the others, and the gravest
exit code wins.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """`("weights list", click command)` for every command, in the order of the help."""
    from flows.cli import app

    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {below}", sub) for below, sub in command.commands.items())
        else:
            yield name, command


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(_section(name, command) for name, command in commands())])


def _section(name: str, command: Any) -> str:
    """One command: usage, what it does, a table of what it takes."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = [
        "anomalysmith",
        name,
        *(a.metavar for a in arguments),
        *(["[OPTIONS]"] * bool(options)),
    ]
    rows = [(a.metavar, a.help) for a in arguments]
    rows += [(" ".join([*o.opts, o.metavar or ""]).strip(), o.help) for o in options]
    lines = [f"## {name}", "", f"    {' '.join(usage)}", "", inspect.cleandoc(command.help or "")]
    lines += ["", "| | |", "|---|---|"]
    lines += [
        f"| `{word.replace('|', chr(92) + '|')}` | {' '.join(text.split())} |"
        for word, text in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())

"""Processor seconds of commands that only look: as ratios to `import typer` of the same run.

    python -m benchmarks.cli [VERSION_DIR]

Commands take turns, the least of several runs counts: other programs only ever add. With the folder
of a version, `stats` has a row, too; `doctor` checks the manifest of this checkout, whose example
scenes should be rendered. Run it twice where Python may not have compiled the program yet.
"""

from flows import environment as _quiet  # noqa: F401  isort: skip  first: telemetry off

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPEATS = 7
# The console script stands beside the interpreter.
PROGRAM = str(Path(sys.executable).with_name("anomalysmith"))
TYPER = (sys.executable, "-c", "import typer")


@dataclass(frozen=True, slots=True)
class Row:
    """A command, the least processor seconds and resident MB of its runs, and its aim.

    `aim` is in seconds, or in times `import typer` where `relative`.
    """

    command: str
    seconds: float
    megabytes: float
    times: float
    aim: float
    relative: bool

    @property
    def holds(self) -> bool:
        return (self.times if self.relative else self.seconds) <= self.aim

    def __str__(self) -> str:
        aim = f"≤ {self.aim:g} times" if self.relative else f"≤ {self.aim:g} s"
        return (
            f"| `{self.command}` | {self.seconds:.2f} s | {self.times:.1f} | {self.megabytes:.0f} "
            f"MB | {aim} | {'yes' if self.holds else 'NO'} |"
        )


def main(arguments: Sequence[str] = ()) -> list[Row]:
    """Print the table and return its rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("version", nargs="?", help="folder of a version")
    version = parser.parse_args(arguments).version
    # (command, aim, whether it is in times `import typer`)
    wanted = [("--help", 3.0, True), ("generate --help", 3.0, True), ("doctor", 1.5, False)]
    if version:
        wanted.append((f"stats {version}", 0.4, False))
    least: dict[str, tuple[float, float]] = {}
    for _ in range(REPEATS):
        for name, words in (("", TYPER), *((c, (PROGRAM, *c.split())) for c, _, _ in wanted)):
            seconds, megabytes = _cost(words)
            before = least.get(name, (seconds, megabytes))
            least[name] = min(before[0], seconds), max(before[1], megabytes)
    unit = least[""][0]
    print(f"`import typer` takes {unit:.3f} s of a core.\n")
    print("| command | of a core | times `import typer` | resident | aim | met |")
    print("|---|---|---|---|---|---|")
    rows = [
        Row(command.replace(version or "\0", "VERSION_DIR"), *least[command],
            least[command][0] / unit, aim, relative)
        for command, aim, relative in wanted
    ]  # fmt: skip
    print("\n".join(map(str, rows)))
    return rows


def _cost(words: Sequence[str]) -> tuple[float, float]:
    """Processor seconds and largest resident MB of one run, whose output is thrown away."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        quiet = [(os.POSIX_SPAWN_DUP2, null, number) for number in (1, 2)]
        child = os.posix_spawn(words[0], list(words), os.environ, file_actions=quiet)
    finally:
        os.close(null)
    _, _, used = os.wait4(child, 0)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(not all(row.holds for row in main(sys.argv[1:])))

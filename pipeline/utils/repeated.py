"""Messages about many files in few lines: those that say the same become one, with a count.

    repeated([("a.png", "a.png: zero bytes"), ("b.png", "b.png: zero bytes")])
    # ["2 files: zero bytes (a.png, b.png)"]

Every command that lists problems prints them this way; JSON and records keep the full list.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath

# Names that are shown of a message about many files.
EXAMPLES = 3
# Stands for the file's own name, which does not make a message another one.
_NAME = "\0"

# The name of a file, and what is wrong with it.
Problem = tuple[str, str]


def repeated(problems: Iterable[Problem], what: str = "files") -> list[str]:
    """One line per message, in the order of the first file that it is about.

    Of a single file `NAME: MESSAGE`, of several `N files: MESSAGE (NAME, NAME, NAME and N more)`,
    with the message of the first one. `what` says what the names are of, in the plural.
    """
    groups: dict[str, list[Problem]] = {}
    for name, message in problems:
        groups.setdefault(_kind(name, message), []).append((name, message))
    return [_line(members, what) for members in groups.values()]


class OnceEach:
    """The same for messages that come one by one: after three files a message is only counted."""

    def __init__(self) -> None:
        self._told: Counter[str] = Counter()

    def lines(self, problems: Iterable[Problem]) -> list[str]:
        """The lines to print for these files; none where enough was said before."""
        problems = list(problems)
        kinds = Counter(_kind(*problem) for problem in problems)
        fresh = [problem for problem in problems if self._told[_kind(*problem)] < EXAMPLES]
        lines = repeated(fresh)
        # Each line belongs to one kind, in the same order.
        for number, kind in enumerate(dict.fromkeys(_kind(*problem) for problem in fresh)):
            if self._told[kind] + kinds[kind] >= EXAMPLES and kinds[kind] < EXAMPLES:
                lines[number] += "; more of these are only counted"
        self._told += kinds
        return lines


def first_few(names: Sequence[str], most: int = EXAMPLES) -> str:
    """`a, b, c and 9 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _line(members: Sequence[Problem], what: str) -> str:
    """The line about all files of one message."""
    (name, message), *others = members
    if not others:
        # Most messages begin with the path already.
        return message if name in message else f"{name}: {message}"
    names = first_few([name for name, _ in members])
    return f"{len(members)} {what}: {_without_path(name, message)} ({names})"


def _without_path(name: str, message: str) -> str:
    """The message without the path at its beginning."""
    place, colon, rest = message.partition(": ")
    return rest if colon and place.endswith(name) else message


def _kind(name: str, message: str) -> str:
    """What two messages have in common that say the same of two files."""
    text = _without_path(name, message)
    path = PurePath(name)
    # The longest first: the stem is a part of the others. Parents too, as in the path of a mask.
    for part in (name, path.name, path.stem):
        text = re.sub(rf"(?<!\w){re.escape(part)}(?![^\W_])", _NAME, text) if part else text
    return re.sub(r"\d+", "#", text)

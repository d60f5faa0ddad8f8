"""A benchmark from the command line: what the user can mend ends in one line, and exit code 2."""

import sys
from collections.abc import Callable

from pipeline.errors import AnomalysmithError


def command(name: str, main: Callable[[], object]) -> None:
    """Run `main`; of an `AnomalysmithError` the message is printed, without a traceback."""
    try:
        main()
    except AnomalysmithError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)

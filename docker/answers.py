"""Health check: exit code 0 when the URL answers with status 200 within five seconds, else 1.

python docker/answers.py http://127.0.0.1:4200/api/health
"""

import sys
from urllib.request import urlopen


def main() -> int:
    try:
        # Refused connections, timeouts and HTTP errors are all OSErrors.
        with urlopen(sys.argv[1], timeout=5) as answer:
            return int(answer.status != 200)
    except OSError as error:
        print(f"{sys.argv[1]}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

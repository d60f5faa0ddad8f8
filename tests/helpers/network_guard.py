"""The error of a test that tries to reach another machine."""


class NetworkBlocked(RuntimeError):
    """Deliberately no OSError: a library that retries after those would hide the attempt."""

"""What a test gets that tries to reach another machine."""


class NetworkBlocked(RuntimeError):
    """Not an OSError on purpose: a library that retries on those would hide the attempt."""

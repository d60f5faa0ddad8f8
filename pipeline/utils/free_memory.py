"""Give free memory back to the system between large images."""

import ctypes
from contextlib import suppress

# Pixels from which it pays: the holes that such an image leaves in the heap are a tenth of a GB.
LARGE = 512 * 512


def give_back(pixels: int = LARGE) -> None:
    """Let the C library return what is free, once an image of `pixels` pixels is done.

    Otherwise it keeps the holes between what stays, which the next image fills only in part.
    """
    if pixels < LARGE:
        return
    # Only glibc has the function.
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)

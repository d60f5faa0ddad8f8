"""Give free memory back to the system between large images."""

import ctypes
from contextlib import suppress

# Pixels from which it pays: the holes that such an image leaves in the heap are a tenth of a GB.
LARGE = 512 * 512
# Bytes that are free in the heap from which they are given back while an image is worked on. Pages
# that are needed again cost half a millisecond per MB, so not after every step.
HOLES = 96 << 20


class _Usage(ctypes.Structure):
    """`struct mallinfo2` of glibc: `fordblks` are the free bytes of all its heaps."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def give_back(pixels: int = LARGE, holes: int = 0) -> None:
    """Let the C library return what is free, once an image of `pixels` pixels is done.

    Otherwise it keeps the holes between what stays, which the next image fills only in part. Where
    less than `holes` bytes are free nothing is done.
    """
    if pixels < LARGE:
        return
    # Only glibc has these functions, the first one since 2.33.
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        if holes:
            library.mallinfo2.restype = _Usage
            if library.mallinfo2().fordblks < holes:
                return
        library.malloc_trim(0)

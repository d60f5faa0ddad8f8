"""The chunks of a PNG file: what it says about its bit depth, and a copy without optional ones.

A PNG is a row of chunks; pixels need four kinds of them. A damaged text, colour profile or EXIF
block makes Pillow reject the file although no pixel is affected.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Header, palette, pixels, end; and the transparent colour, which changes what is shown.
_NEEDED = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"))
# Those that may say how the image is turned: EXIF itself, and texts that hold it or XMP.
_TURNING = frozenset((b"eXIf", b"tEXt", b"zTXt", b"iTXt"))


def without_optional(path: Path) -> bytes | None:
    """The file without optional chunks; None for other files and where the row breaks off."""
    content = path.read_bytes()
    kept = [whole for kind, whole in _chunks(content) if kind in _NEEDED]
    # Without its end the file is cut short, which is damage to the pixels.
    if not kept or kept[-1][4:8] != b"IEND":
        return None
    return _SIGNATURE + b"".join(kept)


def significant_bits(path: Path) -> int | None:
    """The number of bits that the `sBIT` chunk declares, the largest of all channels; else None."""
    for kind, whole in _chunks(path.read_bytes()):
        if kind == b"sBIT":
            return max(whole[8:-4], default=None)
        if kind == b"IDAT":
            break
    return None


def is_sound(path: Path) -> bool:
    """True for a whole PNG of at most 8 bits per sample whose chunks agree with their checksums.

    It holds what its writer wrote. False for other files, and where only decoding can tell.
    """
    chunks = list(_chunks(path.read_bytes()))
    kinds = [kind for kind, _ in chunks]
    if b"IDAT" not in kinds or kinds[0] != b"IHDR" or kinds[-1] != b"IEND":
        return False
    # Behind width and height; deeper samples may be too dark to be meant.
    depth = chunks[0][1][16]
    return depth <= 8 and all(
        zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big") for _, whole in chunks
    )


def may_be_turned_at_the_end(path: Path) -> bool:
    """True when something behind the pixels may tell the orientation; False for other files."""
    pixels = False
    for kind, _ in _chunks(path.read_bytes()):
        pixels |= kind == b"IDAT"
        if pixels and kind in _TURNING:
            return True
    return False


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, length + kind + data + checksum) of each complete chunk."""
    if not content.startswith(_SIGNATURE):
        return
    place = len(_SIGNATURE)
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 12 + length
        if end > len(content):
            return
        yield content[place + 4 : place + 8], content[place:end]
        place = end

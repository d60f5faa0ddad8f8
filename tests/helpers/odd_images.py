"""Image files that common libraries do not write: bands, sample formats and chunks at will."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

BITS, PHOTOMETRIC, SAMPLES, MAX_SAMPLE, SAMPLE_FORMAT = 258, 262, 277, 281, 339


def write_tiff(path: Path, values: np.ndarray, tags: Mapping[int, int] | None = None) -> Path:
    """(H, W) or (H, W, bands) of any dtype as one strip; `tags` are added or replaced."""
    height, width = values.shape[:2]
    bands = values.shape[2] if values.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    found = {
        256: width, 257: height, 259: 1, BITS: values.itemsize * 8,
        PHOTOMETRIC: 2 if bands == 3 else 1, 273: 0, SAMPLES: bands, 278: height, 279: len(raw),
        SAMPLE_FORMAT: kind,
    } | dict(tags or {})  # fmt: skip
    per_band = {BITS, SAMPLE_FORMAT, MAX_SAMPLE}
    start = 8 + 2 + 12 * len(found) + 4
    # Values of more than four bytes lie behind the table, then the pixels.
    beside = {
        tag: struct.pack(f"<{bands}H", *[found[tag]] * bands)
        for tag in sorted(found)
        if tag in per_band and bands > 2
    }
    found[273] = start + sum(map(len, beside.values()))
    table, place = b"", start
    for tag in sorted(found):
        if tag in beside:
            table += struct.pack("<HHLL", tag, 3, bands, place)
            place += len(beside[tag])
        elif tag in per_band:
            packed = struct.pack(f"<{bands}H", *[found[tag]] * bands).ljust(4, b"\0")
            table += struct.pack("<HHL", tag, 3, bands) + packed
        else:
            table += struct.pack("<HHLL", tag, 4, 1, found[tag])
    head = b"II*\0" + struct.pack("<LH", 8, len(found)) + table + bytes(4)
    path.write_bytes(head + b"".join(beside.values()) + raw)
    return path


def write_png(path: Path, values: np.ndarray, extra: bytes = b"", after: bytes = b"") -> Path:
    """(H, W) or (H, W, 3) uint8 or uint16; chunks `extra` before the pixels, `after` behind."""
    height, width = values.shape[:2]
    big = values.astype(values.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    colour = 2 if values.ndim == 3 else 0
    head = struct.pack(">IIBBBBB", width, height, values.itemsize * 8, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), extra, chunk(b"IDAT", zlib.compress(rows)), after]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


def chunk(kind: bytes, data: bytes, *, checksum: int | None = None) -> bytes:
    """A chunk of a PNG, with the right checksum or a given one."""
    found = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", found)

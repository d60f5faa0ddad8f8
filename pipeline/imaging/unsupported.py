"""What a file is that Pillow does not open as an image, in plain words.

"Not an image" would be wrong for a TIFF of five bands, and useless for a pointer of Git LFS.
"""

import struct
from pathlib import Path

from PIL.TiffImagePlugin import ImageFileDirectory_v2

# Tags of a TIFF.
_WIDTH, BITS_PER_SAMPLE, SAMPLES_PER_PIXEL, MAX_SAMPLE, SAMPLE_FORMAT = 256, 258, 277, 281, 339
_SIGNED, _FLOAT, _COMPLEX = 2, 3, (5, 6)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TO_PNG = "convert it to PNG or JPEG"
# (place, first bytes there, what the file is, what to do)
_SIGNATURES = (
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the image", "run `git lfs pull`"),
    (8, b"avif", "an AVIF image, which is not supported", _TO_PNG),
    (4, b"ftyp", "an HEIC image or a video, which is not supported", _TO_PNG),
    (4, b"jP  ", "a JPEG 2000 image, which is not supported", _TO_PNG),
    (4, b"JXL ", "a JPEG XL image, which is not supported", _TO_PNG),
    (0, b"\xff\x0a", "a JPEG XL image, which is not supported", _TO_PNG),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image, which is not supported", _TO_PNG),
    (0, b"8BPS", "a Photoshop file, which is not supported", _TO_PNG),
    (0, b"v/1\x01", "an OpenEXR image, which is not supported", _TO_PNG),
    (128, b"DICM", "a DICOM file, which is not supported", _TO_PNG),
    (0, b"SIMPLE  =", "a FITS file, which is not supported", _TO_PNG),
    (0, b"%PDF", "a PDF document, not an image", _TO_PNG),
    (0, b"PK\x03\x04", "a zip archive, not an image", "unpack it"),
    (0, b"\x1f\x8b", "a gzip archive, not an image", "unpack it"),
    (0, b"<!DOCTYPE", "a web page, not an image", "download the image itself"),
    (0, b"<!doctype", "a web page, not an image", "download the image itself"),
    (0, b"<html", "a web page, not an image", "download the image itself"),
    (0, b"<svg", "an SVG drawing, not an image of pixels", _TO_PNG),
)  # fmt: skip


def why_unsupported(path: Path) -> tuple[str, str] | None:
    """(what was found, what to do) for a file of a known kind; None when it is unknown."""
    with path.open("rb") as file:
        head = file.read(256)
    if head.startswith(_TIFF):
        return _why_tiff(path)
    for place, first, what, advice in _SIGNATURES:
        if head[place : place + len(first)] == first:
            return what, advice
    return None


def tiff_fault(tags: ImageFileDirectory_v2) -> tuple[str, str] | None:
    """(what was found, what to do) when the samples of a TIFF are no whole numbers from 0 on."""
    bits, kind = _first(tags, BITS_PER_SAMPLE, 1), _first(tags, SAMPLE_FORMAT, 1)
    advice = "convert it to 8 or 16 bit"
    if kind == _FLOAT:
        return f"floating-point pixels ({bits} bits) of unknown range", advice
    if kind in _COMPLEX:
        return "complex numbers as pixels", advice
    # 16 and 32 bits are read with their sign, and rejected if a value is below zero.
    if kind == _SIGNED and bits == 8:
        return "signed 8-bit pixels", "convert it to unsigned 8 bit"
    return None


def _why_tiff(path: Path) -> tuple[str, str] | None:
    try:
        with path.open("rb") as file:
            head = file.read(8)
            # BigTIFF has 8 more bytes.
            tags = ImageFileDirectory_v2(head + (file.read(8) if b"+" in head[:4] else b""))
            file.seek(tags.next)
            tags.load(file)
            # Damaged beyond recognition: then nothing is known about the file.
            if _WIDTH not in tags:
                return None
            bits, bands = _first(tags, BITS_PER_SAMPLE, 1), _first(tags, SAMPLES_PER_PIXEL, 1)
            fault = tiff_fault(tags)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error):
        return None
    return fault or (
        f"a TIFF of {bands} bands with {bits} bits, which is not supported",
        "save it as grey or RGB with 8 or 16 bits",
    )


def _first(tags: ImageFileDirectory_v2, tag: int, default: int) -> int:
    """The value of a tag, of the first band where there are several."""
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)

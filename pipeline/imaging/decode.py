"""One door for image files: whatever lies on disk becomes (H, W, 3) uint8 RGB or an `ImageError`.

| what the file holds                     | what comes out                                       |
|-----------------------------------------|------------------------------------------------------|
| RGB, 8 bit                              | as it is; 16 bits per channel: the high byte         |
| EXIF orientation                        | rotated upright first, masks too                     |
| grey 8 bit, 1 bit                       | the value in all three channels (1 bit: 0 and 255)   |
| palette                                 | its colours                                          |
| grey 16 bit, 32-bit whole numbers       | value >> 8, never stretched per image; 32-bit values |
|                                         | outside 0-65535 are an error                         |
| alpha, transparent palette entries      | laid on white: products are cut out on white         |
| CMYK, YCbCr, HSV                        | converted                                            |
| animation, several pages                | the first frame                                      |
| floating point, LAB                     | ImageError: the range is not known                   |
| zero bytes, cut short, no image         | ImageError                                           |
| a side below 16 px, above 80 megapixels | ImageError (the second before any pixel is decoded)  |

Images are resized by Pillow's bilinear filter, which averages when it shrinks; the aspect ratio is
given up, as the detectors do. Masks are resized to the nearest pixel, so no new grey value appears.
An `ImageError` is one line: the file, what it is, what to do.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import ImageError
from pipeline.records import MAX_PIXELS

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""File name endings that count as images, compared in lower case."""

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
"""Decoders that may run, whatever the name says; no document format, no external program."""

MIN_SIDE = 16
ORIENTATION_TAG, SIDEWAYS = 0x0112, (5, 6, 7, 8)

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError,
           OverflowError, struct.error, zlib.error, Image.DecompressionBombError,
           Image.DecompressionBombWarning)  # fmt: skip
"""All that Pillow's decoders are known to raise on damaged bytes."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of itself before decoding; `size_HW` is upright (EXIF applied)."""

    format: str
    mode: str
    size_HW: tuple[int, int]
    frames: int


def is_image_name(path: Path) -> bool:
    """True when the file name ends like an image, in any case."""
    return path.suffix.lower() in SUFFIXES


def read_header(path: Path) -> ImageHeader:
    """Format, mode, upright size and number of frames; decodes no pixel."""
    with _opened(path) as image:
        width, height = image.size
        sideways = image.getexif().get(ORIENTATION_TAG) in SIDEWAYS
        size_HW = (width, height) if sideways else (height, width)
        return ImageHeader(
            image.format or "?", image.mode, size_HW, int(getattr(image, "n_frames", 1))
        )


def load_image(path: Path, size_HW: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright, resized when a size is given; see the table above."""
    with _opened(path) as image:
        rgb = _as_rgb(path, ImageOps.exif_transpose(image))
        return np.array(_resized(rgb, size_HW, Image.Resampling.BILINEAR))


def load_mask(path: Path, size_HW: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W) uint8 grey values as stored (1 bit: 0 and 255), upright, resized to the nearest pixel.

    Colour counts by its luma, which is the value itself where the channels agree; alpha is ignored.
    """
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            grey = _deep_grey(path, upright, keep_small=True)
        else:
            grey = upright.convert("RGB").convert("L")
        return np.array(_resized(grey, size_HW, Image.Resampling.NEAREST))


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal: the identity of a source image."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise _refused(path, error.strerror or str(error), "check the file") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The undecoded image of a sound header; everything raised inside becomes an ImageError."""
    try:
        if not path.stat().st_size:
            raise _refused(path, "the file has zero bytes", "copy it again")
        with path.open("rb") as handle, Image.open(handle, formats=FORMATS) as image:
            _check_size(path, *image.size)
            yield image
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise _refused(path, "there is no such file", "check the path") from error
    except (IsADirectoryError, PermissionError) as error:
        raise _refused(path, str(error.strerror).lower(), "check the path") from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        raise _refused(path, f"not an image (known: {kinds})", "remove or convert it") from error
    except Image.DecompressionBombError as error:
        raise _refused(path, "too many pixels to decode", "scale it down") from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the system failed, not the picture: trying again may help
        why = " ".join(str(error).split()) or type(error).__name__
        raise _refused(path, f"damaged or cut short ({why})", "copy it again") from error


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise _refused(
            path, f"{width} x {height} px, the least is {MIN_SIDE} x {MIN_SIDE}", "leave it out"
        )
    if width * height > MAX_PIXELS:
        raise _refused(
            path, f"{width} x {height} px, the most is {MAX_PIXELS:,} pixels", "scale it down"
        )


def _as_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise _refused(path, "floating-point pixels of unknown range", "convert it to 8 or 16 bit")
    if image.mode.startswith("I"):
        return _deep_grey(path, image).convert("RGB")
    if image.has_transparency_data:
        cutout = image.convert("RGBA")
        white = Image.new("RGBA", cutout.size, "white")
        return Image.alpha_composite(white, cutout).convert("RGB")
    if image.mode == "LAB":
        raise _refused(path, "LAB pixels", "convert it to RGB")
    return image.convert("RGB")


def _deep_grey(path: Path, image: Image.Image, keep_small: bool = False) -> Image.Image:
    """16-bit grey to 8 bit by the range of the container, so that all images scale alike.

    With `keep_small` (masks), values that fit into 8 bits are labels and stay as they are.
    """
    values_HW = np.asarray(image)
    if values_HW.dtype.kind == "f":
        raise _refused(path, "floating-point pixels of unknown range", "convert it to 8 or 16 bit")
    low, high = int(values_HW.min()), int(values_HW.max())
    if low < 0 or high > 0xFFFF:
        raise _refused(path, f"values from {low} to {high}", "convert it to 8 or 16 bit")
    shift = 0 if keep_small and high <= 0xFF else 8
    return Image.fromarray((values_HW.astype(np.int64) >> shift).astype(np.uint8))


def _resized(
    image: Image.Image, size_HW: tuple[int, int] | None, how: Image.Resampling
) -> Image.Image:
    if size_HW is None or (size_HW[1], size_HW[0]) == image.size:
        image.load()
        return image
    return image.resize((size_HW[1], size_HW[0]), how)


def _refused(path: Path, found: str, advice: str) -> ImageError:
    return ImageError(f"{path}: {found}; {advice}")

"""Decode image files: any file becomes (H, W, 3) uint8 RGB or an `ImageError`.

| what the file holds                     | what comes out                                       |
|-----------------------------------------|------------------------------------------------------|
| RGB, 8 bit                              | unchanged; 16 bits per channel: the high byte        |
| EXIF orientation                        | rotated upright first, masks too                     |
| grey 8 bit, 1 bit                       | the value in all three channels (1 bit: 0 and 255)   |
| palette                                 | its colours                                          |
| grey 16 bit, 32-bit whole numbers       | value >> 8, never stretched per image; 32-bit values |
|                                         | outside 0-65535 are an error                         |
| alpha, transparent palette entries      | composited on white, as product cutouts usually are  |
| CMYK, YCbCr, HSV                        | converted                                            |
| animation, several pages                | the first frame                                      |
| floating point, LAB                     | ImageError: the value range is unknown               |
| zero bytes, truncated, no image         | ImageError                                           |
| a side below 16 px, above 80 megapixels | ImageError (the second before any pixel is decoded)  |

Images are resized by Pillow's bilinear filter, which averages when it shrinks. The aspect ratio is
not kept, as in the detectors. Masks use the nearest pixel, so no new grey value appears. An
`ImageError` is one line: the file, what was found, what to do.
"""

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
from pipeline.utils.hashing import sha256_file

# File name endings that count as images, compared in lower case.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

# Decoders that may run, independent of the file name. Document formats such as EPS are left out:
# they would start an external program on untrusted input.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")

# Shortest side in pixels that is accepted; smaller files are icons or thumbnails.
MIN_SIDE = 16
# The EXIF tag, and its values that swap width and height.
ORIENTATION_TAG, SIDEWAYS = 0x0112, (5, 6, 7, 8)

# All that Pillow's decoders are known to raise on damaged bytes.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError,
           OverflowError, struct.error, zlib.error, Image.DecompressionBombError,
           Image.DecompressionBombWarning)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the file header says, before any pixel is decoded.

    `size_HW` is upright (EXIF applied); `frames` is above 1 for animations and multi-page files.
    """

    format: str
    mode: str
    size_HW: tuple[int, int]
    frames: int


def is_image_name(path: Path) -> bool:
    """True when the file name has an image suffix, in upper or lower case."""
    return path.suffix.lower() in SUFFIXES


def read_header(path: Path) -> ImageHeader:
    """Format, mode, upright size and number of frames, without decoding; ImageError if unusable."""
    with _opened(path) as image:
        width, height = image.size
        # Orientations that rotate by a quarter turn swap the sides.
        sideways = image.getexif().get(ORIENTATION_TAG) in SIDEWAYS
        size_HW = (width, height) if sideways else (height, width)
        return ImageHeader(
            image.format or "?", image.mode, size_HW, int(getattr(image, "n_frames", 1))
        )


def load_image(path: Path, size_HW: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright, resized when a size is given; see the table above.

    ImageError names the file when it cannot be used.
    """
    with _opened(path) as image:
        rgb = _as_rgb(path, ImageOps.exif_transpose(image))
        return np.array(_resized(rgb, size_HW, Image.Resampling.BILINEAR))


def load_mask(path: Path, size_HW: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W) uint8 grey values as stored (1 bit: 0 and 255), upright, resized to the nearest pixel.

    Colour masks become their luma, which is the value itself where the channels agree. Alpha is
    ignored.
    """
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            grey = _deep_grey(path, upright, keep_small=True)
        else:
            # By way of RGB, so that palette indices become their grey values.
            grey = upright.convert("RGB").convert("L")
        return np.array(_resized(grey, size_HW, Image.Resampling.NEAREST))


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal: the identity of a source image."""
    try:
        return sha256_file(path)
    except OSError as error:
        raise _error(path, error.strerror or str(error), "check the file") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The opened, not yet decoded image; decoder errors inside the block become ImageErrors."""
    try:
        if not path.stat().st_size:
            raise _error(path, "the file has zero bytes", "copy it again")
        with path.open("rb") as handle, Image.open(handle, formats=FORMATS) as image:
            # Before any pixel is decoded, so that decompression bombs cost nothing.
            _check_size(path, *image.size)
            yield image
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise _error(path, "there is no such file", "check the path") from error
    except (IsADirectoryError, PermissionError) as error:
        raise _error(path, str(error.strerror).lower(), "check the path") from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        raise _error(path, f"not an image (known: {kinds})", "remove or convert it") from error
    except Image.DecompressionBombError as error:
        raise _error(path, "too many pixels to decode", "scale it down") from error
    except _BROKEN as error:
        # An errno means that the disk or the system failed, not the image: a retry may help.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = " ".join(str(error).split()) or type(error).__name__
        raise _error(path, f"damaged or truncated ({why})", "copy it again") from error


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise _error(
            path, f"{width} x {height} px, expected at least {MIN_SIDE} x {MIN_SIDE}", "remove it"
        )
    if width * height > MAX_PIXELS:
        raise _error(
            path, f"{width} x {height} px, expected at most {MAX_PIXELS:,} pixels", "scale it down"
        )


def _as_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise _error(path, "floating-point pixels of unknown range", "convert it to 8 or 16 bit")
    if image.mode.startswith("I"):
        return _deep_grey(path, image).convert("RGB")
    # Alpha channels and transparent palette entries: composite on white.
    if image.has_transparency_data:
        cutout = image.convert("RGBA")
        white = Image.new("RGBA", cutout.size, "white")
        return Image.alpha_composite(white, cutout).convert("RGB")
    if image.mode == "LAB":
        raise _error(path, "LAB pixels", "convert it to RGB")
    return image.convert("RGB")


def _deep_grey(path: Path, image: Image.Image, keep_small: bool = False) -> Image.Image:
    """16-bit grey to 8 bit by the range of the data type, so that all images scale alike.

    With `keep_small` (masks), values that fit into 8 bits are labels and stay as they are.
    """
    values_HW = np.asarray(image)
    if values_HW.dtype.kind == "f":
        raise _error(path, "floating-point pixels of unknown range", "convert it to 8 or 16 bit")
    low, high = int(values_HW.min()), int(values_HW.max())
    if low < 0 or high > 0xFFFF:
        raise _error(path, f"values from {low} to {high}", "convert it to 8 or 16 bit")
    # The high byte of 16 bits; masks with small values hold labels already.
    shift = 0 if keep_small and high <= 0xFF else 8
    return Image.fromarray((values_HW.astype(np.int64) >> shift).astype(np.uint8))


def _resized(
    image: Image.Image, size_HW: tuple[int, int] | None, how: Image.Resampling
) -> Image.Image:
    if size_HW is None or (size_HW[1], size_HW[0]) == image.size:
        # Decode inside the block that turns decoder errors into ImageErrors.
        image.load()
        return image
    return image.resize((size_HW[1], size_HW[0]), how)


def _error(path: Path, found: str, advice: str) -> ImageError:
    return ImageError(f"{path}: {found}; {advice}")

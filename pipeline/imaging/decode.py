"""Decode image files: any file becomes (H, W, 3) uint8 RGB or an `ImageError`.

| what the file holds                     | what comes out                                       |
|-----------------------------------------|------------------------------------------------------|
| RGB, 8 bit                              | unchanged; 16 bits per channel: the high byte        |
| EXIF orientation                        | rotated upright first, masks too                     |
| grey 8 bit, 1 bit                       | the value in all three channels (1 bit: 0 and 255)   |
| palette                                 | its colours                                          |
| grey 16 bit, 32-bit whole numbers       | value >> 8, never stretched per image; 32-bit values |
|                                         | outside 0-65535 are an error                         |
| 9 to 15 bits, declared by the file      | the highest 8 bits (TIFF BitsPerSample,              |
|                                         | MaxSampleValue; PNG sBIT), grey and colour           |
| 16 bits, undeclared, none above 4095    | ImageError: 12 bits in 16 would come out black       |
| alpha, transparent palette entries      | composited on white, as product cutouts usually are  |
| CMYK, YCbCr, HSV                        | converted                                            |
| animation, several pages                | the first frame                                      |
| a damaged text or profile in a PNG      | the image without it                                 |
| floating point, LAB                     | ImageError: the value range is unknown               |
| two or five bands, HEIC, Git LFS, …     | ImageError that says what the file is                |
| zero bytes, truncated, no image         | ImageError                                           |
| a side below 16 px, above 80 megapixels | ImageError (the second before any pixel is decoded)  |

Images are resized by Pillow's bilinear filter, which averages when it shrinks; JPEG files of many
megapixels are decoded at a half, a quarter or an eighth first (decision 0030). The aspect ratio is
not kept, as in the detectors. Masks use the nearest pixel, so no new grey value appears. An
`ImageError` is one line: the file, what was found, what to do.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EINVAL, EOVERFLOW
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.errors import ImageError
from pipeline.imaging.bit_depth import (
    DARK,
    Depth,
    colour_samples,
    dark_fault,
    declared_depth,
    is_deep_colour,
    to_eight_bits,
)
from pipeline.imaging.mask_values import deep_grey_values, grey_values, without_soft_edges
from pipeline.imaging.png_chunks import is_sound, may_be_turned_at_the_end, without_optional
from pipeline.imaging.unsupported import tiff_fault, why_unsupported
from pipeline.records import MAX_PIXELS
from pipeline.utils.file_hash import sha256_file
from pipeline.utils.names import text_of

Result = TypeVar("Result")

# File name endings that count as images, compared in lower case.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

# Decoders that may run, independent of the file name. Document formats such as EPS are left out:
# they would start an external program on untrusted input.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")

# Shortest side in pixels that is accepted; smaller files are icons or thumbnails.
MIN_SIDE = 16
# The EXIF tag, and its values that swap width and height.
ORIENTATION_TAG, SIDEWAYS = 0x0112, (5, 6, 7, 8)

# Pixels from which a JPEG file is decoded at reduced scale where a smaller image is wanted, and
# how many times the wanted side is decoded at least, so that the filter still averages.
LARGE, SPARE = 6_000_000, 2

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

    def header(image: Image.Image) -> ImageHeader:
        width, height = image.size
        # Pillow decodes a PNG to see whether EXIF follows the pixels; its chunks tell that, too.
        bare = image.format == "PNG" and not may_be_turned_at_the_end(path)
        exif = Image.Image.getexif(image) if bare else image.getexif()
        # Orientations that rotate by a quarter turn swap the sides.
        sideways = exif.get(ORIENTATION_TAG) in SIDEWAYS
        size_HW = (width, height) if sideways else (height, width)
        return ImageHeader(
            image.format or "?", image.mode, size_HW, int(getattr(image, "n_frames", 1))
        )

    return _read(path, header)


def load_image(path: Path, size_HW: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright, resized when a size is given; see the table above.

    ImageError names the file when it cannot be used.
    """

    def pixels(image: Image.Image) -> np.ndarray:
        _decode_reduced(image, size_HW)
        return np.array(_resized(_as_rgb(path, image), size_HW, Image.Resampling.BILINEAR))

    return _read(path, pixels)


def check_image(path: Path) -> None:
    """Raise the ImageError that `load_image` would raise, as cheaply as the format allows.

    A PNG is compared with its own checksums, a JPEG decoded at an eighth of its size; both are read
    to their end. Of a PNG whose pixels were encoded wrongly only `load_image` knows.
    """

    def pixels(image: Image.Image) -> None:
        if image.format != "PNG" or not is_sound(path):
            image.draft(None, (image.width // 8, image.height // 8))
            _as_rgb(path, image)

    _read(path, pixels)


def resize_image(image_HW3: np.ndarray, size_HW: tuple[int, int]) -> np.ndarray:
    """Decoded pixels at another size, with the filter of `load_image`."""
    return np.array(_resized(Image.fromarray(image_HW3), size_HW, Image.Resampling.BILINEAR))


def load_mask(
    path: Path, size_HW: tuple[int, int] | None = None, labels: bool = False
) -> np.ndarray:
    """(H, W) uint8 grey values, 0 for background, upright, resized to the nearest pixel.

    `pipeline.imaging.mask_values` lists what a file may hold. With `labels` the values are defect
    types, and none is changed.
    """

    def values(image: Image.Image) -> np.ndarray:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            grey_HW = deep_grey_values(_whole_numbers(path, upright))
        else:
            grey_HW = grey_values(upright)
        if not labels:
            grey_HW = without_soft_edges(grey_HW, lossy=image.format in ("JPEG", "MPO"))
        grey = Image.fromarray(grey_HW)
        return np.array(_resized(grey, size_HW, Image.Resampling.NEAREST))

    return _read(path, values)


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal: the identity of a source image."""
    try:
        return sha256_file(path)
    except OSError as error:
        raise _error(path, error.strerror or str(error), "check the file") from error


def _read(path: Path, use: Callable[[Image.Image], Result]) -> Result:
    """What `use` makes of the opened image; of a PNG without optional chunks if these are damaged.

    Decoder errors become ImageErrors.
    """
    try:
        with _opened(path) as image:
            return use(image)
    except _Damaged:
        bare = without_optional(path)
        if bare is None:
            raise
        try:
            with _opened(path, io.BytesIO(bare)) as image:
                return use(image)
        except ImageError:
            # Then the pixels are damaged, too: the error of the whole file is raised.
            pass
        raise


class _Damaged(ImageError):
    """A decoder gave up on the file."""


@contextmanager
def _opened(path: Path, content: io.BytesIO | None = None) -> Iterator[Image.Image]:
    """The opened, not yet decoded image; decoder errors inside the block become ImageErrors."""
    try:
        if not path.stat().st_size:
            raise _error(path, "the file has zero bytes", "copy it again")
        with content or path.open("rb") as handle, Image.open(handle, formats=FORMATS) as image:
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
        unknown = f"not an image (known: {kinds})", "remove or convert it"
        what, advice = why_unsupported(path) or unknown
        raise _Damaged(f"{text_of(path)}: {what}; {advice}") from error
    except Image.DecompressionBombError as error:
        raise _error(path, "too many pixels to decode", "scale it down") from error
    except _BROKEN as error:
        # An errno means that the disk or the system failed, not the image: a retry may help. Except
        # where the image names a place that no file can have.
        if isinstance(error, OSError) and error.errno not in (None, EINVAL, EOVERFLOW):
            raise
        why = " ".join(str(error).split()) or type(error).__name__
        message = f"{text_of(path)}: damaged or truncated ({why}); copy it again"
        raise _Damaged(message) from error


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise _error(
            path, f"{width} x {height} px, expected at least {MIN_SIDE} x {MIN_SIDE}", "remove it"
        )
    if width * height > MAX_PIXELS:
        raise _error(
            path, f"{width} x {height} px, expected at most {MAX_PIXELS:,} pixels", "scale it down"
        )


def _decode_reduced(image: Image.Image, size_HW: tuple[int, int] | None) -> None:
    """Let the decoder of a large JPEG file shrink it, where the size that is wanted allows that."""
    if size_HW is None or image.width * image.height < LARGE:
        return
    height, width = (SPARE * side for side in size_HW)
    if image.getexif().get(ORIENTATION_TAG) in SIDEWAYS:
        height, width = width, height
    # The smallest scale of at least this size; other formats have none and are decoded in full.
    image.draft(None, (width, height))


def _as_rgb(path: Path, opened: Image.Image) -> Image.Image:
    """The upright image in RGB, 8 bits per channel."""
    fault = tiff_fault(opened.tag_v2) if isinstance(opened, TiffImageFile) else None
    if fault:
        raise _error(path, *fault)
    # What the file declares is known until the image is decoded.
    deep = is_deep_colour(opened)
    depth = declared_depth(path, opened) if deep or opened.mode.startswith("I") else None
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith(("I", "F")):
        values_HW = _whole_numbers(path, image)
        _check_dark(path, int(values_HW.max()), depth)
        return Image.fromarray(to_eight_bits(values_HW, depth)).convert("RGB")
    if deep and depth:
        upright = Image.fromarray(to_eight_bits(colour_samples(path), depth))
        upright.getexif()[ORIENTATION_TAG] = opened.getexif().get(ORIENTATION_TAG, 1)
        image = ImageOps.exif_transpose(upright)
    elif deep:
        # Pillow kept the high bytes: 0x0f of 0x0fff.
        highest = int(np.asarray(image.convert("RGB")).max())
        _check_dark(path, highest * 0x101, depth)
    # Alpha channels and transparent palette entries: composite on white.
    if image.has_transparency_data:
        cutout = image.convert("RGBA")
        white = Image.new("RGBA", cutout.size, "white")
        return Image.alpha_composite(white, cutout).convert("RGB")
    if image.mode == "LAB":
        raise _error(path, "LAB pixels", "convert it to RGB")
    return image.convert("RGB")


def _whole_numbers(path: Path, image: Image.Image) -> np.ndarray:
    """(H, W) int64 from 0 to 65535, of an image in one of Pillow's modes I and F."""
    values_HW = np.asarray(image)
    if values_HW.dtype.kind == "f":
        raise _error(path, "floating-point pixels of unknown range", "convert it to 8 or 16 bit")
    low, high = int(values_HW.min()), int(values_HW.max())
    if low < 0 or high > 0xFFFF:
        raise _error(path, f"values from {low} to {high}", "convert it to 8 or 16 bit")
    return values_HW.astype(np.int64)


def _check_dark(path: Path, high: int, depth: Depth | None) -> None:
    """ImageError for 16-bit samples without declared depth that use the lowest 12 bits only."""
    # All zero is black at any depth.
    if depth is None and 0 < high <= DARK:
        raise _error(path, *dark_fault(high))


def _resized(
    image: Image.Image, size_HW: tuple[int, int] | None, how: Image.Resampling
) -> Image.Image:
    if size_HW is None or (size_HW[1], size_HW[0]) == image.size:
        # Decode inside the block that turns decoder errors into ImageErrors.
        image.load()
        return image
    return image.resize((size_HW[1], size_HW[0]), how)


def _error(path: Path, found: str, advice: str) -> ImageError:
    return ImageError(f"{text_of(path)}: {found}; {advice}")

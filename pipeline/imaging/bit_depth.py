"""16-bit samples to 8 bits: by what the file declares, never by what one image happens to hold.

Cameras of 10 to 14 bits are stored in 16. A file may say so: a TIFF by BitsPerSample or
MaxSampleValue, a PNG by `sBIT`. Then that depth is the full range. Otherwise it is 16 bits, and an
image without a value above 4095 is an error, since it would come out black.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.imaging.png_chunks import significant_bits
from pipeline.imaging.unsupported import BITS_PER_SAMPLE, MAX_SAMPLE

# The largest value of 12 bits; without a declaration, an image below it is not read.
DARK = 4095


def is_deep_colour(image: Image.Image) -> bool:
    """True for colour (or grey with alpha) of 16 bits per sample, before it is decoded.

    Pillow keeps the high byte of these only.
    """
    if image.mode.startswith(("I", "F")):
        return False
    if image.format == "TIFF":
        return _tag(image, BITS_PER_SAMPLE) == 16
    # A list of tiles, of which a PNG has one, with Pillow's name of the stored samples.
    tiles = getattr(image, "tile", [])
    return image.format == "PNG" and any(str(tile.args).endswith(";16B") for tile in tiles)


@dataclass(frozen=True, slots=True)
class Depth:
    """A declared depth of 9 to 15 bits.

    With `scaled` (PNG) the file's writer should have brought the samples to the range of 16 bits.
    """

    bits: int
    scaled: bool


def declared_depth(path: Path, image: Image.Image) -> Depth | None:
    """What the file declares about its 16-bit samples; None for nothing, or for 16 bits."""
    if image.format == "TIFF":
        bits, largest = _tag(image, BITS_PER_SAMPLE), _tag(image, MAX_SAMPLE)
        bits = min(bits or 16, (largest or 0xFFFF).bit_length())
    else:
        bits = significant_bits(path) if image.format == "PNG" else None
    return Depth(bits, image.format == "PNG") if bits and 8 < bits < 16 else None


def to_eight_bits(values: np.ndarray, depth: Depth | None) -> np.ndarray:
    """Samples of any shape, 0 to 65535, to uint8: the high 8 bits of the declared depth or of 16.

    Samples above what was declared, and those of a PNG that were scaled, use all 16 bits.
    """
    bits = 16
    if depth and not int(values.max()) >> depth.bits:
        bits = depth.bits if not depth.scaled or _unscaled(values, depth.bits) else 16
    return (values >> (bits - 8)).astype(np.uint8)


def colour_samples(path: Path) -> np.ndarray:
    """(H, W, 3 or 4) uint16 RGB or RGBA of a PNG or TIFF, as stored; ValueError if unreadable."""
    # For few files, and slow to import.
    import cv2

    # Not by a path: OpenCV cannot open every name.
    content = np.frombuffer(path.read_bytes(), np.uint8)
    values = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise ValueError("16-bit colour cannot be decoded")
    return cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def dark_fault(high: int) -> tuple[str, str]:
    """(what was found, what to do) for 16-bit samples whose largest is `high`, at most DARK."""
    return (
        f"16-bit samples without a value above {high}: data of 12 bits or fewer, which would come "
        "out black",
        "multiply all images by the same number (16 for 12 bits, 64 for 10), or have the files "
        "state their depth (TIFF MaxSampleValue, PNG sBIT)",
    )


def _unscaled(values: np.ndarray, bits: int) -> bool:
    """True when low bits are set that scaling leaves zero, or copies from the highest ones."""
    low = values & ((1 << (16 - bits)) - 1)
    return bool(((low != 0) & (low != values >> bits)).any())


def _tag(image: Image.Image, tag: int) -> int | None:
    """A tag of a TIFF, the largest of all bands; None when it is absent or no number."""
    value = getattr(image, "tag_v2", {}).get(tag)
    found = value if isinstance(value, tuple) else (value,)
    return max(found) if all(isinstance(one, int) for one in found) and found else None

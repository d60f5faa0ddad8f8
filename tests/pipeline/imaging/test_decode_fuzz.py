"""Arbitrary bytes in an image file become pixels or one `ImageError` of one line."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pipeline.errors import ImageError
from pipeline.imaging.decode import check_image, load_image, load_mask, read_header
from pipeline.records import MAX_PIXELS

SAME_FOLDER = [HealthCheck.function_scoped_fixture]
IMAGE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 56, 3), np.uint8))
# Decoders warn of what they then reject.
pytestmark = pytest.mark.filterwarnings("ignore")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seeds() -> dict[str, bytes]:
    """Small valid files that use as much of each format as Pillow writes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("a", 200 * "b", zip=True)
    grey = IMAGE.convert("L")
    more = {"save_all": True, "append_images": [IMAGE.rotate(9)]}
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 200)
    tiffs = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    return {
        "png": encoded(IMAGE, "PNG", pnginfo=text, exif=exif),
        "png palette": encoded(IMAGE.quantize(16), "PNG", transparency=3),
        "png 16 bit": encoded(deep, "PNG"),
        "jpeg": encoded(IMAGE, "JPEG", exif=exif),
        "jpeg progressive": encoded(IMAGE, "JPEG", progressive=True),
        "jpeg cmyk": encoded(IMAGE.convert("CMYK"), "JPEG"),
        "bmp": encoded(IMAGE, "BMP"),
        "bmp palette": encoded(IMAGE.quantize(8), "BMP"),
        "tiff pages": encoded(IMAGE, "TIFF", **more),
        "tiff group4": encoded(IMAGE.convert("1"), "TIFF", compression="group4"),
        **{f"tiff {kind}": encoded(IMAGE, "TIFF", compression=kind) for kind in tiffs},
        "webp": encoded(IMAGE, "WEBP", exif=exif),
        "webp alpha": encoded(IMAGE.convert("RGBA"), "WEBP", lossless=True),
        "webp animated": encoded(IMAGE, "WEBP", **more),
        "gif": encoded(IMAGE.quantize(), "GIF"),
    }


SEEDS = seeds()


def read_all(folder: Path, content: bytes) -> None:
    """Read it with every reader of the program; what checks a file agrees with what decodes it."""
    path = folder / "image.png"
    path.write_bytes(content)
    faults = {}
    for read in (load_image, check_image, load_mask, read_header):
        said = ""
        try:
            found = read(path)
        except ImageError as error:
            said = str(error)
        else:
            if isinstance(found, np.ndarray):
                assert found.dtype == np.uint8
                assert found.size <= 3 * MAX_PIXELS
        assert not said or said.startswith(f"{path}: ")
        assert "\n" not in said
        faults[read] = said
    assert bool(faults[check_image]) == bool(faults[load_image]), faults


@settings(max_examples=400, suppress_health_check=SAME_FOLDER, deadline=None)
@given(
    name=st.sampled_from(list(SEEDS)),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=8),
    near_the_start=st.booleans(),
)
# The next page lies where no file can reach.
@example(name="tiff pages", places=[(0.015625, 1)], near_the_start=True)
def test_flipped_bytes(tmp_path, name, places, near_the_start):
    content = bytearray(SEEDS[name])
    size = min(len(content), 150) if near_the_start else len(content)
    for share, bits in places:
        content[int(share * (size - 1))] ^= bits
    read_all(tmp_path, bytes(content))


@settings(max_examples=150, suppress_health_check=SAME_FOLDER, deadline=None)
@given(name=st.sampled_from(list(SEEDS)), share=st.floats(0, 1))
def test_truncated_files(tmp_path, name, share):
    read_all(tmp_path, SEEDS[name][: int(share * len(SEEDS[name]))])


@settings(max_examples=200, suppress_health_check=SAME_FOLDER, deadline=None)
@given(
    name=st.sampled_from(list(SEEDS)), keep=st.integers(0, 40), rest=st.binary(max_size=300)
)  # fmt: skip
def test_a_valid_beginning_and_then_random_bytes(tmp_path, name, keep, rest):
    read_all(tmp_path, SEEDS[name][:keep] + rest)


def png_of(width: int, height: int, packed: bytes) -> bytes:
    """A PNG, its checksums right, that says it is `width` x `height` grey pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", packed), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("width", "height"), [(65_500, 65_500), (2**31 - 1, 2**31 - 1), (80_000_001, 16), (65_500, 1)]
)
def test_a_decompression_bomb_is_rejected_by_its_header(tmp_path, width, height):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(width, height, zlib.compress(bytes(1_000_000), 9)))
    for read in (load_image, read_header):
        with pytest.raises(ImageError, match=r"expected at (most|least)|too many|damaged"):
            read(path)


def test_a_wide_strip_within_the_limits_is_read(tmp_path):
    """65 500 px wide and 16 high is odd, but an image."""
    path = tmp_path / "strip.png"
    path.write_bytes(png_of(65_500, 16, zlib.compress(bytes(16 * 65_501))))
    assert load_image(path, (64, 64)).shape == (64, 64, 3)


def test_compressed_text_is_not_expanded_without_limit(tmp_path):
    """A zTXt chunk of a few kilobytes that would expand to 100 MB is passed over."""
    text = PngImagePlugin.PngInfo()
    text.add_text("note", 100_000_000 * "a", zip=True)
    path = tmp_path / "remark.png"
    path.write_bytes(encoded(IMAGE, "PNG", pnginfo=text))
    assert path.stat().st_size < 1_000_000
    np.testing.assert_array_equal(load_image(path), np.asarray(IMAGE))

"""Files that are not read say what they are; damage beside the pixels is passed over."""

import numpy as np
import pytest
from odd_images import chunk, write_png, write_tiff

from pipeline.errors import ImageError
from pipeline.imaging.decode import load_image, read_header

RNG = np.random.default_rng(0)
GREY_HW = RNG.integers(0, 256, (20, 24), dtype=np.uint8)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.dstack([GREY_HW] * 5), "a TIFF of 5 bands with 8 bits, which is not supported"),
        (np.dstack([GREY_HW] * 2), "a TIFF of 2 bands with 8 bits, which is not supported"),
        (GREY_HW.astype(np.float16), r"floating-point pixels \(16 bits\)"),
        (GREY_HW.astype(np.float32), r"floating-point pixels \(32 bits\)"),
        (GREY_HW.astype(np.float64), r"floating-point pixels \(64 bits\)"),
        (np.dstack([GREY_HW.astype(np.float32)] * 3), r"floating-point pixels \(32 bits\)"),
        (GREY_HW.astype(np.int8), "signed 8-bit pixels"),
    ],
)
def test_a_tiff_that_is_not_supported_says_why(tmp_path, values, said):
    with pytest.raises(ImageError, match=rf"a\.tif: {said}.*; (save|convert) it"):
        load_image(write_tiff(tmp_path / "a.tif", values))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab", "run `git lfs pull`"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"<!DOCTYPE html><title>Log in</title>", "a web page"),
        (b"%PDF-1.7", "a PDF document"),
        (b"II*\0 and then nonsense", r"not an image|damaged"),
        (b"hello, this is a note", r"not an image \(known: PNG"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(tmp_path, content, said):
    (tmp_path / "a.png").write_bytes(content + bytes(40))
    with pytest.raises(ImageError, match=said):
        load_image(tmp_path / "a.png")


DAMAGED = {
    "checksum": chunk(b"tEXt", b"Comment\0hello", checksum=1),
    "compressed": chunk(b"zTXt", b"Comment\0\0no zlib"),
    "resolution": chunk(b"pHYs", b"\0\0"),
    "exif": chunk(b"eXIf", b"garbage"),
}


@pytest.mark.parametrize("bad", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_note_in_a_png_costs_no_image(tmp_path, bad):
    for number, chunks in enumerate([(bad, b""), (b"", bad)]):
        path = write_png(tmp_path / f"{number}.png", GREY_HW, *chunks)
        np.testing.assert_array_equal(load_image(path)[..., 0], GREY_HW)
        assert read_header(path).size_HW == (20, 24)


def test_damaged_pixels_of_a_png_stay_an_error(tmp_path):
    path = write_png(tmp_path / "a.png", GREY_HW, DAMAGED["checksum"])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError):
        load_image(path)

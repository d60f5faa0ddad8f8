"""12 bits in files of 16: stretched by what the file declares, or refused, never black."""

import numpy as np
import pytest
from odd_images import BITS, MAX_SAMPLE, chunk, write_png, write_tiff
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging.decode import load_image, load_mask

RNG = np.random.default_rng(0)
GREY_HW = RNG.integers(0, 1 << 12, (20, 24)).astype(np.uint16)
COLOUR_HW3 = RNG.integers(0, 1 << 12, (20, 24, 3)).astype(np.uint16)
BOTH = pytest.mark.parametrize("values", [GREY_HW, COLOUR_HW3], ids=["grey", "colour"])


def eight(values: np.ndarray, bits: int) -> np.ndarray:
    """(H, W, 3) of the highest 8 of `bits` bits."""
    high = (values >> (bits - 8)).astype(np.uint8)
    return high if values.ndim == 3 else np.dstack([high] * 3)


@BOTH
@pytest.mark.parametrize("write", [write_png, write_tiff])
def test_twelve_bits_that_nobody_declares_are_an_error_with_advice(tmp_path, write, values):
    path = write(tmp_path / "a.img", values)
    with pytest.raises(ImageError, match=r"12 bits or fewer.*multiply all images.*MaxSampleValue"):
        load_image(path)
    # As advised, the same image is read, whatever the file says.
    np.testing.assert_array_equal(load_image(write(path, values << 4)), eight(values, 12))


@BOTH
def test_a_tiff_is_stretched_by_its_largest_sample_value(tmp_path, values):
    path = write_tiff(tmp_path / "a.tif", values, {MAX_SAMPLE: 4095})
    np.testing.assert_array_equal(load_image(path), eight(values, 12))
    # A dark image is stretched alike: the same value is the same grey everywhere.
    path = write_tiff(tmp_path / "b.tif", values // 20, {MAX_SAMPLE: 4095})
    np.testing.assert_array_equal(load_image(path), eight(values // 20, 12))


def test_a_tiff_of_twelve_bits_per_sample_is_stretched(tmp_path):
    # Two samples are packed into three bytes.
    one, two = GREY_HW[:, 0::2].astype(int), GREY_HW[:, 1::2].astype(int)
    packed = np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], -1).reshape(20, 36)
    path = write_tiff(tmp_path / "a.tif", packed.astype(np.uint8), {BITS: 12, 256: 24})
    np.testing.assert_array_equal(load_image(path), eight(GREY_HW, 12))


@BOTH
def test_a_png_with_significant_bits_is_stretched_unless_it_was_scaled(tmp_path, values):
    said = chunk(b"sBIT", bytes([12] * (values.ndim * 2 - 3)))
    path = write_png(tmp_path / "a.png", values, said)
    np.testing.assert_array_equal(load_image(path), eight(values, 12))
    # As the format asks for: scaled to 16 bits, the highest bits again at the end.
    path = write_png(tmp_path / "b.png", values << 4 | values >> 8, said)
    np.testing.assert_array_equal(load_image(path), eight(values, 12))


def test_a_declaration_that_the_samples_contradict_is_not_believed(tmp_path):
    path = write_tiff(tmp_path / "a.tif", GREY_HW << 4, {MAX_SAMPLE: 1023})
    np.testing.assert_array_equal(load_image(path), eight(GREY_HW, 12))


def test_an_image_with_exif_rotation_is_stretched_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = chunk(b"sBIT", bytes([12] * 3)) + chunk(b"eXIf", exif.tobytes()[6:])
    path = write_png(tmp_path / "a.png", COLOUR_HW3, extra)
    np.testing.assert_array_equal(load_image(path), np.rot90(eight(COLOUR_HW3, 12), -1))


def test_black_is_black_and_labels_are_labels(tmp_path):
    assert not load_image(write_png(tmp_path / "a.png", GREY_HW * 0)).any()
    labels_HW = (GREY_HW % 3).astype(np.uint16)
    np.testing.assert_array_equal(load_mask(write_png(tmp_path / "m.png", labels_HW)), labels_HW)

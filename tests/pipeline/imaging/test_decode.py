"""Every unusual image file has a defined treatment, or a one-line error that names the file."""

import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging.decode import file_digest, load_image, load_mask, read_header

RNG = np.random.default_rng(0)
COLOUR_HW3 = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
GREY_HW = COLOUR_HW3[..., 0]


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_unchanged(tmp_path):
    path = saved(Image.fromarray(COLOUR_HW3), tmp_path / "a.png")
    image_HW3 = load_image(path)
    assert image_HW3.dtype == np.uint8
    np.testing.assert_array_equal(image_HW3, COLOUR_HW3)
    assert image_HW3.flags.writeable


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "JPG"])
def test_every_format_is_read_and_the_header_agrees(tmp_path, suffix):
    path = saved(Image.fromarray(COLOUR_HW3), tmp_path / f"a.{suffix}")
    assert load_image(path).shape == (24, 40, 3)
    assert read_header(path).size_HW == (24, 40)


def test_a_header_is_read_without_decoding(tmp_path):
    path = saved(Image.fromarray(COLOUR_HW3), tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    pixels = content.index(b"IDAT") + 4
    content[pixels : pixels + 40] = bytes(40)
    path.write_bytes(content)
    assert read_header(path).size_HW == (24, 40)
    with pytest.raises(ImageError):
        load_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    """A phone stores the sensor's image and a tag; viewers, and we, show it upright."""
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(COLOUR_HW3), tmp_path / "a.png", exif=exif)
    expected_HW3 = turns[orientation](COLOUR_HW3)
    np.testing.assert_array_equal(load_image(path), expected_HW3)
    assert read_header(path).size_HW == expected_HW3.shape[:2]
    np.testing.assert_array_equal(
        load_mask(saved(Image.fromarray(GREY_HW), tmp_path / "m.png", exif=exif), labels=True),
        turns[orientation](GREY_HW),
    )


def test_palette_gives_its_colours(tmp_path):
    image = Image.fromarray(COLOUR_HW3).quantize(16)
    path = saved(image, tmp_path / "a.png")
    assert read_header(path).mode == "P"
    np.testing.assert_array_equal(load_image(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_is_replicated(tmp_path, mode):
    image = Image.fromarray(GREY_HW).convert(mode)
    image_HW3 = load_image(saved(image, tmp_path / "a.png"))
    for channel in range(3):
        np.testing.assert_array_equal(image_HW3[..., channel], np.asarray(image.convert("L")))


def test_cmyk_is_converted(tmp_path):
    ink = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    image_HW3 = load_image(saved(ink, tmp_path / "a.jpg", quality=95))
    assert (image_HW3[..., 0] > 200).all()
    assert (image_HW3[..., 1:] < 60).all()


# Below 4096 alone it would be 12-bit data: see test_bit_depth.
@given(st.integers(0, 0xFFFF), st.integers(0x1000, 0xFFFF))
@settings(max_examples=25, deadline=None)
def test_sixteen_bit_grey_is_scaled_by_its_container(tmp_path_factory, low, high):
    """Never stretched per image: the same 16-bit value is the same 8-bit value everywhere."""
    values_HW = np.full((16, 16), low, np.uint16)
    values_HW[8:] = high
    path = tmp_path_factory.getbasetemp() / "deep.png"
    Image.fromarray(values_HW).save(path)
    image_HW3 = load_image(path)
    assert image_HW3[0, 0].tolist() == [low >> 8] * 3
    assert image_HW3[-1, -1].tolist() == [high >> 8] * 3


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_sixteen_bit_tiff_in_either_byte_order(tmp_path, byte_order):
    values_HW = np.full((16, 16), 0x12FF, byte_order)
    mode = "I;16" if byte_order == "<u2" else "I;16B"
    image = Image.frombytes(mode, (16, 16), values_HW.tobytes())
    assert (load_image(saved(image, tmp_path / "a.tif")) == 0x12).all()


def test_32_bit_integers_within_16_bit_are_read_and_others_rejected(tmp_path):
    good = saved(Image.fromarray(np.full((16, 16), 0xAB00, np.int32)), tmp_path / "good.tif")
    assert (load_image(good) == 0xAB).all()
    for name, value in (("high", 0x10000), ("low", -1)):
        path = saved(Image.fromarray(np.full((16, 16), value, np.int32)), tmp_path / f"{name}.tif")
        with pytest.raises(ImageError, match=rf"{name}\.tif: values from {value}"):
            load_image(path)


def test_alpha_is_composited_on_white(tmp_path):
    image_HW4 = np.zeros((16, 16, 4), np.uint8)
    image_HW4[:8] = (10, 20, 30, 255)
    image_HW4[8:12] = (0, 0, 0, 128)
    image_HW3 = load_image(saved(Image.fromarray(image_HW4), tmp_path / "a.png"))
    assert image_HW3[0, 0].tolist() == [10, 20, 30]
    assert image_HW3[9, 0].tolist() == [127] * 3
    assert image_HW3[-1, 0].tolist() == [255] * 3


def test_a_transparent_palette_entry_is_white_too(tmp_path):
    image = Image.new("P", (16, 16), 0)
    image.putpalette([0, 0, 0, 9, 9, 9])
    path = saved(image, tmp_path / "a.png", transparency=0)
    assert (load_image(path) == 255).all()


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    path = saved(frames[0], tmp_path / "a.webp", save_all=True, append_images=frames[1:],
                 lossless=True)  # fmt: skip
    assert read_header(path).frames == 2
    assert (load_image(path) == (255, 0, 0)).all()


def test_images_shrink_by_averaging_and_give_up_their_aspect(tmp_path):
    stripes_HW = np.zeros((64, 128), np.uint8)
    stripes_HW[:, ::2] = 255
    image_HW3 = load_image(saved(Image.fromarray(stripes_HW), tmp_path / "a.png"), (16, 16))
    assert image_HW3.shape == (16, 16, 3)
    assert abs(image_HW3[:, 2:-2].astype(int) - 127).max() <= 8


@pytest.mark.parametrize(("rows", "grey_levels"), [(2000, 0), (2100, 4)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_of_many_megapixels_is_decoded_at_reduced_scale(
    tmp_path, rows, grey_levels, orientation
):
    """Below six megapixels every pixel is decoded, as before; above, hardly a value changes."""
    coarse = Image.fromarray(RNG.integers(0, 256, (7, 10, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = coarse.resize((2990, rows), Image.Resampling.BICUBIC)
    path = saved(large, tmp_path / "a.jpg", exif=exif)
    # As pixels of a format that has no reduced scale.
    upright = Image.fromarray(load_image(path))
    whole_HW3 = load_image(saved(upright, tmp_path / "a.bmp"), (160, 96))
    reduced_HW3 = load_image(path, (160, 96))
    off_HW3 = np.abs(reduced_HW3.astype(int) - whole_HW3)
    assert off_HW3.max() <= grey_levels
    assert off_HW3.any() == bool(grey_levels)


@given(st.sets(st.integers(1, 255), min_size=1, max_size=6), st.integers(16, 80))
@settings(max_examples=25, deadline=None)
def test_resizing_a_mask_invents_no_grey_value(tmp_path_factory, values, side):
    mask_HW = np.random.default_rng(1).choice([0, *values], (50, 70)).astype(np.uint8)
    path = tmp_path_factory.getbasetemp() / "mask.png"
    Image.fromarray(mask_HW).save(path)
    small_HW = load_mask(path, (side, side))
    assert small_HW.shape == (side, side)
    assert set(np.unique(small_HW)) <= {0, *values}


def test_masks_in_other_modes_keep_their_values(tmp_path):
    mask_HW = np.zeros((16, 16), np.uint8)
    mask_HW[4:8] = 247
    plain = Image.fromarray(mask_HW)
    deep = Image.fromarray(mask_HW.astype(np.uint16))
    for number, image in enumerate([plain, plain.convert("RGB"), plain.convert("LA"), deep]):
        path = saved(image, tmp_path / f"{number}.png")
        np.testing.assert_array_equal(load_mask(path), mask_HW)
    binary = saved(Image.fromarray(mask_HW > 0), tmp_path / "bit.png")
    np.testing.assert_array_equal(load_mask(binary), np.where(mask_HW, 255, 0))


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60 000 x 60 000 pixels."""
    body = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + body
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(
        ">I", zlib.crc32(chunk)
    )  # fmt: skip


def broken_files(folder: Path) -> dict[str, Path]:
    """One file of each unusable kind."""
    whole = saved(Image.fromarray(COLOUR_HW3), folder / "whole.png").read_bytes()
    content = {
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "header.png": whole[:20],
        "text.png": b"this is not an image at all, whatever its name says",
        "flipped.png": whole[:60] + bytes([whole[60] ^ 0xFF]) + whole[61:],
        "bomb.png": bomb(),
        "page.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n",
    }
    found = {}
    for name, data in content.items():
        found[name] = folder / name
        found[name].write_bytes(data)
    found["tiny.png"] = saved(Image.new("RGB", (15, 40)), folder / "tiny.png")
    floats = Image.fromarray(np.zeros((16, 16), np.float32))
    found["float.tif"] = saved(floats, folder / "float.tif")
    found["lab.tif"] = saved(Image.new("LAB", (16, 16)), folder / "lab.tif")
    found["absent.png"] = folder / "absent.png"
    found["folder.png"] = folder / "folder.png"
    found["folder.png"].mkdir()
    jpeg = saved(Image.fromarray(COLOUR_HW3), folder / "cut.jpg").read_bytes()
    found["cut.jpg"] = folder / "cut.jpg"
    found["cut.jpg"].write_bytes(jpeg[: len(jpeg) // 2])
    return found


def test_unusable_files_give_one_line_that_names_the_file_and_says_what_to_do(tmp_path):
    for name, path in broken_files(tmp_path).items():
        with pytest.raises(ImageError) as caught:
            load_image(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: "), name
        assert "; " in message, name
        assert "\n" not in message, name


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_give_an_image_or_an_image_error_and_nothing_else(tmp_path_factory, data):
    suffix = data.draw(st.sampled_from(["png", "jpg", "tif", "webp", "bmp", "gif"]))
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    Image.fromarray(COLOUR_HW3).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        assert load_image(path).shape[2] == 3
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files through /proc")
def test_no_file_stays_open(tmp_path):
    files = [*broken_files(tmp_path).values(), tmp_path / "whole.png"]
    before = len(os.listdir("/proc/self/fd"))
    for path in files * 3:
        for read in (load_image, load_mask, read_header):
            try:
                read(path)
            except ImageError:
                continue
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_digest_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc" * 1000)
    assert file_digest(path) == hashlib.sha256(b"abc" * 1000).hexdigest()
    with pytest.raises(ImageError, match=r"nothing\.png: "):
        file_digest(tmp_path / "nothing.png")

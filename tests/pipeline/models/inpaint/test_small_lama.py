"""The bundled LaMa: big-lama's signature, no change outside the hole, deterministic."""

import warnings

import cv2
import numpy as np
import pytest
import torch

from pipeline.errors import WeightsError
from pipeline.models.device import Compute
from pipeline.models.inpaint.base import OpenCvInpainter, window
from pipeline.models.inpaint.lama import TorchScriptLama
from pipeline.models.inpaint.lama_cleaner import LamaCleanerInpainter
from pipeline.models.weights import store as weights
from pretraining.data.examples import held_out
from pretraining.inpainting.evaluation import inpainted, psnr
from pretraining.inpainting.holes import as_set, removal_pair
from pretraining.inpainting.network import SmallLama

FP32 = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def path():
    return weights.require("bundled-lama")


@pytest.fixture(scope="module")
def model(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path)).eval()


def gradient(height: int = 128, width: int = 160) -> np.ndarray:
    """A smooth background, from dark to light and from green to red."""
    yy, xx = np.mgrid[:height, :width]
    background = np.stack([60 + xx * 0.8, 160 - yy * 0.7, 90 + 0 * xx], 2)
    return background.astype(np.uint8)


def round_hole(height: int = 128, width: int = 160, radius: int = 18) -> np.ndarray:
    canvas = np.zeros((height, width), np.uint8)
    return cv2.circle(canvas, (width // 2, height // 2), radius, 1, -1).astype(np.bool_)


def test_the_network_has_at_most_four_million_parameters():
    assert sum(p.numel() for p in SmallLama().parameters()) <= 4_000_000


@pytest.mark.parametrize("size", [(64, 64), (128, 72), (256, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_it_has_the_signature_of_the_official_file(model, size, dtype):
    image = torch.rand(1, 3, *size)
    mask = torch.zeros(1, 1, *size, dtype=dtype)
    mask[..., 20:40, 20:44] = 1
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        filled = model(image, mask)
    assert filled.shape == image.shape
    assert torch.equal(filled * (mask == 0), image * (mask == 0))
    assert 0 <= float(filled.min()) <= float(filled.max()) <= 1


@pytest.mark.parametrize("size", [(256, 256), (192, 320)])
def test_the_file_and_the_source_code_give_the_same_image(model, size):
    """The file holds the network of `pretraining.inpainting.network`."""
    source = SmallLama().eval()
    source.load_state_dict(model.state_dict())
    image, mask = torch.rand(1, 3, *size), torch.zeros(1, 1, *size)
    mask[..., 50:110, 60:130] = 1
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        assert torch.allclose(model(image, mask), source(image, mask), atol=1e-5)


@pytest.mark.parametrize("fill", ["telea", "ns", "lama"])
def test_a_hole_in_a_smooth_background_is_filled_with_background(path, fill):
    image, hole = gradient(), round_hole()
    inpaint = TorchScriptLama(path, FP32) if fill == "lama" else OpenCvInpainter(fill)
    damaged = np.where(hole[..., None], 0, image).astype(np.uint8)
    error = np.abs(inpaint(damaged, hole).astype(int) - image)[hole].mean()
    flat = np.abs(image[~hole].mean(0) - image)[hole].mean()
    assert error < min(flat, 12)


def test_it_removes_objects_better_than_telea(path):
    """On rendered products and clutter that were not used in training; the card has more
    numbers."""
    lama, telea = TorchScriptLama(path, FP32), OpenCvInpainter("telea")
    rng, gains = np.random.default_rng(0), []
    for scenes in (as_set(held_out(6, share)) for share in (1.0, 0.0)):
        for index in np.flatnonzero(scenes["removed"]):
            pair = removal_pair(scenes, int(index), rng)
            gains.append(psnr(inpainted(lama, pair), pair) - psnr(inpainted(telea, pair), pair))
    assert len(gains) >= 8
    assert np.mean(gains) > 0


def test_all_calls_agree_in_any_thread(path):
    from concurrent.futures import ThreadPoolExecutor

    torch.set_num_threads(1)
    inpaint = TorchScriptLama(path, FP32)
    image, hole = gradient(), round_hole()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: inpaint(image, hole), range(6)))
    assert all(np.array_equal(results[0], other) for other in results[1:])
    assert np.array_equal(TorchScriptLama(path, FP32)(image, hole), results[0])


def test_lama_cleaner_gives_the_same_pixels_from_the_same_file(path):
    """It truncates where we round, which makes at most one grey level of difference."""
    image, hole = gradient(), round_hole()
    ours = TorchScriptLama(path, FP32)(image, hole).astype(int)
    theirs = LamaCleanerInpainter(path, FP32)(image, hole).astype(int)
    assert np.abs(ours - theirs).max() <= 1
    assert np.array_equal(theirs[~hole], image[~hole])


def test_lama_cleaner_does_not_delete_a_file_that_it_cannot_load(tmp_path):
    broken = tmp_path / "big-lama.pt"
    broken.write_bytes(b"no model")
    with pytest.raises(WeightsError, match="cannot load"):
        LamaCleanerInpainter(broken, FP32)
    assert broken.read_bytes() == b"no model"


@pytest.mark.parametrize("box", [(0, 0, 5, 5), (120, 90, 160, 128), (70, 60, 74, 62)])
def test_the_window_holds_the_hole_and_stays_in_the_image(box):
    x0, y0, x1, y1 = window(box, (128, 160))
    assert 0 <= x0 <= box[0] < box[2] <= x1 <= 160
    assert 0 <= y0 <= box[1] < box[3] <= y1 <= 128


def test_an_empty_hole_changes_nothing(path):
    image = gradient()
    assert np.array_equal(TorchScriptLama(path, FP32)(image, np.zeros((128, 160), bool)), image)

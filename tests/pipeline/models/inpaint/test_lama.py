"""LaMa from a TorchScript file with the official signature: our adapter, lama-cleaner's, GPU
memory.

The tests do not use the official big-lama.pt. A module written here replaces it, with the same
signature and file format, and an output that is easy to compute.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DeviceError, WeightsError
from pipeline.models import build as models
from pipeline.models.device import Compute
from pipeline.models.inpaint.lama import TorchScriptLama
from pipeline.models.inpaint.lama_cleaner import LamaCleanerInpainter
from pipeline.models.out_of_memory import retry_once
from pipeline.models.settings import ModelSettings, ProposalSettings
from pipeline.models.weights import store as weights

FP32 = Compute(torch.device("cpu"), torch.float32)


class StandIn(nn.Module):
    """Fills with the mean of the known pixels within 15 px; the signature is that of
    big-lama.pt."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        hole = mask.float()
        known = F.avg_pool2d(1 - hole, 31, 1, 15)
        background = F.avg_pool2d(image * (1 - hole), 31, 1, 15) / known.clamp(min=1e-6)
        return hole * background + (1 - hole) * image


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "big-lama.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(StandIn()).save(str(path))
    return path


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy background with a hole that reaches the lower border."""
    rng = np.random.default_rng(height)
    image_HW3 = rng.integers(40, 216, (height, width, 3), dtype=np.uint8)
    hole_HW = np.zeros((height, width), np.bool_)
    hole_HW[height - 20 :, 30:52] = True
    return image_HW3, hole_HW


def exact_output(image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    """The stand-in's output times 255, (H, W, 3) float32, before conversion to bytes."""
    height, width = hole_HW.shape
    padding = ((0, -height % 8), (0, -width % 8))
    image = np.pad(image_HW3, (*padding, (0, 0)), mode="symmetric").astype(np.float32) / 255
    hole = np.pad(hole_HW, padding, mode="symmetric").astype(np.float32)
    with torch.inference_mode():
        filled = StandIn()(torch.from_numpy(image.transpose(2, 0, 1))[None],
                           torch.from_numpy(hole)[None, None])  # fmt: skip
    return filled[0].permute(1, 2, 0).numpy()[:height, :width] * np.float32(255)


# A window whose sides are multiples of 8, and two that both adapters have to pad.
SIZES = [(96, 120), (93, 117), (64, 71)]


@pytest.mark.parametrize("size", SIZES)
def test_our_adapter_rounds_the_output(path, size):
    image, hole = scene(*size)
    filled = TorchScriptLama(path, FP32)(image, hole)
    assert np.array_equal(filled[hole], np.rint(exact_output(image, hole)[hole]))
    assert np.array_equal(filled[~hole], image[~hole])


@pytest.mark.parametrize("size", SIZES)
def test_lama_cleaner_truncates_the_same_output(path, size):
    """The only difference: with a fraction above one half, ours is one grey level higher."""
    image, hole = scene(*size)
    ours = TorchScriptLama(path, FP32)(image, hole).astype(int)
    theirs = LamaCleanerInpainter(path, FP32)(image, hole).astype(int)
    exact = exact_output(image, hole)
    assert np.array_equal(theirs[hole], np.trunc(exact[hole]))
    assert np.array_equal(theirs[~hole], image[~hole])
    rounded_up = np.rint(exact) > np.trunc(exact)
    assert np.array_equal((ours - theirs)[hole], rounded_up[hole].astype(int))
    assert rounded_up[hole].any()


def test_the_lineage_has_the_digest_of_a_file_named_by_its_path(path):
    settings = ModelSettings.model_validate({"inpaint": {"backend": "lama", "weights": str(path)}})
    files = models.resolve(settings)
    assert files.inpaint == ("lama", path)
    assert files.digests()["inpaint/lama"] == weights.sha256(path)
    image, hole = scene(96, 120)
    filled = models.load(settings, ProposalSettings(), files).inpaint(image, hole)
    assert np.array_equal(filled, TorchScriptLama(path, FP32)(image, hole))


def test_under_the_official_name_only_the_official_file_is_accepted(path, monkeypatch):
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(path.parent))
    with pytest.raises(WeightsError, match=r"big-lama.*expected md5 e3aa4aaa1522"):
        models.resolve(ModelSettings.model_validate({"inpaint": {"backend": "lama"}}))


def short_of_memory(times: int):
    """A call that runs out of memory `times` times, and then succeeds."""
    calls = []

    def call(*_: object) -> str:
        calls.append(1)
        if len(calls) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return f"answer {len(calls)}"

    return call


def test_running_out_of_memory_once_is_retried():
    assert retry_once(short_of_memory(1), "testing") == "answer 2"


def test_running_out_of_memory_twice_is_an_error_with_advice():
    with pytest.raises(DeviceError, match=r"out of memory.*while testing; .*models\.device: cpu"):
        retry_once(short_of_memory(2), "testing")


def test_another_error_is_not_retried():
    def broken() -> None:
        raise RuntimeError("expected 4 channels")

    with pytest.raises(RuntimeError, match="expected 4 channels"):
        retry_once(broken, "testing")


@pytest.mark.parametrize("kind", [TorchScriptLama, LamaCleanerInpainter])
def test_a_retry_gives_the_same_pixels(path, kind, monkeypatch):
    """TorchScript passes the CUDA error on as text, so that form is tested here."""
    image, hole = scene(96, 120)
    expected = kind(path, FP32)(image, hole)
    inpaint = kind(path, FP32)
    owner = inpaint if kind is TorchScriptLama else inpaint._manager.model
    name = "_model" if kind is TorchScriptLama else "model"
    whole, failed = getattr(owner, name), []

    def once_short(*args: Tensor) -> Tensor:
        if not failed:
            failed.append(1)
            raise RuntimeError("The following operation failed: CUDA out of memory.")
        return whole(*args)

    monkeypatch.setattr(owner, name, once_short)
    assert np.array_equal(inpaint(image, hole), expected)
    assert failed


def test_a_large_window_is_reduced_and_its_fill_enlarged_again(path):
    image, hole = np.full((300, 300, 3), 90, np.uint8), np.zeros((300, 300), bool)
    hole[100:200, 100:200] = True
    seen = []
    lama = TorchScriptLama(path, FP32, longest=64)
    run = lama._run
    lama._run = lambda *given: seen.append(given[0].shape) or run(*given)
    filled = lama(image, hole)
    assert seen == [(64, 64, 3)]
    assert filled.shape == image.shape
    assert (filled[~hole][:2000] == 90).all()


class Checkered(nn.Module):
    """Fills with a grid of period 2, as the small model's transposed convolutions do."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        rows = torch.arange(image.shape[2]) % 2
        columns = torch.arange(image.shape[3]) % 2
        fill = 0.5 + 0.04 * (rows[:, None] + columns[None]).float()
        return torch.where(mask > 0, fill.expand_as(image), image)


def test_the_small_model_leaves_no_grid_of_two_pixels(tmp_path):
    path = tmp_path / "checkered.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Checkered()).save(str(path))
    image_HW3 = np.full((64, 64, 3), 138, np.uint8)
    hole_HW = np.zeros((64, 64), np.bool_)
    hole_HW[16:48, 16:48] = True
    official_HW3 = TorchScriptLama(path, FP32)(image_HW3, hole_HW)
    small_HW3 = TorchScriptLama(path, FP32, longest=384)(image_HW3, hole_HW)
    # Away from the hole's edge, where known pixels come in.
    inside = np.s_[18:46, 18:46]
    assert np.ptp(official_HW3[inside]) == 20
    assert np.ptp(small_HW3[inside]) == 0
    assert np.array_equal(small_HW3[~hole_HW], image_HW3[~hole_HW])

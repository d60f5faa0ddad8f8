"""LaMa from a TorchScript file of the official signature: ours, lama-cleaner's, and little memory.

The official big-lama.pt is no part of a test. A module written here stands in for it: same
signature, same file format, an answer that can be worked out by hand.
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
from pipeline.models.out_of_memory import with_second_try
from pipeline.models.settings import ModelSettings, ProposalSettings
from pipeline.models.weights import store as weights

FP32 = Compute(torch.device("cpu"), torch.float32)


class StandIn(nn.Module):
    """Fills with the mean of what is known within 15 px; takes and gives what big-lama.pt does."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        hole = mask.float()
        known = F.avg_pool2d(1 - hole, 31, 1, 15)
        ground = F.avg_pool2d(image * (1 - hole), 31, 1, 15) / known.clamp(min=1e-6)
        return hole * ground + (1 - hole) * image


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "big-lama.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(StandIn()).save(str(path))
    return path


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy ground with a hole that reaches the lower border."""
    rng = np.random.default_rng(height)
    image_HW3 = rng.integers(40, 216, (height, width, 3), dtype=np.uint8)
    hole_HW = np.zeros((height, width), np.bool_)
    hole_HW[height - 20 :, 30:52] = True
    return image_HW3, hole_HW


def by_hand(image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    """The stand-in's answer times 255, (H, W, 3) float32, before anybody makes bytes of it."""
    height, width = hole_HW.shape
    beyond = ((0, -height % 8), (0, -width % 8))
    image = np.pad(image_HW3, (*beyond, (0, 0)), mode="symmetric").astype(np.float32) / 255
    hole = np.pad(hole_HW, beyond, mode="symmetric").astype(np.float32)
    with torch.inference_mode():
        filled = StandIn()(torch.from_numpy(image.transpose(2, 0, 1))[None],
                           torch.from_numpy(hole)[None, None])  # fmt: skip
    return filled[0].permute(1, 2, 0).numpy()[:height, :width] * np.float32(255)


SIZES = [(96, 120), (93, 117), (64, 71)]
"""Windows of whole eights, and windows that both have to extend."""


@pytest.mark.parametrize("size", SIZES)
def test_ours_rounds_what_the_model_says(path, size):
    image, hole = scene(*size)
    filled = TorchScriptLama(path, FP32)(image, hole)
    assert np.array_equal(filled[hole], np.rint(by_hand(image, hole)[hole]))
    assert np.array_equal(filled[~hole], image[~hole])


@pytest.mark.parametrize("size", SIZES)
def test_lama_cleaner_says_the_same_and_cuts_the_decimals_off(path, size):
    """The whole difference: where the fraction is above one half, ours is one grey level higher."""
    image, hole = scene(*size)
    ours = TorchScriptLama(path, FP32)(image, hole).astype(int)
    theirs = LamaCleanerInpainter(path, FP32)(image, hole).astype(int)
    exact = by_hand(image, hole)
    assert np.array_equal(theirs[hole], np.trunc(exact[hole]))
    assert np.array_equal(theirs[~hole], image[~hole])
    rounded_up = np.rint(exact) > np.trunc(exact)
    assert np.array_equal((ours - theirs)[hole], rounded_up[hole].astype(int))
    assert rounded_up[hole].any()


def test_a_manifest_takes_the_file_by_its_path_and_the_lineage_names_its_bytes(path):
    settings = ModelSettings.model_validate({"inpaint": {"backend": "lama", "weights": str(path)}})
    files = models.resolve(settings)
    assert files.inpaint == ("lama", path)
    assert files.digests()["inpaint/lama"] == weights.sha256(path)
    image, hole = scene(96, 120)
    filled = models.load(settings, ProposalSettings(), files).inpaint(image, hole)
    assert np.array_equal(filled, TorchScriptLama(path, FP32)(image, hole))


def test_under_the_official_name_only_the_official_file_is_taken(path, monkeypatch):
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(path.parent))
    with pytest.raises(WeightsError, match=r"big-lama.*expected md5 e3aa4aaa1522"):
        models.resolve(ModelSettings.model_validate({"inpaint": {"backend": "lama"}}))


def short_of_memory(times: int):
    """A call that fails `times` times as CUDA does, and then answers."""
    calls = []

    def call(*_: object) -> str:
        calls.append(1)
        if len(calls) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return f"answer {len(calls)}"

    return call


def test_memory_that_is_short_once_costs_a_second_try():
    assert with_second_try(short_of_memory(1), "testing") == "answer 2"


def test_memory_that_is_short_twice_is_an_error_that_says_what_to_do():
    with pytest.raises(DeviceError, match=r"out of memory.*while testing; .*models\.device: cpu"):
        with_second_try(short_of_memory(2), "testing")


def test_another_fault_is_not_taken_for_little_memory():
    def broken() -> None:
        raise RuntimeError("expected 4 channels")

    with pytest.raises(RuntimeError, match="expected 4 channels"):
        with_second_try(broken, "testing")


@pytest.mark.parametrize("kind", [TorchScriptLama, LamaCleanerInpainter])
def test_both_lamas_survive_one_shortage_with_the_same_pixels(path, kind, monkeypatch):
    """TorchScript hands the shortage on as text, so that form is tested here."""
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

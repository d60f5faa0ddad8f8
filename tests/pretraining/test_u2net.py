"""U²-Net: the sizes of the paper, seven maps (the fused one first), a file that rembg can run."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pretraining.foreground.u2net import U2Net, export_onnx, like, u2net, u2netp

BUNDLED = Path(__file__).parents[2] / "weights" / "u2netp.onnx"


def parameters(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


@pytest.fixture(scope="module")
def small() -> U2Net:
    """U²-Net-p with random weights, in eval mode."""
    torch.manual_seed(0)
    return u2netp().eval()


def test_the_sizes_are_those_of_the_paper(small: U2Net) -> None:
    assert parameters(small) == 1_131_181
    with torch.device("meta"):
        # On the meta device 44 million parameters are counted without being allocated.
        assert parameters(u2net()) == 44_009_869


def test_seven_maps_of_the_input_size_between_0_and_1(small: U2Net) -> None:
    image_BCHW = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = small(image_BCHW)
    assert len(maps) == 7
    for map_ in maps:
        assert map_.shape == (2, 1, 64, 64)
        assert float(map_.min()) >= 0
        assert float(map_.max()) <= 1


def test_the_first_map_is_the_fusion_of_the_six_others(small: U2Net) -> None:
    with torch.no_grad():
        fused, *sides = small.logits(torch.randn(1, 3, 64, 64))
        again = small.fuse(torch.cat(sides, 1))
    torch.testing.assert_close(fused, again)


@pytest.mark.parametrize("size", [(33, 47), (70, 64)])
def test_odd_sizes_keep_their_size(small: U2Net, size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert small(torch.randn(1, 3, *size))[0].shape == (1, 1, *size)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = u2netp().train()
    sum(logit.square().mean() for logit in model.logits(torch.randn(2, 3, 64, 64))).backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None]
    assert idle == []


def test_enlarging_doubles_as_opencv_does() -> None:
    """Half-pixel centres, the convention of rembg's resizing, not corner alignment."""
    import cv2

    small_HW = np.random.default_rng(0).random((5, 7), np.float32)
    ours = like(torch.from_numpy(small_HW)[None, None], torch.zeros(1, 1, 10, 14))[0, 0].numpy()
    theirs = cv2.resize(small_HW, (14, 10), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_exported_file_computes_the_same(small: U2Net, tmp_path: Path) -> None:
    import onnxruntime

    path = export_onnx(small, tmp_path / "net.onnx", size=96, inner=48)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 3, 96, 96]
    image_BCHW = torch.randn(1, 3, 96, 96)
    maps = session.run(None, {session.get_inputs()[0].name: image_BCHW.numpy()})
    assert [map_.shape for map_ in maps] == [(1, 1, 96, 96)] * 7
    with torch.no_grad():
        halved = torch.nn.functional.avg_pool2d(image_BCHW, 2)
        expected = torch.sigmoid(like(small.logits(halved)[0], image_BCHW))
    np.testing.assert_allclose(maps[0], expected.numpy(), atol=1e-4)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_an_inner_size_that_does_not_divide_is_rejected(small: U2Net, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="multiple of inner"):
        export_onnx(small, tmp_path / "net.onnx", size=320, inner=150)


@pytest.mark.skipif(not BUNDLED.is_file(), reason="weights/u2netp.onnx is not in this checkout")
def test_the_bundled_network_finds_a_plain_disc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through rembg, as the pipeline runs it; a dark disc on white is the simplest product."""
    monkeypatch.setenv("U2NET_HOME", str(BUNDLED.parent))
    monkeypatch.setenv("NUMBA_DISABLE_JIT", os.environ.get("NUMBA_DISABLE_JIT", "1"))
    from PIL import Image
    from rembg import new_session

    y, x = np.mgrid[0:240, 0:320]
    disc_HW = np.hypot(y - 120, x - 160) < 70
    image_HW3 = np.where(disc_HW[..., None], [40, 60, 90], [235, 235, 230]).astype(np.uint8)
    session = new_session("u2net_custom", ["CPUExecutionProvider"], model_path=str(BUNDLED))
    found_HW = np.asarray(session.predict(Image.fromarray(image_HW3))[0]) > 127
    assert (found_HW & disc_HW).sum() / (found_HW | disc_HW).sum() > 0.85

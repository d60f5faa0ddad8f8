"""Foreground through rembg sessions, and images where rembg's stretch would invent one."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.models.foreground import U2NetForeground
from pipeline.models.weights import store as weights


def saliency_model(path, levels: np.ndarray):
    """An ONNX file with U²-Net's interface whose output is always `levels` (320, 320)."""
    constant = helper.make_tensor(
        "levels", TensorProto.FLOAT, [1, 1, 320, 320], levels.astype(np.float32).ravel()
    )
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["levels", "nothing"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "saliency",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 320, 320])],
        [constant, zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def image_HW3():
    return np.random.default_rng(0).integers(0, 255, (80, 120, 3), np.uint8)


def test_a_clear_object_is_the_foreground(tmp_path, image_HW3):
    levels = np.zeros((320, 320))
    levels[80:240, 80:240] = 0.95
    found = U2NetForeground(saliency_model(tmp_path / "m.onnx", levels))(image_HW3)
    assert not found.fallback
    assert found.mask_HW.shape == (80, 120)
    assert found.mask_HW.mean() == pytest.approx(0.25, abs=0.02)
    assert found.peak == pytest.approx(0.95)


@pytest.mark.parametrize("peak", [0.0, 0.02, 0.49])
def test_an_image_without_an_object_falls_back_to_the_whole_frame(tmp_path, image_HW3, peak):
    """rembg would stretch this faint spot to a full-range mask."""
    levels = np.zeros((320, 320))
    levels[100:110, 100:110] = peak
    found = U2NetForeground(saliency_model(tmp_path / "m.onnx", levels))(image_HW3)
    assert found.mask_HW.all()
    assert "whole frame" in found.fallback


def test_a_constant_saliency_map_does_not_divide_by_zero(tmp_path, image_HW3):
    found = U2NetForeground(saliency_model(tmp_path / "m.onnx", np.full((320, 320), 0.9)))(
        image_HW3
    )
    assert found.mask_HW.all()


def test_a_speck_is_no_foreground(tmp_path, image_HW3):
    levels = np.zeros((320, 320))
    levels[100:104, 100:104] = 0.99
    found = U2NetForeground(saliency_model(tmp_path / "m.onnx", levels))(image_HW3)
    assert "covers" in found.fallback


def test_the_bundled_model_finds_a_rendered_tray():
    from scenes.render import render

    scene = render("tray", seed=123_456, size=256)
    found = U2NetForeground(weights.require("bundled-u2netp"))(scene.image_HW3)
    shared = (found.mask_HW & scene.product_HW).sum()
    assert shared / (found.mask_HW | scene.product_HW).sum() > 0.8
    assert not found.fallback


def test_the_session_runs_on_one_thread(tmp_path, monkeypatch):
    """Sums split over threads round differently, which would change the digest of a dataset."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    model = U2NetForeground(saliency_model(tmp_path / "m.onnx", np.zeros((320, 320))))
    assert model._session.inner_session.get_session_options().intra_op_num_threads == 1

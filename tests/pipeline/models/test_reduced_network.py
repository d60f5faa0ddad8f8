"""U²-Net in bfloat16: the same foreground as onnxruntime's, and only for graphs that it knows."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.models.foreground import U2NetForeground
from pipeline.models.reduced_network import reduced_network
from pipeline.models.weights import store as weights
from scenes.render import render


def network(path, *nodes: onnx.NodeProto, **constants: np.ndarray):
    """An ONNX file from `image` (1, 3, 8, 8) to `map`, compiled; None where that is impossible."""
    shapes = {"image": [1, 3, 8, 8], "map": None}
    source, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    tensors = [
        onnx.numpy_helper.from_array(value.astype(np.float32), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "network", [source], [result], tensors)
    onnx.save(helper.make_model(graph), path)
    return reduced_network(path)


def convolution(source: str, weight: str, bias: str, result: str) -> onnx.NodeProto:
    return helper.make_node(
        "Conv", [source, weight, bias], [result], kernel_shape=[1, 1], strides=[1, 1], group=1,
        pads=[0] * 4, dilations=[1, 1],
    )  # fmt: skip


def test_the_bundled_network_finds_the_foreground_of_onnxruntime():
    path, image_HW3 = weights.require("bundled-u2netp"), render("tray", seed=7, size=128).image_HW3
    exact, reduced = (
        U2NetForeground(path, reduced=reduced)(image_HW3).mask_HW for reduced in (False, True)
    )
    assert (exact & reduced).sum() / (exact | reduced).sum() > 0.99
    # Not onnxruntime twice.
    assert reduced_network(path) is not None


def test_a_channel_of_a_large_constant_does_not_cost_its_small_changes(tmp_path):
    """228 ± 0.2 before a convolution that takes 228 away: bfloat16 has steps of 1 there."""
    first = convolution("image", "w1", "b1", "high")
    second = convolution("high", "w2", "b2", "map")
    w1, w2 = np.full((1, 3, 1, 1), 1 / 3), np.ones((1, 1, 1, 1))
    b1, b2 = np.array([228.0]), np.array([-228.0])
    compiled = network(tmp_path / "m.onnx", first, second, w1=w1, b1=b1, w2=w2, b2=b2)
    image = np.random.default_rng(0).uniform(-0.2, 0.2, (1, 3, 8, 8)).astype(np.float32)
    (found,) = compiled.run(None, {"image": image})
    assert found[0, 0] == pytest.approx(image[0].mean(0), abs=0.002)


@pytest.mark.parametrize("operation", ["Softmax", "Elu"])
def test_other_graphs_stay_with_onnxruntime(tmp_path, operation):
    node = helper.make_node(operation, ["image"], ["map"])
    assert network(tmp_path / "m.onnx", node) is None

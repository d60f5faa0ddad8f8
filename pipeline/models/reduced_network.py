"""U²-Net's ONNX files in bfloat16, by torch, where the processor multiplies bfloat16 in hardware.

    network = reduced_network(path)                # None for a graph with other operations
    fused_B1HW, = network.run(None, {network.get_inputs()[0].name: image_B3HW})

onnxruntime computes these graphs in float32 on a CPU. Here the same convolutions run in bfloat16
on tensors with the channels last, in about a third of the time.

One thing must stay in float32. A folded batch norm can leave a channel at a large, nearly constant
value (226 ± 0.2 in the official U²-Net-p), which the next convolution takes away again; bfloat16
knows whole numbers there. Such a channel betrays itself by the bias of its convolution. From there
to the next convolution everything is float32.

Shapes: B batch; H, W the network's input; 3 colour (RGB, normalised float32).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor

# Bias from which a convolution's output stays in float32. Measured: 53 and 228 in the two layers of
# the official U²-Net-p that need it, at most 11 in all others and 3 in the bundled network.
LARGE_BIAS = 32.0
# Operations that only compute the sizes of others: NumPy functions of constants and attributes.
_SIZES: Mapping[str, Callable[[list[Any], dict[str, Any]], Any]] = {
    "Constant": lambda inputs, a: numpy_helper.to_array(a["value"]),
    "Gather": lambda inputs, a: inputs[0][inputs[1]],
    "Unsqueeze": lambda inputs, a: np.atleast_1d(inputs[0]),
    "Slice": lambda inputs, a: inputs[0][int(inputs[1][0]) : int(min(inputs[2][0], 4))],
    "Cast": lambda inputs, a: inputs[0].astype(np.int64),
    "Concat": lambda inputs, a: np.concatenate(inputs),
}
# Operations that keep height and width.
_POINTWISE: Mapping[str, Callable[..., Tensor]] = {
    "Relu": F.relu,
    "Add": torch.add,
    "Concat": lambda *inputs: torch.cat(inputs, 1),
    # In float32: a map in bfloat16 has steps of 1/256 next to 1.
    "Sigmoid": lambda logits: torch.sigmoid(logits.float()),
}


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation on tensors. `wide`: in float32; `stays_wide`: so is its output.

    `done` are the tensors that no later step reads.
    """

    apply: Callable[..., Tensor]
    inputs: tuple[str, ...]
    output: str
    wide: bool
    stays_wide: bool
    done: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Convolution:
    """A convolution of stride 1, followed by a ReLU if `relu`."""

    weight: Tensor
    bias: Tensor
    padding: list[int]
    dilation: list[int]
    relu: bool = False

    def __call__(self, image: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.relu and torch.backends.mkldnn.is_available():
            # oneDNN's own fusion: the same bits without another pass over the output.
            fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
                image, weight, bias, self.padding, [1, 1], self.dilation, 1, "relu", [], ""
            )
            return fused
        found = F.conv2d(image, weight, bias, padding=self.padding, dilation=self.dilation)
        return F.relu_(found) if self.relu else found

    def to(self, dtype: torch.dtype) -> "_Convolution":
        """The same in another precision."""
        return replace(self, weight=self.weight.to(dtype), bias=self.bias.to(dtype))


class ReducedNetwork:
    """The compiled graph, with the part of onnxruntime's interface that rembg calls."""

    def __init__(self, steps: tuple[_Step, ...], source: str, result: str) -> None:
        self._steps, self._source, self._result = steps, source, result

    def get_inputs(self) -> list[Any]:
        """The network's only input, as an object with a `name`."""
        return [SimpleNamespace(name=self._source)]

    @torch.inference_mode()
    def run(
        self, names: Any, feed: Mapping[str, np.ndarray], options: Any = None
    ) -> list[np.ndarray]:
        """The first output alone, (B, 1, H, W) float32; `names` and `options` are ignored."""
        image_B3HW = torch.from_numpy(feed[self._source])
        tensors = {self._source: image_B3HW.contiguous(memory_format=torch.channels_last)}
        for step in self._steps:
            dtype = torch.float32 if step.wide else torch.bfloat16
            found = step.apply(*[tensors[name].to(dtype) for name in step.inputs])
            tensors[step.output] = found if step.stays_wide else found.to(torch.bfloat16)
            for name in step.done:
                del tensors[name]
        return [tensors[self._result].float().numpy()]


def reduced_network(path: Path) -> ReducedNetwork | None:
    """The network of an ONNX file with one image input of fixed size; None for other graphs."""
    graph = onnx.load(str(path), load_external_data=False).graph
    source, result = graph.input[0], graph.output[0].name
    size = tuple(axis.dim_value for axis in source.type.tensor_type.shape.dim[2:])
    if len(size) != 2 or not all(size):
        return None
    nodes = _needed(graph, result)
    constants: dict[str, Any] = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    sizes = {source.name: size}
    compiled: list[tuple[Any, tuple[str, ...], Callable[..., Tensor]]] = []
    for node in nodes:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        output = node.output[0]
        if node.op_type == "Shape" and node.input[0] in sizes:
            # Batch and channels are never read: a resize keeps both.
            constants[output] = np.array([1, 1, *sizes[node.input[0]]])
            continue
        tensors = tuple(name for name in node.input if name in sizes)
        if not tensors and node.op_type in _SIZES:
            given = [constants[name] for name in node.input if name]
            constants[output] = _SIZES[node.op_type](given, attributes)
            continue
        found = _operation(node, attributes, constants, sizes)
        if found is None:
            return None
        apply, sizes[output] = found
        compiled.append((node, tensors, apply))
    return ReducedNetwork(_with_precision(compiled, constants, result), source.name, result)


def _needed(graph: Any, result: str) -> list[Any]:
    """The nodes that the result depends on, in the order of the graph."""
    wanted, nodes = {result}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted.update(node.input)
    return nodes[::-1]


def _operation(
    node: Any, attributes: dict[str, Any], constants: Mapping[str, Any], sizes: Mapping[str, Any]
) -> tuple[Callable[..., Tensor], tuple[int, int]] | None:
    """A node as a function of tensors, and the height and width of its output; None if unknown."""
    size = sizes.get(node.input[0]) if node.input else None
    if size is None:
        return None
    if node.op_type in _POINTWISE:
        return _POINTWISE[node.op_type], size
    if node.op_type == "Conv" and _keeps_size(attributes, constants[node.input[1]].shape):
        return _convolution(node, attributes, constants), size
    if node.op_type in ("MaxPool", "AveragePool") and attributes["kernel_shape"] == [2, 2]:
        ceil = bool(attributes.get("ceil_mode", 0))
        pool = _max_pooled if node.op_type == "MaxPool" else F.avg_pool2d
        rounded = math.ceil if ceil else math.floor
        half = rounded(size[0] / 2), rounded(size[1] / 2)
        return lambda image: pool(image, 2, 2, ceil_mode=ceil), half
    if node.op_type == "Resize" and attributes["mode"] == b"linear":
        # The last input is the target's size where there is one, else factors.
        last = constants[node.input[-1]][2:]
        if len(node.input) < 4:
            last = np.rint(np.array(size) * last)
        target = int(last[0]), int(last[1])
        return lambda image: F.interpolate(image, target, mode="bilinear"), target
    return None


def _keeps_size(attributes: dict[str, Any], shape: tuple[int, ...]) -> bool:
    """True for a dense convolution of stride 1 with the padding that its dilation needs."""
    reach = attributes["dilations"][0] * (shape[2] - 1) // 2
    plain = attributes["strides"] == [1, 1] and attributes["group"] == 1
    return plain and attributes["pads"] == [reach] * 4


def _convolution(
    node: Any, attributes: dict[str, Any], constants: Mapping[str, Any]
) -> _Convolution:
    weight, bias = (torch.from_numpy(constants[name].copy()) for name in node.input[1:])
    weight = weight.contiguous(memory_format=torch.channels_last)
    return _Convolution(weight, bias, list(attributes["pads"][:2]), list(attributes["dilations"]))


def _max_pooled(image: Tensor, size: int, stride: int, ceil_mode: bool) -> Tensor:
    """`F.max_pool2d` of 2 x 2 pixels; in half its time, as nobody asks where the largest was."""
    if image.shape[2] % 2 or image.shape[3] % 2:
        return F.max_pool2d(image, size, stride, ceil_mode=ceil_mode)
    rows = torch.maximum(image[:, :, ::2], image[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _with_precision(
    compiled: list[tuple[Any, tuple[str, ...], Callable[..., Tensor]]],
    constants: Mapping[str, Any],
    result: str,
) -> tuple[_Step, ...]:
    """The steps, those around a channel of a large constant in float32."""
    last_reader = {name: node.output[0] for node, inputs, _ in compiled for name in inputs}
    wide_tensors: set[str] = set()
    steps = []
    for node, inputs, apply in compiled:
        wide = any(name in wide_tensors for name in inputs)
        stays = wide
        if node.op_type == "Conv":
            large = bool(np.abs(constants[node.input[2]]).max() > LARGE_BIAS)
            # After a large constant a large bias takes it away again, and the values are small.
            wide, stays = wide or large, large and not wide
        if isinstance(apply, _Convolution) and not wide:
            # Only the whole graph tells which precision is used.
            apply = apply.to(torch.bfloat16)
        stays |= node.op_type == "Sigmoid"
        output = node.output[0]
        if stays:
            wide_tensors.add(output)
        done = tuple(name for name in set(inputs) if last_reader[name] == output and name != result)
        steps.append(_Step(apply, inputs, output, wide, stays, done))
    return tuple(_fused(steps))


def _fused(steps: list[_Step]) -> list[_Step]:
    """The steps, each ReLU in bfloat16 as a part of the convolution that it alone reads."""
    found: list[_Step] = []
    for step in steps:
        last = found[-1] if found else None
        if (
            last is not None
            and step.apply is F.relu
            and step.inputs == step.done == (last.output,)
            and isinstance(last.apply, _Convolution)
            and not (last.wide or last.stays_wide or step.wide or step.stays_wide)
        ):
            fused = replace(last.apply, relu=True)
            found[-1] = replace(last, apply=fused, output=step.output)
        else:
            found.append(step)
    return found

"""U²-Net-p: onnxruntime and bf16 in channels-last against eager float32, with the same weights.

The eager network gets its weights from the ONNX file that the pipeline reads. The export folded
each batch norm into the convolution before it; the eager network keeps its batch norms, as any
U²-Net in PyTorch does, as identities. Convolutions are matched in the order of their execution.
Shapes: H, W image; 3 colour (RGB).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from benchmarks.generation.rows import Claim, in_turn
from pipeline.models.foreground import THRESHOLD, U2NetForeground
from pipeline.models.weights import store as weights
from pretraining.foreground.u2net import Resized, u2netp
from scenes.render import render

PRODUCTS = ("tray", "bag", "pins", "bottle")
# Scenes that no model was trained on.
FIRST_SEED = 80_000_000
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def rows(images: int) -> Iterator[Claim]:
    """`images` of each product through all three implementations."""
    path = weights.require("bundled-u2netp")
    # The session that the pipeline itself uses.
    find = U2NetForeground(path)
    session = find._session.inner_session
    eager = eager_network(path)
    name = session.get_inputs()[0].name
    inputs = [
        prepared(render(product, FIRST_SEED + seed, size=256).image_HW3)
        for seed in range(images) for product in PRODUCTS
    ]  # fmt: skip
    first = inputs[0]

    @torch.inference_mode()
    def plain(x_13HW: Tensor) -> np.ndarray:
        return eager(x_13HW)[0][0, 0].float().numpy()

    reduced = eager_network(path).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def bf16(x_13HW: Tensor) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16):
            return (
                reduced(x_13HW.contiguous(memory_format=torch.channels_last))[0][0, 0]
                .float()
                .numpy()
            )

    def onnxruntime(x_13HW: Tensor) -> np.ndarray:
        return session.run(None, {name: x_13HW.numpy()})[0][0, 0]

    # The first call is the baseline of both others.
    calls = (plain, onnxruntime, bf16)
    # In turn, so that a change of the machine's load affects all alike.
    seconds = in_turn([lambda call=call: call(first) for call in calls], repeats=5)  # type: ignore[misc]
    found = [[mask_of(call(x_13HW)) for x_13HW in inputs] for call in calls]
    baseline = "eager fp32 torch, NCHW"
    for index, what in ((1, "onnxruntime (what the pipeline runs)"), (2, "bf16, channels last")):
        # Claimed for what the pipeline runs; bf16 is for information.
        aim = 1.4 if index == 1 else None
        yield Claim(f"U²-Net-p, {what}", f"{seconds[index]:.3f} s", baseline,
                    f"{seconds[0]:.3f} s", seconds[0] / seconds[index], aim)  # fmt: skip
        # Faster is worth nothing with other masks: the lowest IoU over all images.
        worst = min(overlap(a, b) for a, b in zip(found[index], found[0], strict=True))
        yield Claim(f"lowest mask IoU of {len(inputs)} images, {what}", f"{worst:.4f}", baseline,
                    "1", worst, 0.99 if index == 1 else None)  # fmt: skip


def prepared(image_HW3: np.ndarray) -> Tensor:
    """As rembg prepares it: 320 px, divided by the maximum, ImageNet's mean and deviation."""
    # Imported here: needed for preparing only.
    import cv2

    resized = cv2.resize(image_HW3, (320, 320), interpolation=cv2.INTER_LANCZOS4)
    scaled = resized / max(float(resized.max()), 1e-6)
    normal = ((scaled - MEAN) / DEVIATION).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))[None]


def mask_of(saliency_HW: np.ndarray) -> np.ndarray:
    """Stretched to its own range, as rembg does, and thresholded."""
    low, high = saliency_HW.min(), saliency_HW.max()
    return (saliency_HW - low) / max(float(high - low), 1e-6) > THRESHOLD


def overlap(first_HW: np.ndarray, second_HW: np.ndarray) -> float:
    """IoU; 1 for two empty masks."""
    union = (first_HW | second_HW).sum()
    return float((first_HW & second_HW).sum() / union) if union else 1.0


def eager_network(path: Path) -> nn.Module:
    """The same network in PyTorch, with the weights of the ONNX file, at the file's inner size."""
    model = u2netp().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # With this variance, mean 0, weight 1 and bias 0 batch norm is the identity.
            module.running_var.fill_(1 - module.eps)  # type: ignore[union-attr]
    executed: list[nn.Conv2d] = []
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    # One forward pass records the order in which convolutions are executed.
    watches = [
        convolution.register_forward_pre_hook(lambda module, _: executed.append(module))
        for convolution in convolutions
    ]
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64))
    for watch in watches:
        watch.remove()
    graph = onnx.load(path).graph
    values = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    # Nodes of an ONNX graph are sorted by execution.
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    with torch.no_grad():
        for convolution, node in zip(executed, nodes, strict=True):
            weight, bias = (values[name] for name in node.input[1:])
            convolution.weight.copy_(torch.tensor(weight))
            assert convolution.bias is not None
            convolution.bias.copy_(torch.tensor(bias))
    # The exported file may work at a smaller inner size.
    shrinks = [node for node in graph.node if node.op_type == "AveragePool"]
    factor = shrinks[0].attribute[-1].ints[0] if shrinks else 1
    return Resized(model, factor).eval()

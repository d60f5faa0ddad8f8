"""U²-Net-p: onnxruntime and bf16 in channels-last against eager float32, by the same weights.

The eager twin is filled from the ONNX file that the pipeline reads. Exporting melted each batch
norm into the convolution before it; the twin keeps its batch norms, as any U²-Net in PyTorch does,
and they do nothing. Convolutions come in the order in which both ask for them.
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
FIRST_SEED = 80_000_000
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def rows(images: int) -> Iterator[Claim]:
    """`images` of each product through all three."""
    path = weights.require("bundled-u2netp")
    find = U2NetForeground(path)
    session = find._session.inner_session
    eager = twin(path)
    name = session.get_inputs()[0].name
    pictures = [
        prepared(render(product, FIRST_SEED + seed, size=256).image_HW3)
        for seed in range(images) for product in PRODUCTS
    ]  # fmt: skip
    first = pictures[0]

    @torch.inference_mode()
    def plain(x_13HW: Tensor) -> np.ndarray:
        return eager(x_13HW)[0][0, 0].float().numpy()

    reduced = twin(path).to(memory_format=torch.channels_last)

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

    calls = (plain, onnxruntime, bf16)
    seconds = in_turn([lambda call=call: call(first) for call in calls], repeats=5)  # type: ignore[misc]
    found = [[mask_of(call(x_13HW)) for x_13HW in pictures] for call in calls]
    yardstick = "eager fp32 torch, NCHW"
    for index, what in ((1, "onnxruntime (what the pipeline runs)"), (2, "bf16, channels last")):
        aim = 1.4 if index == 1 else None
        yield Claim(f"U²-Net-p, {what}", f"{seconds[index]:.3f} s", yardstick,
                    f"{seconds[0]:.3f} s", seconds[0] / seconds[index], aim)  # fmt: skip
        worst = min(overlap(a, b) for a, b in zip(found[index], found[0], strict=True))
        yield Claim(f"lowest mask IoU of {len(pictures)} images, {what}", f"{worst:.4f}", yardstick,
                    "1", worst, 0.99 if index == 1 else None)  # fmt: skip


def prepared(image_HW3: np.ndarray) -> Tensor:
    """As rembg feeds it: 320 px, over the image's maximum, ImageNet's mean and deviation."""
    import cv2

    resized = cv2.resize(image_HW3, (320, 320), interpolation=cv2.INTER_LANCZOS4)
    scaled = resized / max(float(resized.max()), 1e-6)
    normal = ((scaled - MEAN) / DEVIATION).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))[None]


def mask_of(saliency_HW: np.ndarray) -> np.ndarray:
    """Stretched to its own minimum and maximum, as rembg does, and cut."""
    low, high = saliency_HW.min(), saliency_HW.max()
    return (saliency_HW - low) / max(float(high - low), 1e-6) > THRESHOLD


def overlap(first_HW: np.ndarray, second_HW: np.ndarray) -> float:
    """IoU; 1 for two empty masks."""
    union = (first_HW | second_HW).sum()
    return float((first_HW & second_HW).sum() / union) if union else 1.0


def twin(path: Path) -> nn.Module:
    """The same network in PyTorch, with the weights of the ONNX file, at the file's inner size."""
    model = u2netp().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)  # type: ignore[union-attr]
    asked: list[nn.Conv2d] = []
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    watches = [
        convolution.register_forward_pre_hook(lambda module, _: asked.append(module))
        for convolution in convolutions
    ]
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64))
    for watch in watches:
        watch.remove()
    graph = onnx.load(path).graph
    values = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    with torch.no_grad():
        for convolution, node in zip(asked, nodes, strict=True):
            weight, bias = (values[name] for name in node.input[1:])
            convolution.weight.copy_(torch.tensor(weight))
            assert convolution.bias is not None
            convolution.bias.copy_(torch.tensor(bias))
    shrinks = [node for node in graph.node if node.op_type == "AveragePool"]
    factor = shrinks[0].attribute[-1].ints[0] if shrinks else 1
    return Resized(model, factor).eval()

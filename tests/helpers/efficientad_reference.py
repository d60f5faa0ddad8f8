"""EfficientAD, PUAD and LA-EAD a second time, from the tables and equations of their papers.

Functions on the tensors of a detector's state dict, which share no code with the detectors. The
`weights` of a copy require gradients, so a test can compare those as well.

Shapes: B batch; 3 colour; H, W image; C channels of the teacher; h, w cells; N images.
"""

import numpy as np
import torch
import torch.nn.functional as F
from reference_tensors import Weights, scaled
from torch import Tensor

# Layers of a patch description network: a convolution, a ReLU, a pooling of 2 x 2 cells.
SMALL = ("conv relu pool", "conv relu pool", "conv relu", "conv")
MEDIUM = ("conv relu pool", "conv relu pool", "conv relu", "conv relu", "conv relu", "conv")
# Sides to which the autoencoder's decoder resizes at 256 px; the last two layers work on 56.
DECODER = (3, 8, 15, 32, 63, 127)


def pdn(weights: Weights, prefix: str, inputs: Tensor, layers: tuple[str, ...]) -> Tensor:
    """Without padding, so a map has H/4 - 8 cells."""
    maps = inputs
    for number, steps in enumerate(layers):
        name = f"{prefix}.convs.{number}"
        maps = F.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"])
        maps = F.relu(maps) if "relu" in steps else maps
        maps = F.avg_pool2d(maps, 2) if "pool" in steps else maps
    return maps


def autoencoder(weights: Weights, inputs: Tensor) -> Tensor:
    """Five strided convolutions, one number per channel, six upsamplings; without dropout."""

    def conv(name: str, maps: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = weights[f"autoencoder.{name}.weight"], weights[f"autoencoder.{name}.bias"]
        return F.conv2d(maps, weight, bias, stride, padding)

    maps = inputs
    for number in range(5):
        maps = F.relu(conv(f"encoder.{number}", maps, stride=2, padding=1))
    maps = conv("bottleneck", maps)
    assert maps.shape[2:] == (1, 1)
    for number, side in enumerate(DECODER):
        maps = F.interpolate(maps, (side, side), mode="bilinear")
        maps = F.relu(conv(f"decoder.{number}", maps, padding=2))
    maps = F.interpolate(maps, (56, 56), mode="bilinear")
    return conv("last", F.relu(conv("last_hidden", maps, padding=1)), padding=1)


def teacher(weights: Weights, images: Tensor, train: Tensor, layers: tuple[str, ...]) -> Tensor:
    """The teacher's features of `images`, normalised over the cells of the training images."""
    with torch.no_grad():
        raw = pdn(weights, "teacher.pdn", scaled(train), layers).double()
        mean = raw.mean((0, 2, 3), keepdim=True)
        deviation = (raw - mean).square().mean((0, 2, 3), keepdim=True).sqrt()
        features = pdn(weights, "teacher.pdn", scaled(images), layers).double()
        return ((features - mean) / deviation).float()


def student(weights: Weights, images: Tensor, layers: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The half that imitates the teacher, and the half that imitates the autoencoder."""
    both = pdn(weights, "student", scaled(images), layers)
    return both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]


def losses(
    weights: Weights,
    train: Tensor,
    image: Tensor,
    jittered: Tensor,
    penalty: Tensor | None,
    layers: tuple[str, ...],
    hard: float = 0.999,
) -> dict[str, Tensor]:
    """Algorithm 1 for one image: L_hard, L_AE, L_STAE, and the penalty on an ImageNet image."""
    squares = (teacher(weights, image, train, layers) - student(weights, image, layers)[0]) ** 2
    target, imitation = (
        teacher(weights, jittered, train, layers),
        student(weights, jittered, layers),
    )
    reconstruction = autoencoder(weights, scaled(jittered))
    terms = {
        "student": squares[squares >= torch.quantile(squares.detach(), hard)].mean(),
        "autoencoder": ((target - reconstruction) ** 2).mean(),
        "student_autoencoder": ((reconstruction - imitation[1]) ** 2).mean(),
    }
    if penalty is not None:
        terms["penalty"] = (student(weights, penalty, layers)[0] ** 2).mean()
    return terms


def two_maps(
    weights: Weights, train: Tensor, images: Tensor, layers: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """(B, h, w): teacher against student, and autoencoder against student."""
    first, second = student(weights, images, layers)
    of_student = (teacher(weights, images, train, layers) - first) ** 2
    of_autoencoder = (autoencoder(weights, scaled(images)) - second) ** 2
    return of_student.mean(1), of_autoencoder.mean(1)


def fused(
    weights: Weights, train: Tensor, validation: Tensor, images: Tensor, layers: tuple[str, ...]
) -> Tensor:
    """Algorithm 2: both maps scaled by quantiles of the validation normals, and averaged."""
    summed = torch.zeros(())
    normal = two_maps(weights, train, validation, layers)
    for of_normals, of_images in zip(normal, two_maps(weights, train, images, layers), strict=True):
        low, high = np.quantile(of_normals.numpy(), [0.9, 0.995])
        summed = summed + 0.1 * (of_images - low) / (high - low)
    return summed / 2


def image_map(fused_Bhw: Tensor, size: int = 256) -> Tensor:
    """The public code's map: four cells of zeros on each side, then bilinear upsampling."""
    padded = torch.zeros(len(fused_Bhw), 1, *(side + 8 for side in fused_Bhw.shape[1:]))
    padded[:, 0, 4:-4, 4:-4] = fused_Bhw
    return F.interpolate(padded, (size, size), mode="bilinear", align_corners=False)[:, 0]


def puad_scores(
    map_scores: tuple[np.ndarray, np.ndarray], features: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """PUAD's score from (validation, images) map scores and (train, validation, images) features.

    The covariance is Ledoit and Wolf's (2004), written out: the sample covariance S shrunk towards
    m I by b² / d², where m is the mean variance, d² = |S - m I|² and b² = Σ |x xᵀ - S|² / N², all
    norms divided by the number of dimensions.
    """
    train, validation, images = features
    mean = train.mean(0)
    centred = train - mean
    count, dimensions = train.shape
    sample = centred.T @ centred / count
    target = np.trace(sample) / dimensions * np.eye(dimensions)
    distance = np.sum((sample - target) ** 2) / dimensions
    spread = sum(np.sum((np.outer(x, x) - sample) ** 2) for x in centred) / dimensions / count**2
    share = min(spread, distance) / distance
    inverse = np.linalg.inv(share * target + (1 - share) * sample)
    total = np.zeros(len(images))
    of_normals = [np.sqrt((x - mean) @ inverse @ (x - mean)) for x in validation]
    of_images = [np.sqrt((x - mean) @ inverse @ (x - mean)) for x in images]
    for normals, found in ((of_normals, of_images), map_scores):
        total += (np.asarray(found) - np.mean(normals)) / np.std(normals)
    return total


def extractor(weights: Weights, images: Tensor, heads: int) -> Tensor:
    """LA-EAD's context extractor: PDN-M, attention after the second pooling, dilation 2 in conv 4.

    (B, C, h, w).
    """
    maps = scaled(images)
    for number, steps in enumerate(MEDIUM):
        name = f"extractor.convs.{number}"
        more = {"dilation": 2, "padding": 1} if number == 3 else {}
        maps = F.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], **more)
        maps = F.relu(maps) if "relu" in steps else maps
        maps = F.avg_pool2d(maps, 2) if "pool" in steps else maps
        if number == 1:
            maps = msoa(weights, "extractor.attention.A", maps, heads)
    return maps


def msoa(weights: Weights, prefix: str, maps: Tensor, heads: int) -> Tensor:
    """Outlook attention in windows of 3 and 5, each projected; concatenated and mixed."""
    batch, channels, height, width = maps.shape
    cells = maps.flatten(2).transpose(1, 2)
    found = []
    for number, kernel in enumerate((3, 5)):
        branch, projection = f"{prefix}.branches.{number}", f"{prefix}.projections.{number}"
        values = F.linear(cells, weights[f"{branch}.value.weight"])
        values = values.transpose(1, 2).reshape(batch, channels, height, width)
        windows = F.unfold(values, kernel, padding=kernel // 2)
        windows = windows.reshape(batch, heads, channels // heads, kernel**2, height * width)
        logits = F.linear(
            cells, weights[f"{branch}.attention.weight"], weights[f"{branch}.attention.bias"]
        ).reshape(batch, height * width, heads, kernel**2, kernel**2)
        attention = (logits / (channels // heads) ** 0.5).softmax(-1)
        attended = torch.einsum("bnhij,bhdjn->bhdin", attention, windows)
        attended = attended.reshape(batch, channels * kernel**2, height * width)
        summed = F.fold(attended, (height, width), kernel, padding=kernel // 2)
        found.append(
            F.linear(
                summed.flatten(2).transpose(1, 2),
                weights[f"{projection}.weight"],
                weights[f"{projection}.bias"],
            )
        )
    mixed = F.linear(
        torch.cat(found, 2), weights[f"{prefix}.mixing.weight"], weights[f"{prefix}.mixing.bias"]
    )
    return mixed.transpose(1, 2).reshape(batch, channels, height, width)

"""How `weights/u2netp.onnx` was made: U²-Net-p, trained to segment products and parts.

    python -m pretraining.foreground --out weights --steps 3000

Reads examples rendered ahead (or renders them), trains, exports ONNX and prints the quality table.
rembg always feeds 320 px; the exported file halves that first and doubles its maps at the end, so
all training happens at 96 to 160 px, where a step costs a quarter or less. Images of real products
are used for evaluation only.
Shapes: B batch; H, W image; 3 colour (RGB); 1 the saliency map.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretraining.data.examples import open_ahead, render_ahead
from pretraining.foreground.u2net import U2Net, export_onnx, u2netp
from pretraining.loop import train
from pretraining.quality import print_measures

# Mean and deviation of ImageNet, which rembg applies to every input.
MEAN_3 = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION_3 = np.array([0.229, 0.224, 0.225], np.float32)
# Input side of the network inside the exported file.
INNER = 160

# Until this share of the run: image size, images in a batch; the cost of a batch stays similar.
SIZES: tuple[tuple[float, int, int], ...] = ((0.4, 96, 6), (0.75, 128, 5), (1.0, 160, 4))


# Sets to render: weight, number of examples, first seed, share of products, of centred parts.
SETS: dict[str, tuple[int, int, int, float, float]] = {
    "clutter": (1, 3000, 0, 0.0, 0.35),
    "products": (2, 1800, 3_000, 0.8, 0.35),
    "parts": (3, 1400, 20_000_000, 0.0, 0.9),
}


def render_sets(folder: Path) -> list[Path]:
    """Render every incomplete set; each folder is listed as often as its weight says."""
    folders = []
    for name, (weight, count, seed, scenes, centred) in SETS.items():
        made = render_ahead(folder / name, count, seed, scenes=scenes, centred=centred)
        folders += [made] * weight
    return folders


def augment(
    rng: np.random.Generator, image_HW3: np.ndarray, truth_HW: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Crop, flip, rotate, recolour one example; image (S, S, 3) and truth (S, S), float32 0-1."""
    side = image_HW3.shape[0]
    crop = int(side * (1 if rng.random() < 0.4 else rng.uniform(0.6, 1)))
    y, x = rng.integers(side - crop + 1, size=2)
    image = image_HW3[y : y + crop, x : x + crop]
    truth = truth_HW[y : y + crop, x : x + crop]
    # Area averaging avoids aliasing when shrinking; it also makes the truth soft at borders.
    how = cv2.INTER_AREA if crop > size else cv2.INTER_CUBIC
    image = cv2.resize(image, (size, size), interpolation=how).astype(np.float32) / 255
    truth = cv2.resize(truth.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    # Quarter turns and mirroring: products are seen from above in any orientation.
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    image, truth = np.rot90(image, turns), np.rot90(truth, turns)
    if mirror:
        image, truth = image[:, ::-1], truth[:, ::-1]
    if rng.random() < 0.7:
        # Contrast, brightness and a colour cast.
        image = (image - 0.5) * rng.uniform(0.7, 1.3) + 0.5 + rng.uniform(-0.12, 0.12)
        image = image * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    if rng.random() < 0.3:
        # Gamma: dim parts on dark felt, pale ones on a light table.
        image = np.clip(image, 0, 1) ** rng.uniform(0.6, 2.2)
    if rng.random() < 0.15:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.1:
        # Negatives, against the assumption that objects are darker or brighter.
        image = 1 - image
    return np.clip(image, 0, 1), truth


def normalise(image_HW3: np.ndarray) -> np.ndarray:
    """As rembg normalises: divided by the maximum, then ImageNet mean and deviation."""
    return (image_HW3 / max(float(image_HW3.max()), 1e-6) - MEAN_3) / DEVIATION_3


def batches_of(folders: list[Path], seed: int) -> Callable[[int, float], Any]:
    """Batches from sets rendered ahead: a random set of equal probability, a random example of it.

    A set that is still being rendered is used as far as it is complete, so a run is reproducible
    on complete sets only.
    """

    def batch(step: int, progress: float) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([seed, step])
        size, count = next((s, n) for until, s, n in SIZES if progress < until or until == 1)
        # Opened again for every batch, because a set may have grown since.
        sets = [open_ahead(folder) for folder in folders]
        images, truths = [], []
        for _ in range(count):
            one = sets[int(rng.integers(len(sets)))]
            row = int(rng.integers(len(one["removed"])))
            image, truth = augment(rng, one["images"][row], one["foreground"][row], size)
            images.append(normalise(image))
            truths.append(truth)
        stacked = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2), np.float32)
        return torch.from_numpy(stacked), torch.from_numpy(np.stack(truths)[:, None].copy())

    return batch


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Cross entropy on all seven maps, and soft intersection over union on the fused one."""
    image_B3HW, truth_B1HW = batch
    assert isinstance(model, U2Net)
    logits = [logit.float() for logit in model.logits(image_B3HW)]
    # Sums over whole images need float32.
    with torch.autocast(image_B3HW.device.type, enabled=False):
        entropies = [F.binary_cross_entropy_with_logits(logit, truth_B1HW) for logit in logits]
        fused = torch.sigmoid(logits[0])
        common = (fused * truth_B1HW).sum((1, 2, 3))
        either = (fused + truth_B1HW).sum((1, 2, 3)) - common
        # Plus one: an image without foreground has an overlap of 1 when nothing is found.
        overlap = ((common + 1) / (either + 1)).mean()
    # The fused map counts twice, each of the six side maps half.
    total = 2 * entropies[0] + torch.stack(entropies[1:]).sum() * 0.5 + (1 - overlap)
    return {"loss": total, "entropy": entropies[0].detach(), "overlap": overlap.detach()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("weights"))
    parser.add_argument("--folder", type=Path, default=Path("build/u2netp"), help="checkpoints")
    parser.add_argument("--ahead", type=Path, nargs="*", help="sets rendered ahead")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, help="end the schedule by the clock")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="real images")
    parser.add_argument("--pictures", type=Path, help="write contact sheets to this folder")
    parser.add_argument("--measure-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    torch.manual_seed(args.seed)
    file = args.out / "u2netp.onnx"
    if not args.measure_only:
        folders = args.ahead or render_sets(args.folder)
        args.out.mkdir(parents=True, exist_ok=True)

        def export(averaged: nn.Module, step: int) -> None:
            # A fresh copy on the CPU: exporting must not touch the model that is being trained.
            fresh = u2netp()
            fresh.load_state_dict(averaged.state_dict())
            export_onnx(fresh, file, inner=INNER)

        train(
            u2netp(), batches_of(folders, args.seed), loss, args.steps, args.folder, rate=args.rate,
            minutes=args.minutes, seed=args.seed, average=0.998, warm_up=60,
            save_minutes=4, on_save=export,
        )  # fmt: skip
    # Imported here, because rembg and onnxruntime are needed for the table only.
    from pretraining.foreground.table import evaluate, sheets

    print_measures(evaluate(file, args.shared))
    if args.pictures:
        sheets(file, args.shared, args.pictures)


if __name__ == "__main__":
    main()

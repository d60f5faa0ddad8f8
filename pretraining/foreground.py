"""How `weights/u2netp.onnx` was made: U²-Net-p, trained to find products and parts.

    python -m pretraining.foreground --out weights --steps 3000

Reads examples rendered ahead (or renders them), trains, exports ONNX, prints how good it is.
rembg always feeds 320 px; the exported file halves that first and doubles its maps at the end, so
all training happens at 96 to 160 px, where a step costs a quarter or less. Pictures of real
products serve for measuring only.
Shapes: B batch; H, W picture; 3 colour (RGB); 1 the saliency map.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.u2net import U2Net, export_onnx, u2netp
from pretraining.data import example, open_ahead, render_ahead
from pretraining.loop import train
from pretraining.textures import read_image

MEAN_3 = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION_3 = np.array([0.229, 0.224, 0.225], np.float32)
INNER = 160
"""Side of the picture that the network inside the exported file sees."""

HELD_OUT_SEED = 90_000_000
"""Seeds from here on are for measuring only."""

SIZES: tuple[tuple[float, int, int], ...] = ((0.4, 96, 6), (0.75, 128, 5), (1.0, 160, 4))
"""Until this share of the run: picture size, pictures in a batch."""


SETS: dict[str, tuple[int, int, int, float, float]] = {
    "clutter": (1, 3000, 0, 0.0, 0.35),
    "products": (2, 1800, 3_000, 0.8, 0.35),
    "parts": (3, 1400, 20_000_000, 0.0, 0.9),
}
"""Sets to render: weight, how many, from which seed, share of products, of centred parts."""


def render_sets(folder: Path) -> list[Path]:
    """Render every set that is not whole yet; each folder is named as often as it weighs."""
    folders = []
    for name, (weight, count, seed, scenes, centred) in SETS.items():
        made = render_ahead(folder / name, count, seed, scenes=scenes, centred=centred)
        folders += [made] * weight
    return folders


def augment(
    rng: np.random.Generator, image_HW3: np.ndarray, truth_HW: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Crop, flip, turn and recolour one example; picture float32 0-1, truth float32 0-1."""
    side = image_HW3.shape[0]
    crop = int(side * (1 if rng.random() < 0.4 else rng.uniform(0.6, 1)))
    y, x = rng.integers(side - crop + 1, size=2)
    image = image_HW3[y : y + crop, x : x + crop]
    truth = truth_HW[y : y + crop, x : x + crop]
    how = cv2.INTER_AREA if crop > size else cv2.INTER_CUBIC
    image = cv2.resize(image, (size, size), interpolation=how).astype(np.float32) / 255
    truth = cv2.resize(truth.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    image, truth = np.rot90(image, turns), np.rot90(truth, turns)
    if mirror:
        image, truth = image[:, ::-1], truth[:, ::-1]
    if rng.random() < 0.7:
        image = (image - 0.5) * rng.uniform(0.7, 1.3) + 0.5 + rng.uniform(-0.12, 0.12)
        image = image * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    if rng.random() < 0.3:  # dim parts on dark felt, pale ones on a light table
        image = np.clip(image, 0, 1) ** rng.uniform(0.6, 2.2)
    if rng.random() < 0.15:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.1:
        image = 1 - image
    return np.clip(image, 0, 1), truth


def normalise(image_HW3: np.ndarray) -> np.ndarray:
    """What rembg feeds: divided by the maximum, ImageNet mean and deviation."""
    return (image_HW3 / max(float(image_HW3.max()), 1e-6) - MEAN_3) / DEVIATION_3


def batches_of(folders: list[Path], seed: int) -> Callable[[int, float], Any]:
    """Batches from sets rendered ahead: each set as likely as the next, any example in it.

    A set that is still growing is used as far as it goes, so a run repeats only on whole sets.
    """

    def batch(step: int, progress: float) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([seed, step])
        size, count = next((s, n) for until, s, n in SIZES if progress < until or until == 1)
        sets = [open_ahead(folder) for folder in folders]
        images, truths = [], []
        for _ in range(count):
            one = sets[int(rng.integers(len(sets)))]
            row = int(rng.integers(len(one["removed"])))
            picture = one["images"][row]
            image, truth = augment(rng, picture, one["foreground"][row], size)
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
    with torch.autocast(image_B3HW.device.type, enabled=False):
        entropies = [F.binary_cross_entropy_with_logits(logit, truth_B1HW) for logit in logits]
        fused = torch.sigmoid(logits[0])
        common = (fused * truth_B1HW).sum((1, 2, 3))
        either = (fused + truth_B1HW).sum((1, 2, 3)) - common
        overlap = ((common + 1) / (either + 1)).mean()
    total = 2 * entropies[0] + torch.stack(entropies[1:]).sum() * 0.5 + (1 - overlap)
    return {"loss": total, "entropy": entropies[0].detach(), "overlap": overlap.detach()}


# --- measuring -------------------------------------------------------------------------------


def session(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The exported file behind rembg: picture (H, W, 3) uint8 to stretched saliency 0-1."""
    os.environ["U2NET_HOME"] = str(path.resolve().parent)
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # rembg's matting is compiled at import else
    from PIL import Image
    from rembg import new_session

    made = new_session("u2net_custom", ["CPUExecutionProvider"], model_path=str(path.resolve()))

    def saliency(image_HW3: np.ndarray) -> np.ndarray:
        return np.asarray(made.predict(Image.fromarray(image_HW3))[0], np.float32) / 255

    return saliency


def overlap(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    """Intersection over union of two bool masks; 1 when both are empty."""
    either = np.count_nonzero(one_HW | other_HW)
    return np.count_nonzero(one_HW & other_HW) / either if either else 1.0


def otsu(value_HW: np.ndarray, hull: bool = False) -> np.ndarray:
    """The higher side of Otsu's threshold: its largest region, filled, or that region's hull."""
    _, mask_HW = cv2.threshold(value_HW, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(mask_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=cv2.contourArea)
    outline = cv2.convexHull(largest) if hull else largest
    filled_HW = cv2.drawContours(np.zeros_like(mask_HW), [outline], -1, 1, cv2.FILLED)
    return np.asarray(filled_HW).astype(bool)


def brightness(image_HW3: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image_HW3.max(2), (0, 0), 1.5)


def colourfulness(image_HW3: np.ndarray) -> np.ndarray:
    """How far a pixel's hue lies from the border's: the shaded side of a nut is still brown."""
    lab_HW3 = cv2.cvtColor(cv2.GaussianBlur(image_HW3, (0, 0), 1.0), cv2.COLOR_RGB2LAB)
    hue_HW2 = lab_HW3[..., 1:].astype(np.float32)
    border = np.concatenate([hue_HW2[:4].reshape(-1, 2), hue_HW2[-4:].reshape(-1, 2),
                             hue_HW2[:, :4].reshape(-1, 2),
                             hue_HW2[:, -4:].reshape(-1, 2)])  # fmt: skip
    away_HW = np.linalg.norm(hue_HW2 - np.median(border, 0), axis=2)
    return np.clip(4 * away_HW, 0, 255).astype(np.uint8)


def measure(path: Path, shared: Path | None, pictures: Path | None, count: int = 200) -> None:
    """Print the table of the card; write pictures of real products to look at."""
    saliency = session(path)
    for name, share in (("product scenes", 1.0), ("clutter", 0.0)):
        scores = []
        for index in range(count):
            one = example(HELD_OUT_SEED + index, 320, share)
            scores.append(overlap(saliency(one.image_HW3) > 0.5, one.foreground_HW))
        print(f"{name}, {count} held out: mean IoU {np.mean(scores):.3f}, "
              f"10th percentile {np.quantile(scores, 0.1):.3f}")  # fmt: skip
    if shared is None or not (shared / "data").is_dir():
        print("no shared real pictures here: the remaining rows are left out", file=sys.stderr)
        return
    scores = []
    reference = shared / "data" / "u2net_reference"
    for file in sorted((reference / "images").glob("*")):
        truth = read_image(reference / "u2net_results" / f"{file.stem}.png")[..., 0] > 127
        scores.append(overlap(saliency(read_image(file)) > 0.5, truth))
    print(f"photographs against U²-Net, {len(scores)}: mean IoU {np.mean(scores):.3f}, "
          f"each {np.round(scores, 2).tolist()}")  # fmt: skip
    mvtec = shared / "data" / "mvtec_ad"
    nuts = [read_image(file) for file in sorted((mvtec / "hazelnut_reduced/train/good").glob("*"))]
    found = [saliency(nut) > 0.5 for nut in nuts]
    for name, truths in (
        ("Otsu of brightness", [otsu(brightness(nut)) for nut in nuts]),
        ("hull of Otsu of colour", [otsu(colourfulness(nut), hull=True) for nut in nuts]),
    ):
        scores = [overlap(one, truth) for one, truth in zip(found, truths, strict=True)]
        print(f"hazelnut against {name}, {len(nuts)}: mean IoU {np.mean(scores):.3f}, "
              f"lowest {min(scores):.3f}")  # fmt: skip
    files = sorted((mvtec / "bottle/train/good").glob("*"))[::4]
    inside = [saliency(read_image(file)) > 0.5 for file in files]
    print(f"bottle, {len(files)}: share of the disc found, lowest "
          f"{min(disc_share(mask) for mask in inside):.3f}")  # fmt: skip
    if pictures:
        groups = [sorted((mvtec / f"{name}/train/good").glob("*"))[::9][:5]
                  for name in ("bottle", "hazelnut_reduced", "transistor_reduced")]  # fmt: skip
        groups.append(sorted((reference / "images").glob("*")))
        for number, group in enumerate(groups):
            images = [read_image(file) for file in group]
            sheet(saliency, images, pictures / f"foreground{number}.png")


def disc_share(mask_HW: np.ndarray) -> float:
    """Share of a bottle mouth's disc (0.43 of the width around the middle) that is foreground."""
    height, width = mask_HW.shape
    y, x = np.mgrid[0:height, 0:width]
    disc_HW = np.hypot(y - height / 2, x - width / 2) < 0.43 * width
    return float(mask_HW[disc_HW].mean())


def sheet(
    saliency: Callable[[np.ndarray], np.ndarray], images: list[np.ndarray], path: Path
) -> None:
    """Pictures above what was found in them, background darkened."""
    columns = []
    for image_HW3 in images:
        small_HW3 = cv2.resize(image_HW3, (200, 200), interpolation=cv2.INTER_AREA)
        found_HW = cv2.resize(saliency(image_HW3), (200, 200), interpolation=cv2.INTER_AREA)
        kept_HW3 = np.where(found_HW[..., None] > 0.5, small_HW3, small_HW3 // 6 + [60, 0, 60])
        columns.append(np.vstack([small_HW3, kept_HW3, np.dstack([found_HW * 255] * 3)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.hstack(columns).astype(np.uint8)[..., ::-1])


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
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="real pictures")
    parser.add_argument("--pictures", type=Path, help="write sheets to look at here")
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
            fresh = u2netp()
            fresh.load_state_dict(averaged.state_dict())
            export_onnx(fresh, file, inner=INNER)

        train(
            u2netp(), batches_of(folders, args.seed), loss, args.steps, args.folder, rate=args.rate,
            minutes=args.minutes, seed=args.seed, average=0.998, warm_up=60,
            save_minutes=4, on_save=export,
        )  # fmt: skip
    measure(file, args.shared, args.pictures)


if __name__ == "__main__":
    main()

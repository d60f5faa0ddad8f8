"""How well the small LaMa fills, against OpenCV, on examples it never saw; the table of its card.

    python -m pretraining.inpainting --evaluate --data build/ahead [--sheets build/sheets]

Three sorts of holes: *removal*, a rendered object dilated, truth is the picture without it; *cut*,
an outline of another example over a rendered picture; *real*, the same over good pictures of the
MVTec categories beside the checkout, which serve for measuring only. Feature distance is the mean
squared distance of channel-normalised features of three stages of an ImageNet ResNet-18, the idea
of LPIPS (Zhang et al., CVPR 2018) without its learned weights; it needs the same data folder.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.devices import Compute, one_thread
from pipeline.inpaint import Inpainter, OpenCvInpainter
from pipeline.lama import TorchScriptLama
from pretraining.inpainting_holes import HELD_OUT, HoleMaker, RenderedScenes, removal_pair
from pretraining.textures import photographs

RESNET = Path(__file__).resolve().parents[2] / "shared/weights/resnet18_layers1-3.safetensors"
REAL = Path(__file__).resolve().parents[2] / "shared/data/mvtec_ad"
REAL_PER_CATEGORY = 12
SEED = 90_000


def evaluate(path: Path, data: Path, sheets: Path | None = None) -> dict[str, dict[str, float]]:
    """Print and return PSNR in the hole (dB) and feature distance, per sort and inpainter."""
    one_thread()
    fills: dict[str, Inpainter] = {
        "small LaMa": TorchScriptLama(path, Compute(torch.device("cpu"), torch.float32)),
        "Telea": OpenCvInpainter("telea"),
        "Navier-Stokes": OpenCvInpainter("ns"),
    }
    distance = feature_distance(RESNET) if RESNET.is_file() else None
    scenes = RenderedScenes.open(data)
    table: dict[str, dict[str, float]] = {}
    print("| holes | inpainter | PSNR in the hole, dB | feature distance |\n|---|---|---|---|")
    sorts = {"removal": _removals(scenes), "cut": _cuts(scenes), "real": _real(scenes)}
    for sort, examples in sorts.items():
        if not examples:
            print(f"| {sort} | none: {REAL} is absent | | |")
            continue
        tiles = []
        psnr: dict[str, list[float]] = {name: [] for name in fills}
        far: dict[str, list[float]] = {name: [] for name in fills}
        for image_HW3, hole_HW, truth_HW3 in examples:
            row = [np.where(hole_HW[..., None], 255, image_HW3).astype(np.uint8)]
            for name, fill in fills.items():
                filled_HW3 = np.where(hole_HW[..., None], fill(image_HW3, hole_HW), image_HW3)
                error = (filled_HW3.astype(float) - truth_HW3)[hole_HW]
                psnr[name].append(10 * np.log10(255**2 / max(float((error**2).mean()), 1e-3)))
                # The surroundings count as the truth has them, so that only the fill differs.
                fair_HW3 = np.where(hole_HW[..., None], filled_HW3, truth_HW3)
                far[name].append(distance(fair_HW3, truth_HW3) if distance else float("nan"))
                row.append(filled_HW3)
            tiles.append(np.hstack([*row, truth_HW3]))
        for name in fills:
            table[f"{sort}, {name}"] = {
                "psnr": float(np.mean(psnr[name])),
                "features": float(np.mean(far[name])),
            }
            found = table[f"{sort}, {name}"]
            line = f"| {sort} | {name} | {found['psnr']:.2f} | {found['features']:.4f} |"
            print(line, flush=True)
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            picture = np.vstack(tiles[:: max(1, len(tiles) // 10)][:10]).astype(np.uint8)
            cv2.imwrite(str(sheets / f"{sort}.png"), picture[..., ::-1])
    return table


def _removals(scenes: RenderedScenes) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(SEED)
    found = []
    for index in range(len(scenes.images) - HELD_OUT, len(scenes.images)):
        if scenes.removed[index]:
            hole = removal_pair(scenes, index, rng)
            if 0.002 < hole.hole_HW.mean() < 0.3:
                found.append((hole.image_HW3, hole.hole_HW, hole.truth_HW3))
    return found


def _cuts(scenes: RenderedScenes) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(SEED)
    maker = HoleMaker(scenes, photographs())
    found = []
    for index in range(len(scenes.images) - HELD_OUT, len(scenes.images)):
        picture_HW3 = np.asarray(scenes.without[index])
        found.append((picture_HW3, maker.shape(rng, picture_HW3.shape[0]), picture_HW3))
    return found


def _real(scenes: RenderedScenes) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(SEED)
    maker = HoleMaker(scenes, [])
    found = []
    for category in sorted(REAL.glob("*/train/good")):
        for path in sorted(category.glob("*.png"))[:REAL_PER_CATEGORY]:
            picture_HW3 = np.asarray(Image.open(path).convert("RGB"))
            picture_HW3 = cv2.resize(picture_HW3, (256, 256), interpolation=cv2.INTER_AREA)
            found.append((picture_HW3, maker.shape(rng, 256), picture_HW3))
    return found


def feature_distance(weights: Path) -> Callable[[np.ndarray, np.ndarray], float]:
    """Distance of two RGB uint8 pictures in the features of a ResNet-18 up to its third stage."""
    from safetensors.torch import load_file
    from torchvision.models import resnet18

    network = resnet18(weights=None).eval()
    state = {name: value.float() for name, value in load_file(weights).items()}
    network.load_state_dict(state, strict=False)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    @torch.inference_mode()
    def features(picture_HW3: np.ndarray) -> list[Tensor]:
        x = torch.from_numpy(np.ascontiguousarray(picture_HW3)).permute(2, 0, 1).float() / 255
        x = ((x - mean) / deviation)[None]
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        found = []
        for stage in (network.layer1, network.layer2, network.layer3):
            x = stage(x)
            found.append(torch.nn.functional.normalize(x, dim=1))
        return found

    def distance(one_HW3: np.ndarray, other_HW3: np.ndarray) -> float:
        pairs = zip(features(one_HW3), features(other_HW3), strict=True)
        return float(sum((a - b).pow(2).sum(1).mean() for a, b in pairs))

    return distance

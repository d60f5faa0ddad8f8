"""How well the small LaMa fills, against OpenCV, on examples it never saw; the table of its card.

Three sorts of holes: *removal*, a rendered object dilated, truth is the picture without it; *cut*,
an outline of another example or a drawn shape over a rendered picture; *real*, the same over good
pictures of the MVTec categories beside the checkout, which serve for measuring only. Four measures:

- PSNR in the hole, dB, mean over holes; higher is better.
- Feature distance: squared distance of channel-normalised features of three stages of an ImageNet
  ResNet-18, the idea of LPIPS (Zhang et al., CVPR 2018) without its learned weights. The training
  loss uses the same network, so this number alone would flatter; needs `../shared`.
- Texture error, which no loss looks at: |log2| of the mean gradient in the fill over that in the
  truth. 0 is as busy as the truth, 1 is half or twice as busy.
- Residue: how easily a linear probe tells hole from ring, see `inpainting_residue.py`.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from pipeline.models.device import Compute, one_thread
from pipeline.models.inpaint.base import Inpainter, OpenCvInpainter
from pipeline.models.inpaint.lama import TorchScriptLama
from pretraining.data.examples import held_out
from pretraining.inpainting.holes import Hole, HoleMaker, as_set, removal_pair
from pretraining.inpainting.loss import RESNET, Features
from pretraining.inpainting.residue_probe import residue

REAL = Path(__file__).resolve().parents[3] / "shared/data/mvtec_ad"
REAL_PER_CATEGORY = 12
SCENES = 60
"""Held-out products, and as many pictures of clutter."""
SEED = 90_000
SIZE = 256


def evaluate(path: Path, sheets: Path | None = None) -> dict[str, dict[str, float]]:
    """Print and return the measures per sort of hole and inpainter."""
    one_thread()
    fills: dict[str, Inpainter] = {
        "small LaMa": TorchScriptLama(path, Compute(torch.device("cpu"), torch.float32)),
        "Telea": OpenCvInpainter("telea"),
        "Navier-Stokes": OpenCvInpainter("ns"),
    }
    features = Features() if RESNET.is_file() else None
    table: dict[str, dict[str, float]] = {}
    print("| holes | inpainter | PSNR, dB | feature distance | texture error | residue AUROC, raw "
          "| with grain |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for sort, examples in holes_to_judge().items():
        if not examples:
            print(f"| {sort} | none: {REAL} is absent | | | | | |")
            continue
        filled = {name: [painted(fill, e) for e in examples] for name, fill in fills.items()}
        for name, pictures in filled.items():
            found = measures(pictures, examples, features)
            raw, grained = residue(pictures, examples)
            found |= {"residue": raw.value, "residue with grain": grained.value}
            table[f"{sort}, {name}"] = found
            print(f"| {sort} | {name} | {found['psnr']:.2f} | {found['features']:.4f} | "
                  f"{found['texture']:.3f} | {raw} | {grained} |", flush=True)  # fmt: skip
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            contact_sheet(filled, examples, sheets / f"{sort}.png")
    return table


def painted(fill: Inpainter, example: Hole) -> np.ndarray:
    """The picture with its hole filled; nothing outside it changes."""
    filled_HW3 = fill(example.image_HW3, example.hole_HW)
    return np.where(example.hole_HW[..., None], filled_HW3, example.image_HW3)


def measures(
    pictures: list[np.ndarray], examples: list[Hole], features: Features | None
) -> dict[str, float]:
    """Means over all holes; `features` is NaN without a feature network."""
    found: dict[str, list[float]] = {"psnr": [], "features": [], "texture": []}
    for filled_HW3, example in zip(pictures, examples, strict=True):
        found["psnr"].append(psnr(filled_HW3, example))
        # The surroundings count as the truth has them, so that only the fill differs.
        fair_HW3 = np.where(example.hole_HW[..., None], filled_HW3, example.truth_HW3)
        far = float("nan")
        if features is not None:
            with torch.inference_mode():
                far = float(features.distance(as_tensor(fair_HW3), as_tensor(example.truth_HW3)))
        found["features"].append(far)
        found["texture"].append(texture_error(fair_HW3, example.truth_HW3, example.hole_HW))
    return {name: float(np.mean(values)) for name, values in found.items()}


def psnr(filled_HW3: np.ndarray, example: Hole) -> float:
    """Peak signal to noise ratio of the pixels in the hole, dB."""
    error = (filled_HW3.astype(np.float64) - example.truth_HW3)[example.hole_HW]
    return float(10 * np.log10(255**2 / max((error**2).mean(), 1e-3)))


def texture_error(one_HW3: np.ndarray, other_HW3: np.ndarray, hole_HW: np.ndarray) -> float:
    """|log2| of the ratio of mean gradient magnitudes in the hole, with a grey level to spare."""
    inside_HW = cv2.erode(hole_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    inside_HW = inside_HW if inside_HW.any() else hole_HW
    levels = []
    for picture_HW3 in (one_HW3, other_HW3):
        grey_HW = picture_HW3.astype(np.float32).mean(2)
        dy, dx = np.gradient(cv2.GaussianBlur(grey_HW, (0, 0), 1.0))
        levels.append(float(np.hypot(dy, dx)[inside_HW].mean()) + 1.0)
    return float(abs(np.log2(levels[0] / levels[1])))


def as_tensor(picture_HW3: np.ndarray) -> torch.Tensor:
    """uint8 HWC to a batch of one, float32 in [0, 1]."""
    return torch.from_numpy(picture_HW3.copy()).permute(2, 0, 1)[None].float() / 255


def holes_to_judge() -> dict[str, list[Hole]]:
    """The holes by sort; *real* is empty where the MVTec folder is absent."""
    sets = [as_set(held_out(SCENES, scenes=share, size=SIZE)) for share in (1.0, 0.0)]
    maker, rng = HoleMaker(sets), np.random.default_rng(SEED)
    removals, cuts = [], []
    for scenes in sets:
        for index in np.flatnonzero(scenes["removed"]):
            pair = removal_pair(scenes, int(index), rng)
            if 0.002 < pair.hole_HW.mean() < 0.3:
                removals.append(pair)
        cuts += [cut(np.asarray(picture), maker, rng) for picture in scenes["without"]]
    files = [
        path
        for category in sorted(REAL.glob("*/train/good"))
        for path in sorted(category.glob("*.png"))[:REAL_PER_CATEGORY]
    ]
    real = [cut(shrunk(path), maker, rng) for path in files]
    return {"removal": removals, "cut": cuts, "real": real}


def cut(picture_HW3: np.ndarray, maker: HoleMaker, rng: np.random.Generator) -> Hole:
    """A picture with an object-shaped or drawn hole; truth is the picture itself."""
    return Hole(picture_HW3, maker.shape(rng, picture_HW3.shape[0]), picture_HW3)


def shrunk(path: Path) -> np.ndarray:
    """A picture file as SIZE x SIZE RGB."""
    picture_HW3 = np.asarray(Image.open(path).convert("RGB"))
    return cv2.resize(picture_HW3, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def contact_sheet(
    filled: dict[str, list[np.ndarray]], examples: list[Hole], path: Path, rows: int = 10
) -> None:
    """Rows of: the hole in white, every inpainter in order, the truth."""
    lines = []
    for index in np.linspace(0, len(examples) - 1, min(rows, len(examples))).astype(int):
        e = examples[index]
        holed_HW3 = np.where(e.hole_HW[..., None], 255, e.image_HW3).astype(np.uint8)
        row = [pictures[index] for pictures in filled.values()]
        lines.append(np.hstack([holed_HW3, *row, e.truth_HW3]))
    cv2.imwrite(str(path), np.vstack(lines)[..., ::-1])

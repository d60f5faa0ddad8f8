"""Quality of the small LaMa against OpenCV on held-out examples: the table of its card.

Three sorts of holes: *removal*, a dilated rendered object, truth is the image without it; *cut*,
an outline of another example or a drawn shape over a rendered image; *real*, the same over good
images of the MVTec categories beside the checkout, used for evaluation only. Four measures:

- PSNR in the hole, dB, mean over holes; higher is better.
- Feature distance: squared distance of channel-normalised features of three stages of an ImageNet
  ResNet-18, the idea of LPIPS (Zhang et al., CVPR 2018) without its learned weights. The training
  loss uses the same network, so this number alone would flatter; needs `../shared`.
- Texture error, which is in no loss: |log2| of the mean gradient in the fill over that in the
  truth. 0 is as textured as the truth, 1 is half or twice as textured.
- Trace: how well a linear probe separates hole from ring, see `residue_probe.py`.

Shapes: H, W image; 3 colour (RGB, uint8).
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
from pretraining.inpainting.residue_probe import trace_aurocs

REAL = Path(__file__).resolve().parents[3] / "shared/data/mvtec_ad"
# Images of each real category.
REAL_PER_CATEGORY = 12
# Number of held-out products, and of images of clutter.
SCENES = 60
SEED = 90_000
SIZE = 256


def evaluate(path: Path, sheets: Path | None = None) -> dict[str, dict[str, float]]:
    """Print and return the measures per sort of hole and inpainter; write contact sheets to
    `sheets`.
    """
    one_thread()
    # The classical inpainters of OpenCV are the baselines.
    fills: dict[str, Inpainter] = {
        "small LaMa": TorchScriptLama(path, Compute(torch.device("cpu"), torch.float32)),
        "Telea": OpenCvInpainter("telea"),
        "Navier-Stokes": OpenCvInpainter("ns"),
    }
    features = Features() if RESNET.is_file() else None
    table: dict[str, dict[str, float]] = {}
    print("| holes | inpainter | PSNR, dB | feature distance | texture error | trace AUROC, raw "
          "| with noise |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for sort, examples in held_out_holes().items():
        if not examples:
            print(f"| {sort} | none: {REAL} is absent | | | | | |")
            continue
        filled = {name: [inpainted(fill, e) for e in examples] for name, fill in fills.items()}
        for name, images in filled.items():
            found = measures(images, examples, features)
            raw, noisy = trace_aurocs(images, examples)
            found |= {"trace": raw.value, "trace with noise": noisy.value}
            table[f"{sort}, {name}"] = found
            print(f"| {sort} | {name} | {found['psnr']:.2f} | {found['features']:.4f} | "
                  f"{found['texture']:.3f} | {raw} | {noisy} |", flush=True)  # fmt: skip
        # Columns of a sheet: the hole, the inpainters in this order, the truth.
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            contact_sheet(filled, examples, sheets / f"{sort}.png")
    return table


def inpainted(fill: Inpainter, example: Hole) -> np.ndarray:
    """The image with its hole filled; pixels outside the hole are unchanged."""
    filled_HW3 = fill(example.image_HW3, example.hole_HW)
    return np.where(example.hole_HW[..., None], filled_HW3, example.image_HW3)


def measures(
    images: list[np.ndarray], examples: list[Hole], features: Features | None
) -> dict[str, float]:
    """Means over all holes; `features` is NaN without a feature network."""
    found: dict[str, list[float]] = {"psnr": [], "features": [], "texture": []}
    for filled_HW3, example in zip(images, examples, strict=True):
        found["psnr"].append(psnr(filled_HW3, example))
        # Outside the hole take the truth, so that features differ because of the fill alone.
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
    # In the hole only: the rest is equal and would flatter.
    error = (filled_HW3.astype(np.float64) - example.truth_HW3)[example.hole_HW]
    return float(10 * np.log10(255**2 / max((error**2).mean(), 1e-3)))


def texture_error(one_HW3: np.ndarray, other_HW3: np.ndarray, hole_HW: np.ndarray) -> float:
    """|log2| of the ratio of the mean gradient magnitudes in the hole (see the module)."""
    # Away from the rim, where the gradient is that of the transition.
    inside_HW = cv2.erode(hole_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    inside_HW = inside_HW if inside_HW.any() else hole_HW
    levels = []
    for image_HW3 in (one_HW3, other_HW3):
        grey_HW = image_HW3.astype(np.float32).mean(2)
        dy, dx = np.gradient(cv2.GaussianBlur(grey_HW, (0, 0), 1.0))
        # One grey level is added, so that flat regions do not give huge ratios.
        levels.append(float(np.hypot(dy, dx)[inside_HW].mean()) + 1.0)
    return float(abs(np.log2(levels[0] / levels[1])))


def as_tensor(image_HW3: np.ndarray) -> torch.Tensor:
    """uint8 HWC to a batch of one, float32 in [0, 1]."""
    return torch.from_numpy(image_HW3.copy()).permute(2, 0, 1)[None].float() / 255


def held_out_holes() -> dict[str, list[Hole]]:
    """Holes by sort; *real* is empty where the MVTec folder is absent."""
    sets = [as_set(held_out(SCENES, scenes=share, size=SIZE)) for share in (1.0, 0.0)]
    maker, rng = HoleMaker(sets), np.random.default_rng(SEED)
    removals, cuts = [], []
    for scenes in sets:
        for index in np.flatnonzero(scenes["removed"]):
            pair = removal_pair(scenes, int(index), rng)
            # Leave out specks, and objects that fill the image.
            if 0.002 < pair.hole_HW.mean() < 0.3:
                removals.append(pair)
        cuts += [cut(np.asarray(image), maker, rng) for image in scenes["without"]]
    files = [
        path
        for category in sorted(REAL.glob("*/train/good"))
        for path in sorted(category.glob("*.png"))[:REAL_PER_CATEGORY]
    ]
    real = [cut(shrunk(path), maker, rng) for path in files]
    return {"removal": removals, "cut": cuts, "real": real}


def cut(image_HW3: np.ndarray, maker: HoleMaker, rng: np.random.Generator) -> Hole:
    """An image with an object-shaped or drawn hole; truth is the image itself."""
    return Hole(image_HW3, maker.shape(rng, image_HW3.shape[0]), image_HW3)


def shrunk(path: Path) -> np.ndarray:
    """An image file as SIZE x SIZE RGB."""
    image_HW3 = np.asarray(Image.open(path).convert("RGB"))
    return cv2.resize(image_HW3, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def contact_sheet(
    filled: dict[str, list[np.ndarray]], examples: list[Hole], path: Path, rows: int = 10
) -> None:
    """Rows of: the hole in white, every inpainter in order, the truth."""
    lines = []
    # Examples spread evenly over all of them.
    for index in np.linspace(0, len(examples) - 1, min(rows, len(examples))).astype(int):
        e = examples[index]
        holed_HW3 = np.where(e.hole_HW[..., None], 255, e.image_HW3).astype(np.uint8)
        row = [images[index] for images in filled.values()]
        lines.append(np.hstack([holed_HW3, *row, e.truth_HW3]))
    cv2.imwrite(str(path), np.vstack(lines)[..., ::-1])

"""Do a network's features tell real defects from good products? A nearest-neighbour patch score.

    python -m pretraining.patch_score                    # bottle and hazelnut_reduced, the table
    python -m pretraining.patch_score --category bottle --json

After PatchCore (Roth et al., CVPR 2022), simplified: every cell of layer2 is described by 3x3
averages of layer2 and of layer3 at its place, each level divided by its root mean square over the
bank so that neither drowns the other; the bank is a random subset of the cells of the good
training pictures; a picture's score is the largest distance of its cells to their nearest bank
entry. There is nothing to tune, and test pictures only get scored. An untrained slim trunk is the
floor.

Shapes: B batch; H, W picture (S, S); 3 colour (RGB, uint8); h, w cells of layer2; C channels of
both levels; N bank entries; P cells of one picture.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from detectors.backbones import Trunk, normalise, resnet18_trunk, small_teacher
from pipeline.devices import choose
from pipeline.images import load_image
from pipeline.records import GOOD
from pipeline.sources import load_test, read_source

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "small_teacher.safetensors"
CATEGORIES = ("bottle", "hazelnut_reduced")
BATCH = 8
LINE = (
    "{category}: {train} good for the bank; tested on {good} good, {defective} defective\n"
    "  image AUROC: ResNet-18 {resnet18:.4f}, small {small:.4f}, untrained {untrained:.4f}; "
    "ratio {ratio:.3f}\n"
    "  pixel AUROC: ResNet-18 {resnet18_pixel:.4f}, small {small_pixel:.4f}, "
    "untrained {untrained_pixel:.4f}"
)


@dataclass(frozen=True, slots=True)
class PatchScore:
    """The bank of one category: `bank_NC`, scaled, and the scale of each channel."""

    trunk: Trunk
    bank_NC: Tensor
    scale_C: Tensor

    def score(self, image_HW3: np.ndarray) -> float:
        """The largest distance of any cell to its nearest neighbour in the bank."""
        return float(self.distances(image_HW3).max())

    @torch.inference_mode()
    def distances(self, image_HW3: np.ndarray) -> Tensor:
        """(P,) float32, row by row over the square grid of layer2."""
        cells_PC = describe(self.trunk, image_HW3[None]) / self.scale_C
        return torch.cdist(cells_PC, self.bank_NC).amin(1)


@torch.inference_mode()
def describe(trunk: Trunk, images_BHW3: np.ndarray) -> Tensor:
    """(B * h * w, C) float32: one row per cell of layer2, pictures one after the other."""
    device = trunk.conv1.weight.device
    images_B3HW = torch.from_numpy(np.ascontiguousarray(images_BHW3)).to(device).permute(0, 3, 1, 2)
    _, middle, coarse = (F.avg_pool2d(level, 3, 1, 1) for level in trunk(normalise(images_B3HW)))
    coarse = F.interpolate(coarse, middle.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat((middle, coarse), 1).permute(0, 2, 3, 1).flatten(0, 2)


def enlarge(cells_P: Tensor, size: int) -> np.ndarray:
    """The distances of the cells of a square picture as its map, (S, S) float32."""
    side = round(len(cells_P) ** 0.5)
    map_11HW = F.interpolate(
        cells_P.view(1, 1, side, side), (size, size), mode="bilinear", align_corners=False
    )
    return np.asarray(map_11HW[0, 0].cpu(), np.float32)


def fit(trunk: Trunk, images: list[np.ndarray], bank: int, seed: int) -> PatchScore:
    """Collect `bank` cells of good pictures (all equal in size), drawn once over all of them."""
    cells = len(describe(trunk, images[0][None]))
    rng = np.random.default_rng(seed)
    total = cells * len(images)
    chosen = np.sort(rng.choice(total, min(bank, total), replace=False))
    kept = []
    for at in range(0, len(images), BATCH):
        first, last = np.searchsorted(chosen, (at * cells, (at + BATCH) * cells))
        described_PC = describe(trunk, np.stack(images[at : at + BATCH]))
        kept.append(described_PC[chosen[first:last] - at * cells])
    bank_NC = torch.cat(kept)
    middle, coarse = trunk.channels[1:]
    sizes = [bank_NC[:, :middle].square().sum(1), bank_NC[:, middle:].square().sum(1)]
    middle_scale, coarse_scale = (float(size.mean().sqrt()) for size in sizes)
    scale_C = torch.tensor([middle_scale] * middle + [coarse_scale] * coarse)
    scale_C = scale_C.to(bank_NC.device)
    return PatchScore(trunk, bank_NC / scale_C, scale_C)


def separation(trunk: Trunk, root: Path, size: int, bank: int, seed: int) -> dict[str, float]:
    """Fit on train/good of one MVTec AD folder; image and pixel AUROC of its test pictures."""
    entries = read_source("mvtec_ad", root, root.name).entries
    train = [load_image(e.path, (size, size)) for e in entries if e.split == "train"]
    fitted = fit(trunk, train, bank, seed)
    test = [entry for entry in entries if entry.split == "test"]
    images = [load_test(entry, (size, size)) for entry in test]
    cells = [fitted.distances(image.pixels_HW3) for image in images]
    scores = [float(cells_P.max()) for cells_P in cells]
    maps_NHW = np.stack([enlarge(cells_P, size) for cells_P in cells])
    truth_NHW = np.stack([image.masks_KHW.any(0) for image in images])
    defective = [entry.defect != GOOD for entry in test]
    return {
        "auroc": float(roc_auc_score(defective, scores)),
        "pixel": float(roc_auc_score(truth_NHW.ravel(), maps_NHW.ravel())),
        "train": len(train), "good": defective.count(False), "defective": defective.count(True),
    }  # fmt: skip


def rows(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """One row per category: the AUROC of each network, and the ratio that the card states."""
    device = choose("auto", "fp32").device
    torch.manual_seed(args.seed)
    networks = {
        "resnet18": resnet18_trunk(args.shared / "weights" / "resnet18_layers1-3.safetensors"),
        "small": small_teacher(args.small),
        "untrained": small_teacher(),
    }
    for category in args.category or CATEGORIES:
        root = args.shared / "data" / "mvtec_ad" / category
        found = {
            name: separation(trunk.to(device), root, args.size, args.bank, args.seed)
            for name, trunk in networks.items()
        }
        aurocs = {name: result.pop("auroc") for name, result in found.items()}
        pixels = {f"{name}_pixel": result.pop("pixel") for name, result in found.items()}
        yield {
            "category": category, **found["small"], **aurocs, **pixels,
            "ratio": aurocs["small"] / aurocs["resnet18"],
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="data and ResNet-18")
    parser.add_argument("--small", type=Path, default=WEIGHTS, help="the small teacher's file")
    parser.add_argument("--category", action="append", help="a folder of data/mvtec_ad")
    parser.add_argument("--size", type=int, default=256, help="pixels; pictures become squares")
    parser.add_argument("--bank", type=int, default=10_000, help="cells in the bank")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = []
    for row in rows(args):
        table.append(row)
        if not args.json:
            print(LINE.format(**row), flush=True)
    if args.json:
        print(json.dumps({"seed": args.seed, "bank": args.bank, "size": args.size, "rows": table}))


if __name__ == "__main__":
    main()

"""Do a network's features separate real defects from good products? A nearest-neighbour score.

    python -m pretraining.patch_score                    # bottle and hazelnut_reduced, the table
    python -m pretraining.patch_score --category bottle --json

`detectors/models/nearest` with its random bank, on each network, over one folder of MVTec AD.
There is nothing to tune, and test images are only scored. An untrained slim trunk is the lower
baseline. Shapes: N images; K regions of ground truth; H, W image; 3 colour (RGB, uint8).
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from detectors.base import Batch
from detectors.models.nearest.model import Nearest, NearestSettings
from pipeline.imaging.decode import load_image
from pipeline.models.backbone import Trunk, resnet18_trunk, small_teacher
from pipeline.models.device import choose
from pipeline.records import GOOD
from pipeline.sources.ground_truth import load_test
from pipeline.sources.listing import read_source

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "small_teacher.safetensors"
# Categories that have real defects beside the checkout; transistor_reduced is available by option.
CATEGORIES = ("bottle", "hazelnut_reduced")
BATCH = 8
# One category of the printed table.
LINE = (
    "{category}: {train} good for the bank; tested on {good} good, {defective} defective\n"
    "  image AUROC: ResNet-18 {resnet18:.4f}, small {small:.4f}, untrained {untrained:.4f}; "
    "ratio {ratio:.3f}\n"
    "  pixel AUROC: ResNet-18 {resnet18_pixel:.4f}, small {small_pixel:.4f}, "
    "untrained {untrained_pixel:.4f}"
)


def separation(trunk: Trunk, root: Path, size: int, bank: int, seed: int) -> dict[str, float]:
    """Fit on train/good of one MVTec AD folder; image and pixel AUROC of its test images.

    `bank` is the number of cells in the memory bank, `size` the side of the square images.
    """
    entries = read_source("mvtec_ad", root, root.name).entries
    train = [load_image(e.path, (size, size)) for e in entries if e.split == "train"]
    detector = Nearest(NearestSettings(size=size, bank=bank, seed=seed), trunk)
    device = trunk.conv1.weight.device
    # Channels-last is the faster memory layout for the trunk's convolutions.
    detector.to(device).to(memory_format=torch.channels_last)
    detector.prepare(batches(train, device))
    test = [entry for entry in entries if entry.split == "test"]
    images = [load_test(entry, (size, size)) for entry in test]
    with torch.inference_mode():
        found = [detector(b["image"]) for b in batches([i.pixels_HW3 for i in images], device)]
    scores = torch.cat([part.image_B for part in found]).cpu().numpy()
    maps_NHW = torch.cat([part.maps_BHW for part in found]).cpu().numpy()
    # Any region of any defect counts as defective for the pixel AUROC.
    truth_NHW = np.stack([image.masks_KHW.any(0) for image in images])
    defective = [entry.defect != GOOD for entry in test]
    return {
        "auroc": float(roc_auc_score(defective, scores)),
        "pixel": float(roc_auc_score(truth_NHW.ravel(), maps_NHW.ravel())),
        "train": len(train), "good": defective.count(False), "defective": defective.count(True),
    }  # fmt: skip


def batches(images: Sequence[np.ndarray], device: torch.device) -> list[Batch]:
    """Images (H, W, 3) uint8 of one size as batches in the form that detectors take, in order."""
    made = []
    for at in range(0, len(images), BATCH):
        stacked_BHW3 = np.stack(images[at : at + BATCH])
        made.append({"image": torch.from_numpy(stacked_BHW3).to(device).permute(0, 3, 1, 2)})
    return made


def rows(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """One row per category: the AUROC of each network, and the ratio that the card reports."""
    # fp32: reduced precision would blur small differences between the networks.
    device = choose("auto", "fp32").device
    # Seeds the untrained trunk; the random bank has a seed of its own.
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
        # Counts are the same for every network; only the AUROCs differ.
        aurocs = {name: result.pop("auroc") for name, result in found.items()}
        pixels = {f"{name}_pixel": result.pop("pixel") for name, result in found.items()}
        yield {
            "category": category, **found["small"], **aurocs, **pixels,
            # The aim of the small teacher's card is stated as this ratio.
            "ratio": aurocs["small"] / aurocs["resnet18"],
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="data and ResNet-18")
    parser.add_argument("--small", type=Path, default=WEIGHTS, help="the small teacher's file")
    parser.add_argument("--category", action="append", help="a folder of data/mvtec_ad")
    parser.add_argument("--size", type=int, default=256, help="side of the square images, pixels")
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

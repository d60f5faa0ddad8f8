"""Which U²-Net is right where: official, bundled, and `auto`, with and without post-processing.

    python -m benchmarks.generation.foreground_choice [--scenes N] [--photographs FOLDER]

Drawn scenes that no model was trained on have exact masks. The reference photographs come with the
published masks of the large U²-Net (FOLDER/u2net_reference). The product photographs
(FOLDER/mvtec_ad, FOLDER/screws4) have none, so only the choices are counted there. Without FOLDER
those rows are left out. A second table has other limits of the post-processing.
Shapes: H, W image; 3 colour (RGB).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.generation.foreground import PRODUCTS, overlap
from pipeline.imaging.decode import load_image
from pipeline.models import device as devices
from pipeline.models.build import FOREGROUND
from pipeline.models.foreground import (
    CLEAR,
    MAX_HOLE,
    MIN_COMPONENT,
    THRESHOLD,
    ClearerForeground,
    Saliency,
    U2NetForeground,
    ambiguity,
    tidied,
)
from pipeline.models.weights import store as weights
from pipeline.utils.text_table import table
from scenes.render import render

# The scenes of the published comparison, and others on which nothing was chosen.
SEEDS = {"drawn, 256 px": 80_000_000, "drawn, other seeds": 81_000_000}
# Photographs of products, at most this many of each.
PRODUCT_IMAGES = 30
FOLDERS = (
    "mvtec_ad/bottle/train", "mvtec_ad/hazelnut_reduced/train", "mvtec_ad/transistor_reduced/train",
    "screws4",
)  # fmt: skip
# Other limits of the post-processing, shares of the foreground: for holes, for components.
LIMITS = (
    (0.0, 0.0), (MAX_HOLE, 0.0), (0.0, MIN_COMPONENT), (MAX_HOLE, MIN_COMPONENT),
    (0.02, MIN_COMPONENT), (1.0, MIN_COMPONENT), (MAX_HOLE, 0.05),
)  # fmt: skip
# A mask that shares less than this with the true one has lost the product.
LOST = 0.5


class Remembered(U2NetForeground):
    """A network that runs once for the image it is asked about several times in a row."""

    _last: tuple[np.ndarray, Saliency] | None = None

    def saliency(self, image_HW3: np.ndarray) -> Saliency:
        if self._last is None or self._last[0] is not image_HW3:
            self._last = image_HW3, super().saliency(image_HW3)
        return self._last[1]


class Row:
    """IoUs of four masks of each image of one set, and how often the second network was asked."""

    def __init__(self, name: str) -> None:
        self.name, self.images, self.asked, self.bundled = name, 0, 0, 0
        self.ious: dict[str, list[float]] = {}

    def cells(self) -> tuple[str, ...]:
        """Mean IoU of each mask with the number of lost products, or `-` without true masks."""
        scores = [
            f"{np.mean(ious):.4f} ({sum(iou < LOST for iou in ious)})" if ious else "-"
            for ious in (self.ious.get(kind, []) for kind in ("plain", "u2netp", "bundled", "auto"))
        ]
        return (self.name, str(self.images), *scores, str(self.asked), str(self.bundled))


def measure(
    name: str,
    images: Iterator[tuple[np.ndarray, np.ndarray | None]],
    first: U2NetForeground,
    second: U2NetForeground,
) -> Row:
    """All images of a set, (H, W, 3) RGB uint8 with their true mask or None."""
    row, auto = Row(name), ClearerForeground(first, second)
    for image_HW3, true_HW in images:
        found = auto(image_HW3)
        saliency = first.saliency(image_HW3)
        row.images += 1
        row.asked += ambiguity(saliency) > CLEAR
        row.bundled += found.backend == second.backend
        if true_HW is not None:
            masks = {
                # Without filling holes and dropping components.
                "plain": saliency.map_HW > 255 * THRESHOLD,
                "u2netp": first(image_HW3).mask_HW,
                "bundled": second(image_HW3).mask_HW,
                "auto": found.mask_HW,
            }
            for kind, mask_HW in masks.items():
                row.ious.setdefault(kind, []).append(overlap(mask_HW, true_HW))
    return row


def drawn(first_seed: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`count` scenes of each product with their exact product masks."""
    for seed in range(first_seed, first_seed + count):
        for product in PRODUCTS:
            scene = render(product, seed, size=256)
            yield scene.image_HW3, scene.product_HW


def reference(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The photographs of U²-Net's authors with the masks that they published for the large net."""
    for path in sorted((folder / "images").iterdir()):
        published_HW3 = load_image(folder / "u2net_results" / f"{path.stem}.png")
        yield load_image(path), published_HW3[..., 0] > 127


def products(folder: Path) -> Iterator[tuple[np.ndarray, None]]:
    """Photographs of one product at 256 px; nobody drew their masks."""
    files = sorted(path for path in folder.rglob("*.*") if path.suffix in (".png", ".webp"))
    for path in files[:PRODUCT_IMAGES]:
        yield cv2.resize(load_image(path), (256, 256), interpolation=cv2.INTER_AREA), None


def main() -> None:
    """Print one row per set of images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=10, help="scenes of each product and seed")
    parser.add_argument("--photographs", type=Path, help="folder with the sets named above")
    args = parser.parse_args()
    devices.one_thread()
    first, second = (
        Remembered(weights.require(FOREGROUND[name]), backend=name)
        for name in ("u2netp", "bundled")
    )
    sets: list[tuple[str, Iterator[tuple[np.ndarray, np.ndarray | None]]]] = [
        (name, drawn(seed, args.scenes)) for name, seed in SEEDS.items()
    ]
    if args.photographs:
        sets.append(("reference photographs", reference(args.photographs / "u2net_reference")))
        sets += [(name, products(args.photographs / name)) for name in FOLDERS]
    head = (
        "images", "n", "u2netp, no post-processing", "u2netp", "bundled", "auto", "asked",
        "bundled taken",
    )  # fmt: skip
    rows = [measure(name, images, first, second).cells() for name, images in sets]
    print(table(head, rows, "<>>>>>>>"))
    if args.photographs:
        pairs = list(reference(args.photographs / "u2net_reference"))
        masks = [(first.saliency(image).map_HW > 255 * THRESHOLD, true) for image, true in pairs]
        rows = []
        for hole, component in LIMITS:
            ious = [overlap(tidied(mask, hole, component), true) for mask, true in masks]
            rows.append((f"{hole:g}", f"{component:g}", f"{np.mean(ious):.4f}"))
        print("\nu2netp on the reference photographs")
        print(table(("holes filled below", "components dropped below", "mean IoU"), rows, "<<>"))


if __name__ == "__main__":
    main()

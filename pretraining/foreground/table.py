"""Quality of the bundled U²-Net-p on held-out images: the table of `weights/u2netp.md`.

python -m pretraining.foreground --measure-only

Shapes: H, W image; 3 colour (RGB, uint8).
"""

from pipeline import environment as _environment  # noqa: F401  isort: skip  first: no telemetry

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from pretraining.data.examples import held_out
from pretraining.data.textures import read_image
from pretraining.quality import Measure, overlap

MODEL = "U²-Net-p"

# An image (H, W, 3) uint8 to its saliency (H, W), float32 from 0 to 1.
Saliency = Callable[[np.ndarray], np.ndarray]


def session(path: Path) -> Saliency:
    """The exported file run by rembg: image (H, W, 3) uint8 to saliency stretched to 0-1."""
    # rembg looks for model files there and would otherwise download its own.
    os.environ["U2NET_HOME"] = str(path.resolve().parent)
    # Otherwise rembg's alpha matting is compiled at import, which takes seconds and is unused.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    from PIL import Image
    from rembg import new_session

    made = new_session("u2net_custom", ["CPUExecutionProvider"], model_path=str(path.resolve()))

    def saliency(image_HW3: np.ndarray) -> np.ndarray:
        return np.asarray(made.predict(Image.fromarray(image_HW3))[0], np.float32) / 255

    return saliency


def otsu(value_HW: np.ndarray, hull: bool = False) -> np.ndarray:
    """The largest region above Otsu's threshold, filled, or its convex hull; (H, W) bool."""
    _, mask_HW = cv2.threshold(value_HW, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(mask_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=cv2.contourArea)
    outline = cv2.convexHull(largest) if hull else largest
    filled_HW = cv2.drawContours(np.zeros_like(mask_HW), [outline], -1, 1, cv2.FILLED)
    return np.asarray(filled_HW).astype(bool)


def brightness(image_HW3: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image_HW3.max(2), (0, 0), 1.5)


def colourfulness(image_HW3: np.ndarray) -> np.ndarray:
    """Distance of a pixel's hue from that of the image border, (H, W) uint8.

    Unlike brightness it finds the shaded side of a nut, which is still brown.
    """
    lab_HW3 = cv2.cvtColor(cv2.GaussianBlur(image_HW3, (0, 0), 1.0), cv2.COLOR_RGB2LAB)
    hue_HW2 = lab_HW3[..., 1:].astype(np.float32)
    # Four rows and columns around the image show background only.
    border = np.concatenate([hue_HW2[:4].reshape(-1, 2), hue_HW2[-4:].reshape(-1, 2),
                             hue_HW2[:, :4].reshape(-1, 2),
                             hue_HW2[:, -4:].reshape(-1, 2)])  # fmt: skip
    away_HW = np.linalg.norm(hue_HW2 - np.median(border, 0), axis=2)
    # Scaled so that usual distances (up to 64) fill the range of uint8.
    return np.clip(4 * away_HW, 0, 255).astype(np.uint8)


def evaluate(path: Path, shared: Path = Path("../shared"), count: int = 200) -> list[Measure]:
    """All measures on `count` held-out scenes, and on the real images below `shared`, if any."""
    saliency = session(path)
    measures = []
    # Rendered scenes have exact masks; clutter has no aim, as it is harder than any product.
    for name, share, aim in (("product scenes", 1.0, 0.92), ("clutter", 0.0, None)):
        scores = [
            overlap(saliency(one.image_HW3) > 0.5, one.foreground_HW)
            for one in held_out(count, share, 320)
        ]
        measures += [
            Measure(MODEL, f"{name}, {count} held out: mean IoU", float(np.mean(scores)), aim),
            Measure(MODEL, f"{name}: 10th percentile", float(np.quantile(scores, 0.1))),
        ]
    if (shared / "data").is_dir():
        measures += _photographs(saliency, shared / "data" / "u2net_reference")
        measures += _nuts(saliency, shared / "data" / "mvtec_ad")
        measures += _bottles(saliency, shared / "data" / "mvtec_ad")
    return measures


def _photographs(saliency: Saliency, reference: Path) -> list[Measure]:
    # Everyday photographs have no ground truth: the masks of the full U²-Net serve as reference.
    files = sorted((reference / "images").glob("*"))
    scores = [
        overlap(
            saliency(read_image(file)) > 0.5,
            read_image(reference / "u2net_results" / f"{file.stem}.png")[..., 0] > 127,
        )
        for file in files
    ]
    what = f"{len(files)} photographs against the full U²-Net: mean IoU"
    return [Measure(MODEL, what, float(np.mean(scores)), 0.60)]


def _nuts(saliency: Saliency, mvtec: Path) -> list[Measure]:
    # No ground truth either: two classical masks serve as reference.
    nuts = [read_image(file) for file in sorted((mvtec / "hazelnut_reduced/train/good").glob("*"))]
    found = [saliency(nut) > 0.5 for nut in nuts]
    measures = []
    for name, truths in (
        ("hull of an Otsu mask of colour", [otsu(colourfulness(nut), hull=True) for nut in nuts]),
        ("Otsu mask of brightness", [otsu(brightness(nut)) for nut in nuts]),
    ):
        scores = [overlap(one, truth) for one, truth in zip(found, truths, strict=True)]
        what = f"{len(nuts)} hazelnuts against the {name}: mean IoU"
        measures.append(Measure(MODEL, what, float(np.mean(scores)), 0.90))
    return measures


def _bottles(saliency: Saliency, mvtec: Path) -> list[Measure]:
    files = sorted((mvtec / "bottle/train/good").glob("*"))
    # The mouth of a bottle fills a known disc; no part of it may be missed.
    lowest = min(disc_share(saliency(read_image(file)) > 0.5) for file in files)
    return [Measure(MODEL, f"{len(files)} bottles: lowest share of the disc found", lowest, 1.0)]


def disc_share(mask_HW: np.ndarray) -> float:
    """Share of a bottle mouth's disc (radius 0.43 of the width) that is foreground."""
    height, width = mask_HW.shape
    y, x = np.mgrid[0:height, 0:width]
    disc_HW = np.hypot(y - height / 2, x - width / 2) < 0.43 * width
    return float(mask_HW[disc_HW].mean())


def sheet(saliency: Saliency, images: list[np.ndarray], path: Path) -> None:
    """Write a contact sheet: image, image with darkened background, saliency, per column."""
    columns = []
    for image_HW3 in images:
        # Below: the image with its background dimmed and purple, then the saliency itself.
        small_HW3 = cv2.resize(image_HW3, (200, 200), interpolation=cv2.INTER_AREA)
        found_HW = cv2.resize(saliency(image_HW3), (200, 200), interpolation=cv2.INTER_AREA)
        kept_HW3 = np.where(found_HW[..., None] > 0.5, small_HW3, small_HW3 // 6 + [60, 0, 60])
        columns.append(np.vstack([small_HW3, kept_HW3, np.dstack([found_HW * 255] * 3)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.hstack(columns).astype(np.uint8)[..., ::-1])


def sheets(path: Path, shared: Path, folder: Path) -> None:
    """Contact sheets of the real images: products of three categories, and everyday photographs."""
    saliency = session(path)
    mvtec = shared / "data" / "mvtec_ad"
    groups = [
        # Five images, spread over the set.
        sorted((mvtec / f"{name}/train/good").glob("*"))[::9][:5]
        for name in ("bottle", "hazelnut_reduced", "transistor_reduced")
    ]
    groups.append(sorted((shared / "data" / "u2net_reference" / "images").glob("*")))
    for number, group in enumerate(groups):
        images = [read_image(file) for file in group]
        sheet(saliency, images, folder / f"foreground{number}.png")

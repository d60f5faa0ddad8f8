"""Contact sheets of the small SAM's proposals on real and rendered images, for visual inspection.

python -m pretraining.proposals --evaluate --pictures build/pictures
"""

from pathlib import Path

import cv2
import numpy as np
from segment_anything import SamPredictor

from pipeline.models.build import QUALITY, with_quality
from pipeline.models.device import choose
from pipeline.models.foreground import U2NetForeground
from pipeline.models.proposals import SamProposals
from pipeline.models.settings import ProposalSettings
from pipeline.models.small_sam.build import small_sam
from pipeline.records import ForegroundMask
from pretraining.data.examples import held_out
from pretraining.data.textures import read_image

# Height at which images are shown and proposals are made.
SIDE = 320
# Boxes x0 y0 x1 y1 around the paper bags of `groceries.jpg`, as shares of its sides.
BAGS = ((0.460, 0.32, 0.560, 0.65), (0.553, 0.32, 0.640, 0.64), (0.635, 0.33, 0.735, 0.64),
        (0.725, 0.32, 0.790, 0.64))  # fmt: skip


def sheets(path: Path, shared: Path, folder: Path) -> None:
    """One sheet for rendered products, one per real category, one for everyday photographs."""
    settings = with_quality(
        # Everyday photographs have large objects: allow larger areas than for products.
        ProposalSettings(max_area=0.4, max_foreground_share=1.0),
        QUALITY["small"],
    )
    propose = SamProposals(small_sam(path), settings, choose("cpu"))
    foreground = U2NetForeground(path.parent / "u2netp.onnx")
    folder.mkdir(parents=True, exist_ok=True)
    rendered = [(one.image_HW3, one.foreground_HW) for one in held_out(6)]
    _write(folder / "proposals_products.png", propose, rendered)
    mvtec = shared / "data" / "mvtec_ad"
    for name in ("bottle", "hazelnut_reduced", "transistor_reduced"):
        images = [read_image(file) for file in sorted((mvtec / name / "train/good").glob("*"))[:6]]
        pairs = [(image, foreground(image).mask_HW) for image in images]
        if pairs:
            _write(folder / f"proposals_{name}.png", propose, pairs)
    photographs = [read_image(file) for file in sorted((shared / "data/scenes").glob("*.jpg"))]
    groceries = shared / "data/scenes/groceries.jpg"
    if groceries.is_file():
        prompted(path, groceries, folder / "proposals_prompted.png")
    if photographs:
        # Photographs have no foreground mask: everything counts as foreground.
        everywhere = [(image, np.ones(image.shape[:2], np.bool_)) for image in photographs]
        _write(folder / "proposals_photographs.png", propose, everywhere)


def prompted(path: Path, photograph: Path, target: Path) -> None:
    """A photograph beside the masks from one box per object and from one point per object."""
    image_HW3 = _scaled(read_image(photograph))
    height, width = image_HW3.shape[:2]
    predictor = SamPredictor(small_sam(path))
    predictor.set_image(image_HW3)
    boxed, pointed = [], []
    for box in BAGS:
        x0, y0, x1, y1 = np.array(box) * (width, height, width, height)
        # A box is unambiguous: one mask. A point gets the best of three.
        masks, _, _ = predictor.predict(box=np.array([x0, y0, x1, y1]), multimask_output=False)
        boxed.append(masks[0])
        middle = np.array([[(x0 + x1) / 2, (y0 + y1) / 2]])
        masks, scores, _ = predictor.predict(middle, np.array([1]))
        pointed.append(masks[scores.argmax()])
    columns = [
        image_HW3,
        outlined(image_HW3, np.stack(boxed)),
        outlined(image_HW3, np.stack(pointed)),
    ]
    cv2.imwrite(str(target), np.hstack(columns)[..., ::-1])


def outlined(image_HW3: np.ndarray, masks_NHW: np.ndarray) -> np.ndarray:
    """The image with every mask tinted and outlined in a colour of its own."""
    drawn_HW3 = image_HW3.astype(np.float32)
    for index, mask_HW in enumerate(masks_NHW):
        # Steps of the golden ratio keep neighbouring hues apart.
        hue = np.uint8([[[int(index * 180 * 0.618) % 180, 255, 255]]])
        colour_3 = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)
        drawn_HW3[mask_HW] = 0.6 * drawn_HW3[mask_HW] + 0.4 * colour_3
        found, _ = cv2.findContours(
            mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(drawn_HW3, found, -1, colour_3.tolist(), max(1, len(image_HW3) // 256))
    return drawn_HW3.astype(np.uint8)


def _write(path: Path, propose: SamProposals, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    columns = []
    for image_HW3, mask_HW in pairs:
        small_HW3 = _scaled(image_HW3)
        size = small_HW3.shape[1], small_HW3.shape[0]
        inside_HW = cv2.resize(mask_HW.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        found = propose(small_HW3, ForegroundMask(inside_HW))
        columns.append(np.vstack([small_HW3, outlined(small_HW3, found.masks_NHW)]))
    cv2.imwrite(str(path), np.hstack(columns)[..., ::-1])


def _scaled(image_HW3: np.ndarray) -> np.ndarray:
    size = round(image_HW3.shape[1] * SIDE / image_HW3.shape[0]), SIDE
    return cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)

"""How good the small SAM is, on examples it never saw; the table of `weights/small_sam.md`.

python -m pretraining.proposals --ahead build/ahead --evaluate
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.devices import Compute, one_thread
from pipeline.models import QUALITY, with_quality
from pipeline.proposals import SamProposals
from pipeline.records import ForegroundMask, bounding_box
from pipeline.settings import ProposalSettings
from pipeline.small_sam import small_sam
from pretraining.data import open_ahead

MIN_PIXELS = 100
MATCH = 0.75
"""IoU at which a proposal has found a part."""


def evaluate(path: Path, folders: list[Path], count: int = 100, seed: int = 1) -> dict[str, float]:
    """Print and return the table over the last `count` examples of each folder.

    A point takes the best of three masks by predicted IoU, a box the single mask, as Segment
    Anything recommends for prompts that leave nothing open.
    """
    one_thread()
    sam = small_sam(path)
    rng = np.random.default_rng(seed)
    predicted, true, boxed = [], [], []
    for image_HW3, masks_NHW, _ in _examples(folders, count):
        embedding = _embed(sam, image_HW3)
        scores_N4, ious_N4 = _ask(sam, embedding, masks_NHW, rng)
        predicted.append(scores_N4[:, 1:])
        true.append(ious_N4[:, 1:])
        boxed.append(_ask(sam, embedding, masks_NHW, None)[1][:, 0])
    predicted_N3, true_N3 = np.concatenate(predicted), np.concatenate(true)
    chosen_N1 = predicted_N3.argmax(1)[:, None]
    recall, per_part = _recall(sam, folders, count)
    table = {
        "parts asked for": float(len(true_N3)),
        "mean IoU from one interior point": float(np.take_along_axis(true_N3, chosen_N1, 1).mean()),
        "mean IoU from one point, best of three": float(true_N3.max(1).mean()),
        "mean IoU from a box": float(np.concatenate(boxed).mean()),
        "correlation of predicted and true IoU": float(
            np.corrcoef(predicted_N3.ravel(), true_N3.ravel())[0, 1]
        ),
        f"recall at IoU {MATCH}, foreground points": recall,
        "proposals per true part": per_part,
    }
    for name, value in table.items():
        print(f"| {name} | {value:.3f} |")
    return table


def _examples(folders: list[Path], count: int) -> Any:
    for folder in folders:
        data = open_ahead(folder)
        for index in range(len(data["removed"]) - count, len(data["removed"])):
            ids_HW = np.asarray(data["instances"][index])
            known = [i for i in np.unique(ids_HW)[1:] if (ids_HW == i).sum() >= MIN_PIXELS]
            if known:
                masks_NHW = np.stack([ids_HW == i for i in known])
                foreground_HW = np.asarray(data["foreground"][index]) > 0
                yield np.asarray(data["images"][index]), masks_NHW, foreground_HW


@torch.inference_mode()
def _embed(sam: Any, image_HW3: np.ndarray) -> torch.Tensor:
    pixels = torch.tensor(image_HW3).permute(2, 0, 1)[None].float()
    return sam.image_encoder(sam.preprocess(pixels))


@torch.inference_mode()
def _ask(
    sam: Any, embedding: torch.Tensor, masks_NHW: np.ndarray, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true IoU (N, 4) for a random interior point of each mask, or its box.

    Column 0 is the single mask, the others are the three of a doubtful prompt.
    """
    from pretraining.proposals import point_in

    if rng is None:
        corners_N4 = [bounding_box(mask_HW) for mask_HW in masks_NHW]
        prompt = None, torch.tensor(corners_N4, dtype=torch.float32), None
    else:
        points_N12 = np.array([[point_in(mask_HW, rng)] for mask_HW in masks_NHW])
        labels_N1 = torch.ones(len(masks_NHW), 1, dtype=torch.int)
        prompt = (torch.tensor(points_N12, dtype=torch.float32), labels_N1), None, None
    sparse, dense = sam.prompt_encoder(*prompt)
    logits_N4hw, scores_N4 = sam.mask_decoder.predict_masks(
        embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense
    )
    size, wanted_N1HW = masks_NHW.shape[1:], torch.tensor(masks_NHW)[:, None]
    found_N4HW = torch.nn.functional.interpolate(logits_N4hw, size, mode="bilinear") > 0
    shared_N4 = (found_N4HW & wanted_N1HW).flatten(2).sum(2)
    return scores_N4.numpy(), (shared_N4 / (found_N4HW | wanted_N1HW).flatten(2).sum(2)).numpy()


def _recall(sam: Any, folders: list[Path], count: int) -> tuple[float, float]:
    settings = with_quality(ProposalSettings(), QUALITY["small"])
    propose = SamProposals(sam, settings, Compute(torch.device("cpu"), torch.float32))
    found, parts, proposals = 0, 0, 0
    for image_HW3, masks_NHW, foreground_HW in _examples(folders, count):
        proposed = propose(image_HW3, ForegroundMask(foreground_HW))
        parts += len(masks_NHW)
        proposals += len(proposed)
        for mask_HW in masks_NHW:
            found += any(_iou(one, mask_HW) >= MATCH for one in proposed.masks_NHW)
    return found / parts, proposals / parts


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))

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
from pipeline.records import ForegroundMask
from pipeline.settings import ProposalSettings
from pipeline.small_sam import small_sam
from pretraining.data import open_ahead

MIN_PIXELS = 100
MATCH = 0.75
"""IoU at which a proposal has found a part."""


def evaluate(path: Path, folders: list[Path], count: int = 100, seed: int = 1) -> dict[str, float]:
    """Print and return the table over the last `count` examples of each folder."""
    one_thread()
    sam = small_sam(path)
    rng = np.random.default_rng(seed)
    predicted, true, boxed = [], [], []
    for image_HW3, masks_NHW, _ in _examples(folders, count):
        embedding = _embed(sam, image_HW3)
        for mask_HW in masks_NHW:
            scores, ious = _ask(sam, embedding, mask_HW, rng, box=False)
            predicted.append(scores)
            true.append(ious)
            scores, ious = _ask(sam, embedding, mask_HW, rng, box=True)
            boxed.append(ious[scores.argmax()])
    best = [one[scores.argmax()] for scores, one in zip(predicted, true, strict=True)]
    flat = np.concatenate(predicted), np.concatenate(true)
    recall, per_part = _recall(sam, folders, count)
    table = {
        "parts asked for": float(len(true)),
        "mean IoU from one interior point": float(np.mean(best)),
        "mean IoU from one point, best of three": float(np.mean([one.max() for one in true])),
        "mean IoU from a box": float(np.mean(boxed)),
        "correlation of predicted and true IoU": float(np.corrcoef(*flat)[0, 1]),
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
    pixels = torch.from_numpy(image_HW3).permute(2, 0, 1)[None].float()
    return sam.image_encoder(sam.preprocess(pixels))


@torch.inference_mode()
def _ask(
    sam: Any, embedding: torch.Tensor, mask_HW: np.ndarray, rng: np.random.Generator, box: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true IoU of the three masks for a random interior point or the true box."""
    from pretraining.proposals import box_around, point_in

    if box:
        corners = torch.tensor([box_around(mask_HW, _Still())], dtype=torch.float32)
        sparse, dense = sam.prompt_encoder(None, corners, None)
    else:
        point = torch.tensor([[point_in(mask_HW, rng)]], dtype=torch.float32)
        label = torch.ones(1, 1, dtype=torch.int)
        sparse, dense = sam.prompt_encoder((point, label), None, None)
    logits, scores = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    size = mask_HW.shape
    found = torch.nn.functional.interpolate(logits, size, mode="bilinear")[0].numpy() > 0
    return scores[0].numpy(), np.array([_iou(one, mask_HW) for one in found])


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


class _Still:
    """A generator without noise, so that the box is the true one."""

    def normal(self, mean: float, sigma: float, size: int) -> np.ndarray:
        return np.full(size, mean)

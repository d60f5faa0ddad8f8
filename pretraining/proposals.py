"""How `weights/small_sam.safetensors` was made: the small SAM, trained from scratch.

    python -m pretraining.proposals --ahead build/ahead --out weights --minutes 75

Each picture is embedded once and asked about many objects, by a point or a noisy box, as in
Segment Anything (Kirillov et al., ICCV 2023, §3 and appendix A): focal and dice loss on the best of
the three masks, squared error on the predicted IoU. Two additions make it learn on a small machine:
a dense head on the embedding (part or not, outline, offset to the part's centre), dropped when
saving, gives every pixel a say; points beside all parts teach the IoU head what is no object.

Shapes: B pictures; P prompts per picture; N = B x P; h w masks (64).
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.small_sam import EMBEDDING_DIM, IMAGE_SIZE, save_weights, small_sam
from pretraining.batched_decoder import decode_batch
from pretraining.data import open_ahead
from pretraining.loop import train

PICTURES, PROMPTS = 6, 14
BESIDE = 2
"""So many prompts of each picture are points beside all parts: no mask is right, IoU is 0."""
BOXES = 0.35
"""Share of the other prompts that are boxes."""
MIN_PIXELS = 40
MASK_SIZE = 64
"""Side of the logits. The truth of a cell is the share of it that the part covers."""
HELD_OUT = 100
"""So many examples at the end of a folder are for measuring only."""


class Trainee(nn.Module):
    """The model with the dense head that only training sees."""

    def __init__(self) -> None:
        super().__init__()
        self.sam = small_sam()
        self.dense = nn.Conv2d(EMBEDDING_DIM, 4 * 16, 1)


def batches_of(folders: list[Path], seed: int) -> Callable[[int, float], Any]:
    """Batches from examples rendered ahead; a function of the step alone."""
    sets = [open_ahead(folder) for folder in folders]
    usable = [(s, i) for s, one in enumerate(sets) for i in range(len(one["removed"]) - HELD_OUT)]

    def batch(step: int, progress: float) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, step])
        drawn = []
        while len(drawn) < PICTURES:
            source, index = usable[rng.integers(len(usable))]
            one = question(sets[source]["images"][index], sets[source]["instances"][index], rng)
            if one is not None:
                drawn.append(one)
        return {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}

    return batch


def question(image_HW3: Any, ids_HW: Any, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    """One augmented picture with its prompts and answers, or None when it shows no part."""
    image_HW3, ids_HW = augmented(np.asarray(image_HW3), np.asarray(ids_HW), rng)
    counts = np.bincount(ids_HW.ravel(), minlength=2)
    known = [i for i in range(1, len(counts)) if counts[i] >= MIN_PIXELS]
    if not known:
        return None
    points, boxes, is_box, masks, is_part = [], [], [], [], []
    for prompt in range(PROMPTS):
        beside = prompt < BESIDE and (ids_HW == 0).any()
        part = 0 if beside else int(rng.choice(known))
        mask_HW = ids_HW == part
        boxed = not beside and rng.random() < BOXES
        points.append(point_in(mask_HW, rng))
        boxes.append(box_around(mask_HW, rng))
        is_box.append(boxed)
        is_part.append(not beside)
        small = mask_HW.astype(np.float32)
        masks.append(cv2.resize(small, (MASK_SIZE, MASK_SIZE), interpolation=cv2.INTER_AREA))
    return {
        "image": np.ascontiguousarray(image_HW3.transpose(2, 0, 1)).astype(np.float32),
        "points": np.array(points, np.float32),
        "boxes": np.array(boxes, np.float32),
        "is_box": np.array(is_box),
        "is_part": np.array(is_part),
        "masks": np.stack(masks),
        "dense": dense_truth(ids_HW, known),
    }


def augmented(
    image_HW3: np.ndarray, ids_HW: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random turn, mirror, zoom and change of colour and light."""
    turns = int(rng.integers(4))
    image_HW3, ids_HW = np.rot90(image_HW3, turns), np.rot90(ids_HW, turns)
    if rng.random() < 0.5:
        image_HW3, ids_HW = image_HW3[:, ::-1], ids_HW[:, ::-1]
    if rng.random() < 0.3:
        side = int(rng.integers(150, IMAGE_SIZE))
        y, x = rng.integers(0, IMAGE_SIZE - side + 1, 2)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        image_HW3 = cv2.resize(np.ascontiguousarray(image_HW3[y : y + side, x : x + side]), size)
        ids_HW = np.ascontiguousarray(ids_HW[y : y + side, x : x + side])
        ids_HW = cv2.resize(ids_HW, size, interpolation=cv2.INTER_NEAREST)
    light = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3)
    image_HW3 = np.clip(image_HW3 * light + rng.uniform(-20, 20), 0, 255)
    if rng.random() < 0.1:
        image_HW3 = image_HW3.mean(2, keepdims=True).repeat(3, 2)
    return image_HW3.astype(np.uint8), ids_HW


def point_in(mask_HW: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """A random pixel of the mask as (x, y), its centre; away from the outline when that is wide."""
    inner = cv2.erode(mask_HW.astype(np.uint8), np.ones((3, 3), np.uint8))
    where = np.flatnonzero(inner if inner.any() else mask_HW)
    y, x = divmod(int(where[rng.integers(len(where))]), mask_HW.shape[1])
    return x + 0.5, y + 0.5


def box_around(mask_HW: np.ndarray, rng: np.random.Generator) -> tuple[float, ...]:
    """The bounding box x0 y0 x1 y1 with a tenth of its size as noise."""
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    sides = np.tile(box[2:] - box[:2], 2)
    return tuple(np.clip(box + rng.normal(0, 0.06, 4) * sides, 0, IMAGE_SIZE))


def dense_truth(ids_HW: np.ndarray, known: list[int]) -> np.ndarray:
    """(4, 64, 64) float32: part or not, outline, x and y offset to the part's centre / 32 px."""
    side = IMAGE_SIZE // 4
    small_hw = ids_HW[2::4, 2::4]
    truth_4hw = np.zeros((4, side, side), np.float32)
    truth_4hw[0] = small_hw > 0
    edge_HW = cv2.morphologyEx(ids_HW, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    truth_4hw[1] = cv2.resize(
        edge_HW.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA
    )
    ys, xs = np.mgrid[:side, :side] * 4 + 2
    for part in known:
        inside = small_hw == part
        if inside.any():
            truth_4hw[2][inside] = (xs[inside].mean() - xs[inside]) / 32
            truth_4hw[3][inside] = (ys[inside].mean() - ys[inside]) / 32
    return truth_4hw


def loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Prompted masks, predicted IoU and the dense head; runs under the loop's autocast."""
    sam: Any = model.sam
    pixels = sam.preprocess(batch["image"])
    embedding = sam.image_encoder(pixels.contiguous(memory_format=torch.channels_last))
    logits_N4hw, iou_N4 = decode(sam, embedding, batch)
    truth_N1hw = batch["masks"].flatten(0, 1)[:, None]
    is_part_N, is_box_N = batch["is_part"].flatten(), batch["is_box"].flatten()
    logits_N4hw = logits_N4hw.float()
    each_N4 = 20 * focal(logits_N4hw, truth_N1hw) + dice(logits_N4hw, truth_N1hw)
    best_N = each_N4[:, 1:].amin(1)
    single_N = each_N4[:, 0] * torch.where(is_box_N, 1.0, 0.3)
    masks = ((best_N + single_N) * is_part_N).sum() / is_part_N.sum()
    with torch.no_grad():
        found, wanted = logits_N4hw > 0, truth_N1hw > 0.5
        shared = (found & wanted).flatten(2).sum(2).float()
        true_N4 = shared / (found | wanted).flatten(2).sum(2).clamp(min=1)
        true_N4 = true_N4 * is_part_N[:, None]
    quality = F.mse_loss(iou_N4.float(), true_N4)
    dense = dense_loss(model, embedding.float(), batch["dense"])
    with torch.no_grad():
        chosen = iou_N4[:, 1:].argmax(1, keepdim=True)
        iou = (true_N4[:, 1:].gather(1, chosen)[:, 0] * is_part_N).sum() / is_part_N.sum()
    return {
        "loss": masks + quality + dense,
        "mask": masks,
        "iou": iou,
        "off": quality,
        "dense": dense,
    }


def decode(sam: Any, embedding_Bchw: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """All four masks and predicted IoUs of every prompt, the pictures' prompts side by side.

    What `MaskDecoder.predict_masks` does for one picture, for a batch of them.
    """
    with torch.autocast(embedding_Bchw.device.type, enabled=False):  # coordinates need float32
        sparse, dense = prompts(sam.prompt_encoder, batch)
        position = sam.prompt_encoder.get_dense_pe()
    # One dtype from here on: under autocast a float32 residual stream is cast at every product.
    embedding_Bchw = embedding_Bchw + dense[:1].to(embedding_Bchw.dtype)
    return decode_batch(sam.mask_decoder, embedding_Bchw, position, sparse)


def prompts(encoder: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings of a point or a box for each prompt; both are two tokens, so they batch."""
    point_N12 = batch["points"].flatten(0, 1)[:, None]
    box_N4, is_box_N = batch["boxes"].flatten(0, 1), batch["is_box"].flatten()
    label_N1 = torch.ones(point_N12.shape[:2], dtype=torch.int, device=point_N12.device)
    points, dense = encoder((point_N12, label_N1), None, None)
    boxes, _ = encoder(None, box_N4, None)
    return torch.where(is_box_N[:, None, None], boxes, points), dense


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Focal loss with gamma 2 per mask, (N, 4); truth may lie between 0 and 1."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
    return ((logits.sigmoid() - truth).abs() ** 2 * entropy).flatten(2).mean(2)


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice overlap per mask, (N, 4)."""
    chance = logits.sigmoid()
    shared = (chance * truth).flatten(2).sum(2)
    return 1 - (2 * shared + 1) / (chance.flatten(2).sum(2) + truth.flatten(2).sum(2) + 1)


def dense_loss(model: Any, embedding_Bchw: Tensor, truth_B4hw: Tensor) -> Tensor:
    answer_B4hw = F.pixel_shuffle(model.dense(embedding_Bchw), 4).float()
    inside = truth_B4hw[:, :1]
    flags = F.binary_cross_entropy_with_logits(answer_B4hw[:, :2], truth_B4hw[:, :2])
    offset = F.smooth_l1_loss(answer_B4hw[:, 2:] * inside, truth_B4hw[:, 2:] * inside)
    return flags + offset / inside.mean().clamp(min=0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ahead", type=Path, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/small_sam"))
    parser.add_argument("--out", type=Path, default=Path("weights"))
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--minutes", type=float, help="end the schedule by the clock")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true", help="only print the table of the card")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    path = args.out / "small_sam.safetensors"
    if not args.evaluate:
        train(
            Trainee(), batches_of(args.ahead, args.seed), loss, args.steps, args.folder,
            rate=args.rate, minutes=args.minutes, seed=args.seed, warm_up=150, save_minutes=5,
            # A few thousand steps in all: a longer average would still hold the beginning.
            average=0.996,
            on_save=lambda model, step: save_weights(model.sam, path, {"step": str(step)}),
        )  # fmt: skip
    from pretraining.proposals_table import evaluate

    evaluate(path, args.ahead)


if __name__ == "__main__":
    main()

"""How `weights/small_sam.safetensors` was made: the small SAM, trained from scratch.

    python -m pretraining.proposals --out weights --steps 7000

Each image is embedded once and prompted for many objects, by a point or a noisy box, as in Segment
Anything (Kirillov et al., ICCV 2023, §3 and appendix A): focal and dice loss on the best of the
three masks, squared error on the predicted IoU. Two additions make training feasible on a small
machine. A dense head (part or not, outline, offset to the part's centre), dropped when saving,
gives every pixel a gradient; points outside all parts teach the IoU head what is not an object.
Masks are compared with the truth at sampled pixels, half of them around the part, so that a part
of ten pixels is learnt at its full resolution.

Shapes: B images; P prompts per image; N = B x P; Q sampled pixels; h w masks (128).
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
from scipy.ndimage import find_objects
from torch import Tensor, nn

from pipeline.models.small_sam.build import EMBEDDING_DIM, IMAGE_SIZE, save_weights, small_sam
from pipeline.models.small_sam.decoder import decode_batch
from pipeline.models.small_sam.encoder import Features
from pretraining.data.examples import open_ahead, render_sets
from pretraining.loop import train
from pretraining.proposals.prompts import jittered, point_in
from pretraining.quality import print_measures

# Images in a batch, and prompts of each.
IMAGES, PROMPTS = 6, 14
# The first prompts of each image are points outside all parts: no mask is right, IoU is 0.
BESIDE = 2
# Weights of focal and dice loss; Segment Anything has 20 and 1.
FOCAL, DICE = 20.0, 2.0
# Share of the other prompts that are boxes.
BOXES = 0.35
# Smaller visible parts are not prompted for.
MIN_PIXELS = 40
# Pixels at which each prompt's mask is compared, half of them near the part.
SAMPLED = 1024
# Arrays (P, ...) that describe an image's prompts, and their dtypes; `parts` is -1 outside all
# parts.
PER_PROMPT = {
    "points": np.float32, "boxes": np.float32, "is_box": np.bool_, "parts": np.int64,
    "places": np.float32, "weights": np.float32, "truth": np.float32,
}  # fmt: skip


class Trainee(nn.Module):
    """The model with the dense heads, which exist during training only."""

    def __init__(self) -> None:
        super().__init__()
        self.sam = small_sam()
        # At stride 16 (4 outputs per pixel of stride 4), at stride 4 and at stride 2.
        self.coarse = nn.Conv2d(EMBEDDING_DIM, 4 * 16, 1)
        self.middle = nn.Conv2d(48, 4, 1)
        self.fine = nn.Conv2d(24, 2, 1)


def batches_of(folders: list[Path], seed: int) -> Callable[[int, float], Any]:
    """Batches from examples rendered ahead; each depends on seed and step alone."""
    sets = [open_ahead(folder) for folder in folders]
    usable = [(s, i) for s, one in enumerate(sets) for i in range(len(one["removed"]))]

    def batch(step: int, progress: float) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, step])
        drawn = []
        while len(drawn) < IMAGES:
            source, index = usable[rng.integers(len(usable))]
            one = prompted(sets[source]["images"][index], sets[source]["instances"][index], rng)
            if one is not None:
                drawn.append(one)
        return {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}

    return batch


def prompted(image_HW3: Any, ids_HW: Any, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    """One augmented image with its prompts and their true masks, or None when it shows no part."""
    image_HW3, ids_HW = augmented(np.asarray(image_HW3), np.asarray(ids_HW), rng)
    counts = np.bincount(ids_HW.ravel(), minlength=2)
    known = [i for i in range(1, len(counts)) if counts[i] >= MIN_PIXELS]
    if not known:
        return None
    # Tight boxes x0 y0 x1 y1 of all parts, exclusive end.
    found = find_objects(ids_HW)
    boxes = {
        part: np.array([across.start, down.start, across.stop, down.stop], np.float32)
        for part, (down, across) in zip(known, (found[part - 1] for part in known), strict=True)
    }
    columns: dict[str, list[Any]] = {name: [] for name in PER_PROMPT}
    for prompt in range(PROMPTS):
        beside = prompt < BESIDE and (ids_HW == 0).any()
        part = 0 if beside else int(rng.choice(known))
        tight = boxes.get(part, np.array([0, 0, IMAGE_SIZE, IMAGE_SIZE], np.float32))
        # Points outside all parts have no box to sample around, so an empty one is used.
        places_Q2, weights_Q = sampled(tight if not beside else np.zeros(4), rng)
        row = {
            "points": point_in(ids_HW, part, tight, rng),
            "boxes": jittered(tight, rng),
            "is_box": not beside and rng.random() < BOXES,
            "parts": -1 if beside else part,
            # grid_sample's coordinates: -1 to 1 from border to border.
            "places": (places_Q2 + 0.5) * (2 / IMAGE_SIZE) - 1,
            "weights": weights_Q,
            "truth": ids_HW[places_Q2[:, 1], places_Q2[:, 0]] == part,
        }
        for name, value in row.items():
            columns[name].append(value)
    return {name: np.array(columns[name], kind) for name, kind in PER_PROMPT.items()} | {
        "image": np.ascontiguousarray(image_HW3.transpose(2, 0, 1)).astype(np.float32),
        **dense_truth(ids_HW, known),
    }


def sampled(box: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (Q, 2) int x y, half around the box and half anywhere, and their weights (Q,).

    A weight is the area that a pixel represents; the sum is about the area of the image. A pixel of
    the second half that falls near the box has weight 0, because the first half represents it.
    """
    half = SAMPLED // 2
    # The neighbourhood of a part: its box plus a margin that grows with it.
    margin = 4 + 0.15 * max(box[2] - box[0], box[3] - box[1])
    low = np.floor(np.maximum(box[:2] - margin, 0)).astype(int)
    high = np.ceil(np.minimum(box[2:] + margin, IMAGE_SIZE)).astype(int)
    near_Q2 = rng.integers(low, high, (half, 2))
    far_Q2 = rng.integers(0, IMAGE_SIZE, (half, 2))
    taken_Q = ((far_Q2 >= low) & (far_Q2 < high)).all(1)
    area = float(np.prod(high - low))
    rest = (IMAGE_SIZE**2 - area) / max(1, half - int(taken_Q.sum()))
    weights_Q = np.concatenate([np.full(half, area / half), np.where(taken_Q, 0.0, rest)])
    return np.concatenate([near_Q2, far_Q2]), weights_Q


def augmented(
    image_HW3: np.ndarray, ids_HW: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random quarter turn, mirror, zoom and change of colour and light."""
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
        # Nearest neighbour: ids must not be averaged.
        ids_HW = cv2.resize(ids_HW, size, interpolation=cv2.INTER_NEAREST)
    # Brightness and a slight colour cast.
    light = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3)
    image_HW3 = np.clip(image_HW3 * light + rng.uniform(-20, 20), 0, 255)
    if rng.random() < 0.1:
        image_HW3 = image_HW3.mean(2, keepdims=True).repeat(3, 2)
    return image_HW3.astype(np.uint8), ids_HW


def dense_truth(ids_HW: np.ndarray, known: list[int]) -> dict[str, np.ndarray]:
    """Dense targets of every pixel, float32 except `ids`.

    `dense` (4, 64, 64): part or not, outline, x and y offset to the part's centre / 32 px;
    `outline` and `ids` (128, 128).
    """
    side = IMAGE_SIZE // 4
    # The middle of each 4 x 4 cell.
    small_hw = ids_HW[2::4, 2::4]
    truth_4hw = np.zeros((4, side, side), np.float32)
    truth_4hw[0] = small_hw > 0
    edge_HW = cv2.morphologyEx(ids_HW, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    # Area averaging: the share of outline pixels in a cell.
    outline_hw = cv2.resize(
        edge_HW.astype(np.float32), (2 * side, 2 * side), interpolation=cv2.INTER_AREA
    )
    truth_4hw[1] = cv2.resize(outline_hw, (side, side), interpolation=cv2.INTER_AREA)
    ys, xs = np.mgrid[:side, :side] * 4 + 2
    for part in known:
        inside = small_hw == part
        if inside.any():
            # Offsets in units of 32 px, so that they are of the order of one.
            truth_4hw[2][inside] = (xs[inside].mean() - xs[inside]) / 32
            truth_4hw[3][inside] = (ys[inside].mean() - ys[inside]) / 32
    return {
        "dense": truth_4hw,
        "outline": outline_hw,
        "ids": ids_HW[1::2, 1::2].astype(np.int16),
    }


def loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of prompted masks, predicted IoU and dense heads; runs under the loop's autocast."""
    sam: Any = model.sam
    features, quarter, half = sam.image_encoder.features(sam.preprocess(batch["image"]))
    logits_N4hw, iou_N4 = decode(sam, features, batch)
    is_part_N, is_box_N = (batch["parts"] >= 0).flatten(), batch["is_box"].flatten()
    places_N1Q2 = batch["places"].flatten(0, 1)[:, None]
    # Compare at the sampled pixels instead of upsampling every mask to full size.
    answer_N4Q = F.grid_sample(logits_N4hw.float(), places_N1Q2, align_corners=False)[:, :, 0]
    truth_N1Q = batch["truth"].flatten(0, 1)[:, None]
    each_N4 = FOCAL * focal(answer_N4Q, truth_N1Q)
    each_N4 = each_N4 + DICE * dice(answer_N4Q, truth_N1Q, batch["weights"].flatten(0, 1)[:, None])
    # Masks 1 to 3 compete, and the best one learns; mask 0 answers unambiguous prompts, so it
    # learns mostly from boxes.
    best_N = each_N4[:, 1:].amin(1)
    single_N = each_N4[:, 0] * torch.where(is_box_N, 1.0, 0.3)
    # Points outside all parts have no true mask; they train the predicted IoU only.
    masks = ((best_N + single_N) * is_part_N).sum() / is_part_N.sum()
    true_N4 = true_iou(logits_N4hw, batch) * is_part_N[:, None]
    quality = F.mse_loss(iou_N4.float(), true_N4)
    dense = dense_loss(model, features.embedding_BChw, quarter, half, batch)
    # Shown in the progress bar: IoU of the mask that would be chosen for a point, and of boxes.
    with torch.no_grad():
        chosen = iou_N4[:, 1:].argmax(1, keepdim=True)
        point = is_part_N & ~is_box_N
        iou = (true_N4[:, 1:].gather(1, chosen)[:, 0] * point).sum() / point.sum().clamp(min=1)
        box = (true_N4[:, 0] * is_box_N).sum() / is_box_N.sum().clamp(min=1)
    return {
        "loss": masks + quality + dense,
        "mask": masks,
        "iou": iou,
        "box": box,
        "off": quality,
        "dense": dense,
    }


@torch.no_grad()
def true_iou(logits_N4hw: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """IoU (N, 4) of the masks with the prompted parts, at the resolution of the logits."""
    parts_BP11 = batch["parts"][:, :, None, None]
    wanted_NL = (batch["ids"][:, None] == parts_BP11).flatten(0, 1).flatten(1)
    found_N4L = (logits_N4hw > 0).flatten(2)
    # Count by matrix products: summing booleans is many times slower on a CPU.
    with_NL2 = torch.stack([wanted_NL, torch.ones_like(wanted_NL)], 2).float()
    counted_N42 = found_N4L.float() @ with_NL2
    shared_N4, found_N4 = counted_N42.unbind(2)
    return shared_N4 / (found_N4 + wanted_NL.sum(1)[:, None] - shared_N4).clamp(min=1)


def decode(sam: Any, features: Features, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """All four masks and predicted IoUs of every prompt, the prompts of all images in one batch."""
    device = features.embedding_BChw.device.type
    with torch.autocast(device, enabled=False):
        # Coordinates need float32.
        sparse, dense = prompts(sam.prompt_encoder, batch)
        position = sam.prompt_encoder.get_dense_pe()
    return decode_batch(sam.mask_decoder, features, dense[:1], position, sparse)


def prompts(encoder: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings of a point or a box for each prompt; both are two tokens and fit in one batch."""
    point_N12 = batch["points"].flatten(0, 1)[:, None]
    box_N4, is_box_N = batch["boxes"].flatten(0, 1), batch["is_box"].flatten()
    label_N1 = torch.ones(point_N12.shape[:2], dtype=torch.int, device=point_N12.device)
    # Both kinds are encoded for every prompt and one is selected, which is cheaper than sorting.
    points, dense = encoder((point_N12, label_N1), None, None)
    boxes, _ = encoder(None, box_N4, None)
    return torch.where(is_box_N[:, None, None], boxes, points), dense


def focal(logits_N4Q: Tensor, truth_N1Q: Tensor) -> Tensor:
    """Focal loss with gamma 2 per mask, (N, 4), unweighted mean over the sampled pixels."""
    truth_N4Q = truth_N1Q.expand_as(logits_N4Q)
    entropy = F.binary_cross_entropy_with_logits(logits_N4Q, truth_N4Q, reduction="none")
    return ((logits_N4Q.sigmoid() - truth_N1Q).square() * entropy).mean(2)


def dice(logits_N4Q: Tensor, truth_N1Q: Tensor, weights_N1Q: Tensor) -> Tensor:
    """1 - Dice overlap per mask, (N, 4), each pixel weighted with the area it represents."""
    chance_N4Q = logits_N4Q.sigmoid() * weights_N1Q
    shared_N4 = (chance_N4Q * truth_N1Q).sum(2)
    wanted_N1 = (truth_N1Q * weights_N1Q).sum(2)
    # Plus one: a smooth loss for parts of few pixels.
    return 1 - (2 * shared_N4 + 1) / (chance_N4Q.sum(2) + wanted_N1 + 1)


def dense_loss(model: Any, embedding: Tensor, quarter: Tensor, half: Tensor, batch: Any) -> Tensor:
    """Loss of part, outline and centre of every pixel, on the embedding and the finer maps."""
    truth_B4hw, inside_B1hw = batch["dense"], batch["dense"][:, :1]
    total = torch.zeros((), device=truth_B4hw.device)
    for answer in (F.pixel_shuffle(model.coarse(embedding), 4), model.middle(quarter)):
        answer_B4hw = answer.float()
        flags = F.binary_cross_entropy_with_logits(answer_B4hw[:, :2], truth_B4hw[:, :2])
        # Offsets count inside parts only, so the mean is divided by their share of the image.
        off = F.smooth_l1_loss(answer_B4hw[:, 2:] * inside_B1hw, truth_B4hw[:, 2:] * inside_B1hw)
        total = total + flags + off / inside_B1hw.mean().clamp(min=0.01)
    fine_B2hw = torch.stack([(batch["ids"] > 0).float(), batch["outline"]], 1)
    return total + F.binary_cross_entropy_with_logits(model.fine(half).float(), fine_B2hw)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ahead", type=Path, nargs="*", help="sets rendered ahead")
    parser.add_argument("--folder", type=Path, default=Path("build/small_sam"))
    parser.add_argument("--out", type=Path, default=Path("weights"))
    parser.add_argument("--steps", type=int, default=7_000)
    parser.add_argument("--minutes", type=float, help="end the schedule by the clock")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true", help="only print the table of the card")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="real images")
    parser.add_argument("--pictures", type=Path, help="write contact sheets to this folder")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    path = args.out / "small_sam.safetensors"
    if not args.evaluate:
        folders = args.ahead or render_sets(args.folder)
        train(
            Trainee(), batches_of(folders, args.seed), loss, args.steps, args.folder,
            rate=args.rate, minutes=args.minutes, seed=args.seed, warm_up=150, save_minutes=5,
            # With a few thousand steps in all, a longer average would still contain the beginning.
            average=0.998,
            on_save=lambda model, step: save_weights(model.sam, path, {"step": str(step)}),
        )  # fmt: skip
    # Imported here: the table and the sheets need more of the pipeline than training does.
    from pretraining.proposals.table import evaluate

    print_measures(evaluate(path))
    if args.pictures:
        from pretraining.proposals.sheets import sheets

        sheets(path, args.shared, args.pictures)


if __name__ == "__main__":
    main()

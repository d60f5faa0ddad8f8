"""Proposals against segment-anything's own generator, and against embedding again for every click.

The generator's foreground masks are those that pass the filters of our proposals (area, overlap
with the foreground, share of it, border, largest component) with the same settings. A mask is
matched when one of our proposals has an IoU of 0.9 with it. How many of its masks the generator
itself reproduces when its grid is moved by half a step shows how much of the rest is chance.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.amg import build_point_grid

from benchmarks.generation.foreground import overlap
from benchmarks.generation.rows import Claim, in_turn, seconds_of
from pipeline.models import device as devices
from pipeline.models.build import QUALITY, with_quality
from pipeline.models.foreground import U2NetForeground
from pipeline.models.mask_filter import largest_component
from pipeline.models.proposals import SamProposals
from pipeline.models.settings import ProposalSettings
from pipeline.models.small_sam.build import small_sam
from pipeline.models.weights import store as weights
from pipeline.records import ForegroundMask
from scenes.render import render

PRODUCTS = ("tray", "bag", "pins", "bottle")
# Scenes that no model was trained on.
FIRST_SEED = 80_000_000
MATCH = 0.9
# Prompts in the row about clicks.
CLICKS = 24
# More points than by default: as many as still leave us 25 times faster than the generator.
DENSE = {"points": 192, "max_proposals": 64}
# The generator's default grid has 32 x 32 points.
GRID = 32


def rows(images: int, full_size: bool) -> Iterator[Claim]:
    """`images` of each product; `full_size` adds the clicks on a ViT-B with random weights."""
    settings = with_quality(ProposalSettings(), QUALITY["small"])
    sam = small_sam(weights.require("bundled-sam"))
    yield from _against_generator(sam, settings, images)
    yield _clicks("small SAM", sam, settings, repeats=3, decoder_batch=64)
    if full_size:
        # Random weights predict no useful IoU, so the filters are opened: only the time counts.
        torch.manual_seed(0)
        wide_open = settings.model_copy(update={"min_predicted_iou": 0.0, "min_stability": 0.0})
        vit_b = sam_model_registry["vit_b"]().eval()
        yield _clicks("ViT-B of random weights", vit_b, wide_open, repeats=0, decoder_batch=8)


def _against_generator(sam: Sam, settings: ProposalSettings, images: int) -> Iterator[Claim]:
    """Speed and recall are claimed for the dense setting; the default one is for information."""
    # Both settings run on the same images.
    dense = settings.model_copy(update=DENSE)
    compute = devices.choose("cpu", "auto")
    ours = [SamProposals(sam, one, compute) for one in (dense, settings)]
    find = U2NetForeground(weights.require("bundled-u2netp"))
    times, matched, again, wanted, first = [], np.zeros(2, int), 0, 0, 0
    for seed in range(images):
        for product in PRODUCTS:
            image_HW3 = render(product, FIRST_SEED + seed, size=256).image_HW3
            foreground = find(image_HW3)
            every: list[np.ndarray] = []
            generator = partial(generated, sam, settings, image_HW3)
            slow = seconds_of(partial(_into, every, generator))
            calls = [partial(propose, image_HW3, foreground) for propose in ours]
            times.append((slow, *in_turn(calls, repeats=1)))
            masks = _kept(every, foreground, settings)
            matched += [_matched(masks, list(call().masks_NHW)) for call in calls]
            wanted += len(masks)
            # The moved grid is measured on the first scene of each product only.
            if seed == 0:
                again += _matched(masks, _kept(generator(move=0.5), foreground, settings))
                first = wanted
    slow, *fast = (np.sum(times, 0) / len(times)).tolist()
    peer = f"SamAutomaticMaskGenerator, {GRID}x{GRID}, same weights"
    # `choose` takes bf16 where the processor is fast at it.
    precision = "bf16" if compute.reduced else "fp32"
    for one, seconds, hits, aims in zip(
        (dense, settings), fast, matched.tolist(), ((25, 0.95), (None, None)), strict=True
    ):
        what = f"proposals of an image of 256 px, {one.points} points"
        yield Claim(f"{what}, {precision}", f"{seconds:.3f} s", peer, f"{slow:.3f} s",
                    slow / seconds, aims[0])  # fmt: skip
        yield Claim(f"its foreground masks matched at IoU {MATCH}, {one.points} points, "
                    f"{len(times)} images", f"{hits}", peer, f"{wanted}", hits / wanted,
                    aims[1])  # fmt: skip
    yield Claim(f"the same by the generator itself, grid moved half a step, {len(PRODUCTS)} images",
                f"{again}", peer, f"{first}", again / first)  # fmt: skip


@torch.inference_mode()
def generated(
    sam: Sam, settings: ProposalSettings, image_HW3: np.ndarray, move: float = 0.0
) -> list[np.ndarray]:
    """The masks of segment-anything's generator, its grid moved by a share of a step both ways."""
    # Points that leave the image re-enter on the other side.
    grid = (build_point_grid(GRID) + move / GRID) % 1
    generator = SamAutomaticMaskGenerator(
        sam, points_per_side=None, point_grids=[grid],
        pred_iou_thresh=settings.min_predicted_iou,
        stability_score_thresh=settings.min_stability,
    )  # fmt: skip
    return [found["segmentation"] for found in generator.generate(image_HW3)]


def _into(found: list[np.ndarray], generate: Callable[[], list[np.ndarray]]) -> None:
    found.extend(generate())


def _kept(
    masks: list[np.ndarray], foreground: ForegroundMask, settings: ProposalSettings
) -> list[np.ndarray]:
    """The largest components of those masks that pass the filters of our proposals."""
    inside_HW = foreground.mask_HW
    # The outermost pixels, for the limit on border contact.
    frame_HW = np.ones_like(inside_HW)
    frame_HW[1:-1, 1:-1] = False
    kept = []
    for mask_HW in masks:
        # The same conditions as in `pipeline.models.proposals`, written independently.
        area, overlap = mask_HW.sum(), (mask_HW & inside_HW).sum()
        part_HW, share = largest_component(mask_HW)
        if (
            settings.min_area <= mask_HW.mean() <= settings.max_area
            and overlap >= settings.min_foreground_overlap * area
            and overlap <= settings.max_foreground_share * inside_HW.sum()
            and (mask_HW & frame_HW).sum() <= settings.max_border * frame_HW.sum()
            and share >= (settings.min_component or 0.0)
        ):
            kept.append(part_HW)
    return kept


def _matched(masks: list[np.ndarray], others: list[np.ndarray]) -> int:
    """How many of the masks have an IoU of MATCH and more with one of the others."""
    return sum(any(overlap(mask, other) >= MATCH for other in others) for mask in masks)


def _clicks(
    name: str, sam: Sam, settings: ProposalSettings, repeats: int, decoder_batch: int
) -> Claim:
    """CLICKS prompts with one embedding, against one embedding per prompt (as Inpaint Anything).

    Both in float32. The loop's time is one click's time multiplied. Without repeats each is
    measured once, because with ViT-B the loop would take ten minutes.
    """
    # The position of the click does not matter: only the time counts.
    scene = render("tray", FIRST_SEED, size=256)
    foreground, point_12 = ForegroundMask(scene.product_HW), np.array([[128, 128]])
    compute = devices.choose("cpu", "fp32")
    ours = SamProposals(sam, settings.model_copy(update={"points": CLICKS}), compute, decoder_batch)
    predictor = SamPredictor(sam)

    def click() -> None:
        predictor.set_image(scene.image_HW3)
        predictor.predict(point_12, np.ones(1))

    if repeats:
        fast, slow = in_turn([lambda: ours(scene.image_HW3, foreground), click], repeats)
    else:
        fast = seconds_of(lambda: ours(scene.image_HW3, foreground))
        slow = seconds_of(click)
    baseline = "embedded again per click (SamPredictor), one click times " + str(CLICKS)
    return Claim(f"{CLICKS} clicks, {name}", f"{fast:.3g} s", baseline, f"{CLICKS * slow:.3g} s",
                 CLICKS * slow / fast, None if repeats else 15)  # fmt: skip

"""Proposals: each filter compared with a plain computation, and the bundled model on a scene."""

from itertools import combinations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.imaging.masks import bounding_box
from pipeline.models import mask_filter, prompts, proposals
from pipeline.models.device import Compute
from pipeline.models.settings import ProposalSettings, softer
from pipeline.models.weights import store as weights
from pipeline.records import ForegroundMask

FP32 = Compute(torch.device("cpu"), torch.float32)
OPEN = ProposalSettings(
    min_area=0, max_area=1, min_foreground_overlap=0, max_foreground_share=1, max_border=1,
    min_predicted_iou=0, min_stability=0,
)  # fmt: skip
INSIDE = torch.ones(16, 16, dtype=torch.bool)


def logits(*boxes: tuple[int, int, int, int], value: float = 5.0) -> torch.Tensor:
    """One 16x16 logit map per box (x0 y0 x1 y1), `value` inside and -5 outside."""
    maps = torch.full((len(boxes), 16, 16), -5.0)
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        maps[index, y0:y1, x0:x1] = value
    return maps


def passes(maps: torch.Tensor, iou: float = 0.9, inside: torch.Tensor = INSIDE, **change):
    chosen = OPEN.model_copy(update=change)
    iou_N = np.full(len(maps), iou, np.float32)
    return mask_filter.passes(bits(maps), iou_N, inside.numpy(), chosen).tolist()


def bits(maps: torch.Tensor) -> mask_filter.MaskBits:
    return mask_filter.MaskBits.of(maps)


def test_each_limit_rejects_its_masks():
    small, middle, large = (7, 7, 9, 9), (4, 4, 10, 10), (1, 1, 15, 15)
    assert passes(logits(small, middle, large), min_area=0.05, max_area=0.5) == [False, True, False]
    assert passes(logits(middle), iou=0.4, min_predicted_iou=0.5) == [False]
    assert passes(logits(middle, value=0.5), min_stability=0.9) == [False]
    assert passes(logits((0, 0, 16, 3), middle), max_border=0.2) == [False, True]
    left = torch.zeros(16, 16, dtype=torch.bool)
    left[:, :8] = True
    straddling, inside = (4, 4, 12, 8), (1, 4, 7, 8)
    found = passes(logits(straddling, inside), inside=left, min_foreground_overlap=0.8)
    assert found == [False, True]
    assert passes(logits((0, 0, 8, 14)), inside=left, max_foreground_share=0.5) == [False]


def test_a_mask_that_shows_one_component_of_the_foreground_is_confirmed():
    labels_HW = np.zeros((32, 32), np.int32)
    labels_HW[4:8, 2:30], labels_HW[20:30, 4:14] = 1, 2
    labels = mask_filter.shrunk_labels(labels_HW, (16, 16))
    rod, half, both, beside = (1, 2, 15, 4), (1, 2, 7, 4), (1, 2, 15, 15), (9, 9, 15, 15)
    masks = bits(logits(rod, half, both, beside)).bits_NK
    assert mask_filter.confirmed(masks, labels).tolist() == [1, 0, 0, 0]
    assert mask_filter.confirmed(masks, np.zeros_like(labels)).tolist() == [0, 0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(16, 16), (13, 21), (1, 3)]), st.booleans())
def test_limits_on_bits_decide_as_sums_of_pixels_do(seed, size_hw, narrow):
    """The long way: every pixel compared and summed; the masks are cut out of wider ones."""
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(rng.normal(0, 1.5, (40, size_hw[0], size_hw[1] + 5)).astype("f4"))
    maps = maps[..., : size_hw[1]] + torch.from_numpy(rng.normal(0, 2, (40, 1, 1)).astype("f4"))
    inside_hw, iou_N = rng.random(size_hw) < 0.7, rng.random(40).astype(np.float32)
    # Odd limits, so that no count is equal to one of them.
    limits = ProposalSettings(
        min_area=0.1137, max_area=0.8137, min_foreground_overlap=0.6137,
        max_foreground_share=0.9137, max_border=0.7137,
        min_predicted_iou=0.3137, min_stability=0.3137,
    )  # fmt: skip
    frame_hw = np.ones(size_hw, np.bool_)
    frame_hw[1:-1, 1:-1] = False
    expected = []
    for map_hw, iou in zip(maps.numpy(), iou_N, strict=True):
        area = (map_hw > 0).sum()
        expected.append(
            iou >= 0.3137 and (map_hw > 1).sum() >= 0.3137 * (map_hw > -1).sum()
            and 0.1137 * map_hw.size <= area <= 0.8137 * map_hw.size
            and ((map_hw > 0) & inside_hw).sum() >= 0.6137 * area
            and ((map_hw > 0) & inside_hw).sum() <= 0.9137 * inside_hw.sum()
            and ((map_hw > 0) & frame_hw).sum() <= 0.7137 * frame_hw.sum()
        )  # fmt: skip
    # In pieces of any size, as for a cache of another size.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_filter, "AT_ONCE", 4 * map_hw.size * 7 if narrow else 1)
        found = mask_filter.passes(bits(maps), iou_N, inside_hw, limits)
    assert found.tolist() == expected
    assert len(mask_filter.passes(bits(maps[:0]), iou_N[:0], inside_hw, limits)) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_largest_component_is_the_one_of_the_whole_image(seed):
    """The long way: all pixels labelled, all closed."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.random((40, 60)).astype(np.float32), (0, 0), rng.uniform(0.5, 4))
    mask = noise > np.quantile(noise, rng.uniform(0.4, 0.98))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    largest = 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    whole = (labels == largest).astype(np.uint8)
    closed = cv2.morphologyEx(whole, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    part, share = mask_filter.largest_component(mask)
    assert np.array_equal(part, closed)
    assert share == whole.sum() / mask.sum()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_no_two_kept_masks_overlap_and_every_rejected_one_has_a_duplicate(seed, max_iou):
    rng = np.random.default_rng(seed)
    masks = torch.from_numpy(rng.random((12, 8, 8)) < rng.uniform(0.2, 0.9, (12, 1, 1)))
    kept = mask_filter.without_duplicates(mask_filter.packed(masks.numpy()), max_iou).tolist()

    def iou(a, b):
        return (masks[a] & masks[b]).sum().item() / max(1, (masks[a] | masks[b]).sum().item())

    assert all(iou(a, b) <= max_iou + 1e-6 for a in kept for b in kept if a < b)
    for rejected in set(range(12)) - set(kept):
        # With a tolerance, because this test divides where the code multiplies.
        assert any(iou(rejected, k) > max_iou - 1e-6 for k in kept if k < rejected)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 120))
def test_points_lie_in_the_foreground_in_about_the_wanted_number(seed, wanted):
    rng = np.random.default_rng(seed)
    mask = np.zeros((64, 96), np.bool_)
    y, x = rng.integers(0, 40), rng.integers(0, 60)
    mask[y : y + 24, x : x + 36] = True
    points = prompts.foreground_points(mask, wanted)
    assert mask[points[:, 1], points[:, 0]].all()
    assert 0.4 * wanted - 3 <= len(points) <= 2 * wanted + 3


def test_a_part_too_thin_for_the_lattice_gets_its_own_point():
    mask = np.zeros((64, 64), np.bool_)
    mask[10:50, 10:50] = True
    mask[60, 3:9] = True
    points = prompts.foreground_points(mask, 9)
    assert (points[:, 1] == 60).any()


def test_the_largest_component_is_kept_with_its_share():
    mask = np.zeros((20, 20), np.bool_)
    mask[2:12, 2:12] = True
    mask[15:18, 15:18] = True
    part, share = mask_filter.largest_component(mask)
    assert part.sum() == 100
    assert share == pytest.approx(100 / 109)
    assert mask_filter.largest_component(np.zeros((4, 4), np.bool_))[1] == 0.0


@pytest.fixture(scope="module")
def small():
    from pipeline.models.build import QUALITY, with_quality
    from pipeline.models.small_sam.build import small_sam

    sam = small_sam(weights.require("bundled-sam"))
    chosen = with_quality(ProposalSettings(), QUALITY["small"])
    return lambda compute=FP32, change=chosen: proposals.SamProposals(sam, change, compute)


@pytest.fixture(scope="module")
def scene():
    from scenes.render import render

    return render("tray", seed=123_456, size=256)


def test_the_bundled_model_finds_the_parts_of_a_rendered_tray(small, scene):
    found = small()(scene.image_HW3, ForegroundMask(scene.product_HW))
    assert not found.relaxed

    def best(mask):
        shared = (found.masks_NHW & mask).sum((1, 2))
        return (shared / (found.masks_NHW | mask).sum((1, 2))).max()

    hits = [best(instance.mask_HW) > 0.6 for instance in scene.instances]
    assert np.mean(hits) > 0.5, f"{sum(hits)} of {len(hits)} parts"


def test_edits_find_the_same_whatever_rule_books_ask_for_in_the_same_pass(
    small, scene, monkeypatch
):
    propose, foreground = small(), ForegroundMask(scene.product_HW)
    alone = propose(scene.image_HW3, foreground)
    embedded = []
    embed = propose._embed
    monkeypatch.setattr(propose, "_embed", lambda pixels: embedded.append(1) or embed(pixels))
    objects, parts = propose.with_parts(scene.image_HW3, foreground)
    assert embedded == [1]
    assert np.array_equal(objects.masks_NHW, alone.masks_NHW)
    assert np.array_equal(objects.scores_N, alone.scores_N)
    assert np.array_equal(parts.masks_NHW, propose.parts(scene.image_HW3, foreground).masks_NHW)
    # Softer limits: what is found under the others is nearly always found under these, too.
    assert len(parts) > len(objects)


def test_answers_in_boxes_pass_the_softer_limits(small, scene):
    boxes = [bounding_box(instance.mask_HW) for instance in scene.instances]
    ask = small().asked
    masks, scores = ask(scene.image_HW3, scene.product_HW, np.array(boxes, np.float32))
    limits = softer(ProposalSettings())
    assert len(masks) == len(scores) > 3
    assert (np.diff(scores) <= 0).all()
    assert (masks.mean((1, 2)) > 0.9 * limits.min_area).all()
    assert (masks.mean((1, 2)) < 1.1 * limits.max_area).all()
    ious = [(a & b).sum() / (a | b).sum() for a, b in combinations(masks, 2)]
    assert max(ious) < 0.95
    assert len(ask(scene.image_HW3, scene.product_HW, np.zeros((0, 4)))[0]) == 0


def test_in_boxes_a_part_keeps_its_variants_that_count_as_one_object_elsewhere(small, scene):
    boxes = [bounding_box(instance.mask_HW) for instance in scene.instances]
    masks = small().within(scene.image_HW3, np.array(boxes, np.float32))
    ious = [(a & b).sum() / (a | b).sum() for a, b in combinations(masks, 2)]
    assert max(ious) > ProposalSettings().max_iou
    # None is there twice.
    assert max(ious) < 1


def test_the_same_image_gives_the_same_masks_in_any_thread(small, scene):
    from concurrent.futures import ThreadPoolExecutor

    propose = small()
    foreground = ForegroundMask(scene.product_HW)
    torch.set_num_threads(1)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: propose(scene.image_HW3, foreground), range(4)))
    assert all(np.array_equal(found[0].masks_NHW, other.masks_NHW) for other in found[1:])


def test_in_one_row_with_boxes_points_get_the_masks_of_a_row_of_their_own(small, scene):
    """Where products are in bfloat16 on a CPU, the bits of an answer depend on no other prompt."""
    propose = small(Compute(torch.device("cpu"), torch.bfloat16))
    points = prompts.foreground_points(scene.product_HW, 20).astype(np.float64)
    boxes = np.array([bounding_box(one.mask_HW) for one in scene.instances[:5]], np.float32)
    with torch.inference_mode():
        both = propose._decode(scene.image_HW3, points, boxes)
        alone = propose._decode(scene.image_HW3, points, boxes[:0])
        others = propose._decode(scene.image_HW3, points[:0], boxes)
    assert len(others.iou_N) > 0
    assert both.ends == (len(alone.iou_N) + len(others.iou_N),)
    assert np.array_equal(both.iou_N, np.append(alone.iou_N, others.iou_N))
    assert torch.equal(both.logits_Nhw, torch.cat((alone.logits_Nhw, others.logits_Nhw)))


def test_limits_are_relaxed_step_by_step_and_recorded(small, scene):
    strict = ProposalSettings(min_predicted_iou=1.0, min_stability=0.999)
    found = small(change=strict)(scene.image_HW3, ForegroundMask(scene.product_HW))
    assert found.relaxed[:2] == ("area", "quality")


def test_no_proposal_is_made_up_when_none_passes(small):
    grey = np.full((64, 64, 3), 128, np.uint8)
    nothing = ProposalSettings(min_area=0.99, max_area=1.0, min_predicted_iou=1.0)
    found = small(change=nothing)(grey, ForegroundMask(np.ones((64, 64), np.bool_)))
    if len(found) == 0:
        assert found.relaxed == tuple(name for name, _ in mask_filter.RELAXATIONS)
    assert found.masks_NHW.shape[1:] == (64, 64)


def test_bf16_gives_nearly_the_same_masks(small, scene):
    foreground = ForegroundMask(scene.product_HW)
    exact = small()(scene.image_HW3, foreground)
    fast = small(Compute(torch.device("cpu"), torch.bfloat16))(scene.image_HW3, foreground)
    union = exact.masks_NHW.any(0) | fast.masks_NHW.any(0)
    assert (exact.masks_NHW.any(0) & fast.masks_NHW.any(0)).sum() / union.sum() > 0.9


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_relaxing_never_tightens_a_limit(min_area, max_area, share):
    before = ProposalSettings(min_area=min_area, max_area=max_area, max_foreground_share=share)
    for _, change in mask_filter.RELAXATIONS:
        after = mask_filter.relaxed_settings(before, change)
        assert after.min_area <= before.min_area
        assert after.max_area >= before.max_area
        assert after.max_foreground_share >= before.max_foreground_share


@torch.inference_mode()
@pytest.mark.parametrize("min_iou", [0.0, 0.3, 0.7, 2.0])
def test_confident_masks_equal_those_of_the_decoder(scene, min_iou):
    from pipeline.models.small_sam.build import small_sam
    from pipeline.models.small_sam.decoder import decode_confident

    sam = small_sam(weights.require("bundled-sam"))
    pixels = torch.from_numpy(scene.image_HW3).permute(2, 0, 1)[None].float()
    embedding = sam.image_encoder(sam.preprocess(pixels))
    points = torch.from_numpy(prompts.foreground_points(scene.product_HW, 12)).float()[:, None]
    sparse, dense = sam.prompt_encoder((points, torch.ones(len(points), 1)), None, None)
    position = sam.prompt_encoder.get_dense_pe()
    logits, iou = decode_confident(
        sam.mask_decoder, embedding, position, sparse, dense[:1], min_iou
    )
    every, predicted = sam.mask_decoder(embedding, position, sparse, dense, multimask_output=True)
    good = predicted.flatten() >= min_iou
    torch.testing.assert_close(iou, predicted.flatten()[good], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, every.flatten(0, 1)[good], atol=1e-2, rtol=1e-3)

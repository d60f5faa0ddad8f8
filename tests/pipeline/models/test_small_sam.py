"""The bundled small SAM: its size, its place among segment-anything's tools, what it has learnt."""

import cv2
import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import MaskDecoder

from pipeline.errors import WeightsError
from pipeline.models.small_sam.build import save_weights, small_sam
from pipeline.models.small_sam.decoder import decode_batch
from pipeline.models.small_sam.encoder import Features, unpack
from pipeline.models.weights import store as weights


@pytest.fixture(scope="module")
def sam():
    return small_sam(weights.require("bundled-sam"))


def disc(radius: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """An orange disc on a grey ground with some grain, and its mask."""
    mask = cv2.circle(np.zeros((256, 256), np.uint8), (128, 120), radius, 1, -1).astype(np.bool_)
    rng = np.random.default_rng(0)
    image = np.where(mask[..., None], (220, 130, 40), (150, 150, 155)) + rng.normal(
        0, 3, (256, 256, 3)
    )
    return np.clip(image, 0, 255).astype(np.uint8), mask


def test_the_budget_holds(sam):
    assert sum(p.numel() for p in sam.parameters()) <= 5_000_000
    assert weights.require("bundled-sam").stat().st_size <= 10_000_000


def test_a_plain_object_is_found_from_one_point(sam):
    image, mask = disc()
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    found, scores, _ = predictor.predict(np.array([[128, 120]]), np.array([1]))
    best = found[scores.argmax()]
    assert (best & mask).sum() / (best | mask).sum() > 0.8


def test_the_stock_mask_generator_runs_on_it(sam):
    image, mask = disc()
    stock = SamAutomaticMaskGenerator(
        sam, points_per_side=6, pred_iou_thresh=0.5, stability_score_thresh=0.5
    )
    found = [record["segmentation"] for record in stock.generate(image)]
    assert max((m & mask).sum() / (m | mask).sum() for m in found) > 0.8


def test_half_precision_on_disk_changes_no_mask_by_much(tmp_path):
    torch.manual_seed(0)
    before = small_sam()
    save_weights(before, tmp_path / "sam.safetensors")
    after = small_sam(tmp_path / "sam.safetensors")
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_cut_file_is_one_clear_error(tmp_path):
    path = tmp_path / "sam.safetensors"
    path.write_bytes(weights.require("bundled-sam").read_bytes()[:5000])
    with pytest.raises(WeightsError, match="cut short"):
        small_sam(path)


def drawn_features(pictures: int, seed: int = 0) -> Features:
    torch.manual_seed(seed)
    return Features(
        torch.randn(pictures, 128, 16, 16),
        torch.randn(pictures, 32, 32, 32),
        torch.randn(pictures, 16, 64, 64),
        torch.randn(pictures, 16, 128, 128),
    )


def asked(model, count: int):
    """Embedded points, the "no mask" map and the positions, for `count` prompts."""
    labels = torch.ones(count, 1, dtype=torch.int)
    points = torch.rand(count, 1, 2) * 256
    return *model.prompt_encoder((points, labels), None, None), model.prompt_encoder.get_dense_pe()


def test_packed_features_come_back_as_they_were():
    features = drawn_features(2)
    for before, after in zip(features, unpack(features.pack()), strict=True):
        assert torch.equal(before, after)


@torch.inference_mode()
def test_without_finer_maps_the_decoder_is_segment_anythings_own():
    model = small_sam()
    features = drawn_features(1)
    plain = Features(features.embedding_BChw, *[torch.zeros_like(m) for m in features[1:]])
    sparse, dense, position = asked(model, 3)
    masks, quality = model.mask_decoder.predict_masks(plain.pack(), position, sparse, dense)
    original = MaskDecoder.predict_masks(
        model.mask_decoder, plain.embedding_BChw, position, sparse, dense
    )
    doubled = torch.nn.functional.interpolate(original[0], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(masks, doubled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quality, original[1], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_many_pictures_at_once_give_what_each_gives_alone():
    model, features = small_sam(), drawn_features(2)
    sparse, dense, position = asked(model, 6)
    masks, quality = decode_batch(model.mask_decoder, features, dense[:1], position, sparse)
    for picture in range(2):
        own = slice(3 * picture, 3 * picture + 3)
        alone = Features(*[one[picture : picture + 1] for one in features])
        reference = model.mask_decoder.predict_masks(
            alone.pack(), position, sparse[own], dense[own]
        )
        torch.testing.assert_close(masks[own], reference[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(quality[own], reference[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("level", "stride"), [(1, 4), (2, 2), (3, 1)])
@torch.inference_mode()
def test_a_finer_map_changes_the_masks_where_it_changed_and_nowhere_else(level, stride):
    model, maps = small_sam(), list(drawn_features(1))
    sparse, dense, position = asked(model, 1)
    before, _ = decode_batch(model.mask_decoder, Features(*maps), dense, position, sparse)
    row, column = maps[level].shape[2] // 3, maps[level].shape[3] // 2 + 1
    maps[level] = maps[level].clone()
    maps[level][0, :, row, column] += torch.randn(maps[level].shape[1])
    after, _ = decode_batch(model.mask_decoder, Features(*maps), dense, position, sparse)
    ys, xs = torch.nonzero((after - before).abs().amax((0, 1)) > 1e-4, as_tuple=True)
    around = stride // 2 + (stride > 1)  # doubling by interpolation reaches one pixel further
    assert (ys - stride * row - (stride - 1) / 2).abs().max() <= around + 0.5
    assert (xs - stride * column - (stride - 1) / 2).abs().max() <= around + 0.5


def test_a_mask_may_be_given_back_as_a_prompt(sam):
    image, mask = disc()
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    point = np.array([[128, 120]]), np.array([1])
    _, scores, logits = predictor.predict(*point)
    again, _, _ = predictor.predict(*point, mask_input=logits[[scores.argmax()]])
    assert again.shape == (3, *mask.shape)

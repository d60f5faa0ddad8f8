"""The bundled small SAM: its size, its use with segment-anything's tools, what it has learnt."""

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
    """An orange disc on a grey background with sensor noise, and its mask."""
    mask = cv2.circle(np.zeros((256, 256), np.uint8), (128, 120), radius, 1, -1).astype(np.bool_)
    rng = np.random.default_rng(0)
    image = np.where(mask[..., None], (220, 130, 40), (150, 150, 155)) + rng.normal(
        0, 3, (256, 256, 3)
    )
    return np.clip(image, 0, 255).astype(np.uint8), mask


def test_parameters_and_file_size_are_limited(sam):
    assert sum(p.numel() for p in sam.parameters()) <= 5_000_000
    assert weights.require("bundled-sam").stat().st_size <= 10_000_000


def test_a_plain_object_is_found_from_one_point(sam):
    image, mask = disc()
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    found, scores, _ = predictor.predict(np.array([[128, 120]]), np.array([1]))
    best = found[scores.argmax()]
    assert (best & mask).sum() / (best | mask).sum() > 0.8


def test_the_original_mask_generator_runs_on_it(sam):
    image, mask = disc()
    generator = SamAutomaticMaskGenerator(
        sam, points_per_side=6, pred_iou_thresh=0.5, stability_score_thresh=0.5
    )
    found = [record["segmentation"] for record in generator.generate(image)]
    assert max((m & mask).sum() / (m | mask).sum() for m in found) > 0.8


def test_saving_in_float16_keeps_the_weights_close(tmp_path):
    torch.manual_seed(0)
    before = small_sam()
    save_weights(before, tmp_path / "sam.safetensors")
    after = small_sam(tmp_path / "sam.safetensors")
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_truncated_file_is_a_clear_error(tmp_path):
    path = tmp_path / "sam.safetensors"
    path.write_bytes(weights.require("bundled-sam").read_bytes()[:5000])
    with pytest.raises(WeightsError, match="cut short"):
        small_sam(path)


def random_features(images: int, seed: int = 0) -> Features:
    torch.manual_seed(seed)
    return Features(
        torch.randn(images, 128, 16, 16),
        torch.randn(images, 32, 32, 32),
        torch.randn(images, 16, 64, 64),
        torch.randn(images, 16, 128, 128),
    )


def embed_prompts(model, count: int):
    """Embedded random points, the "no mask" map and the positions, for `count` prompts."""
    labels = torch.ones(count, 1, dtype=torch.int)
    points = torch.rand(count, 1, 2) * 256
    return *model.prompt_encoder((points, labels), None, None), model.prompt_encoder.get_dense_pe()


def test_packing_features_round_trips():
    features = random_features(2)
    for before, after in zip(features, unpack(features.pack()), strict=True):
        assert torch.equal(before, after)


@torch.inference_mode()
def test_without_finer_maps_the_decoder_equals_segment_anythings():
    model = small_sam()
    features = random_features(1)
    plain = Features(features.embedding_BChw, *[torch.zeros_like(m) for m in features[1:]])
    sparse, dense, position = embed_prompts(model, 3)
    masks, quality = model.mask_decoder.predict_masks(plain.pack(), position, sparse, dense)
    original = MaskDecoder.predict_masks(
        model.mask_decoder, plain.embedding_BChw, position, sparse, dense
    )
    doubled = torch.nn.functional.interpolate(original[0], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(masks, doubled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quality, original[1], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_batch_of_images_equals_single_images():
    model, features = small_sam(), random_features(2)
    sparse, dense, position = embed_prompts(model, 6)
    masks, quality = decode_batch(model.mask_decoder, features, dense[:1], position, sparse)
    for image in range(2):
        own = slice(3 * image, 3 * image + 3)
        alone = Features(*[one[image : image + 1] for one in features])
        reference = model.mask_decoder.predict_masks(
            alone.pack(), position, sparse[own], dense[own]
        )
        torch.testing.assert_close(masks[own], reference[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(quality[own], reference[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("level", "stride"), [(1, 4), (2, 2), (3, 1)])
@torch.inference_mode()
def test_a_finer_map_changes_the_masks_only_near_its_own_change(level, stride):
    model, maps = small_sam(), list(random_features(1))
    sparse, dense, position = embed_prompts(model, 1)
    before, _ = decode_batch(model.mask_decoder, Features(*maps), dense, position, sparse)
    row, column = maps[level].shape[2] // 3, maps[level].shape[3] // 2 + 1
    maps[level] = maps[level].clone()
    maps[level][0, :, row, column] += torch.randn(maps[level].shape[1])
    after, _ = decode_batch(model.mask_decoder, Features(*maps), dense, position, sparse)
    ys, xs = torch.nonzero((after - before).abs().amax((0, 1)) > 1e-4, as_tuple=True)
    # Bilinear upsampling reaches one pixel further.
    around = stride // 2 + (stride > 1)
    assert (ys - stride * row - (stride - 1) / 2).abs().max() <= around + 0.5
    assert (xs - stride * column - (stride - 1) / 2).abs().max() <= around + 0.5


def test_a_mask_can_be_used_as_a_prompt(sam):
    image, mask = disc()
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    point = np.array([[128, 120]]), np.array([1])
    _, scores, logits = predictor.predict(*point)
    again, _, _ = predictor.predict(*point, mask_input=logits[[scores.argmax()]])
    assert again.shape == (3, *mask.shape)

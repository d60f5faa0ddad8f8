"""The bundled small SAM: its size, its place among segment-anything's tools, what it has learnt."""

import cv2
import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from pipeline import weights
from pipeline.errors import WeightsError
from pipeline.small_sam import save_weights, small_sam
from pretraining.batched_decoder import decode_batch


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


def test_training_decodes_many_pictures_as_the_original_decodes_one():
    torch.manual_seed(0)
    model = small_sam()
    embedding, points = torch.randn(2, 128, 16, 16), torch.rand(6, 1, 2) * 256
    position = model.prompt_encoder.get_dense_pe()
    labels = torch.ones(6, 1, dtype=torch.int)
    with torch.inference_mode():
        sparse, dense = model.prompt_encoder((points, labels), None, None)
        masks, quality = decode_batch(model.mask_decoder, embedding + dense[:1], position, sparse)
        for picture in range(2):
            own = slice(3 * picture, 3 * picture + 3)
            reference = model.mask_decoder.predict_masks(
                embedding[picture : picture + 1], position, sparse[own], dense[own]
            )
            torch.testing.assert_close(masks[own], reference[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(quality[own], reference[1], rtol=1e-4, atol=1e-5)

"""EfficientAD's training losses against plain formulas: hard loss, jitter, penalties."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from small_efficientad import small_efficientad
from toy_normals import ToyBatches, toy_images

from detectors.base import Batch
from detectors.models.efficientad.model import hard_loss, jittered, masked_mean
from pipeline.errors import UserError
from pipeline.models.backbone import normalise

# --- against independent references ---------------------------------------------------------------


@settings(deadline=None)
@given(
    seed=st.integers(0, 100),
    quantile=st.sampled_from([0.0, 0.5, 0.9, 0.97, 0.999]),
    coarse=st.booleans(),
)
def test_the_hard_loss_is_the_mean_above_each_images_quantile(
    seed: int, quantile: float, coarse: bool
) -> None:
    torch.manual_seed(seed)
    target, found = torch.randn(2, 3, 5, 4, 4)
    # Rounded values give many equal differences.
    if coarse:
        target, found = target.round(), found.round()
    expected = []
    for one, other in zip(target, found, strict=True):
        squares = ((one - other) ** 2).flatten()
        expected.append(squares[squares >= torch.quantile(squares, quantile)].mean())
    loss = hard_loss(target, found, quantile)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    assert loss >= F.mse_loss(found, target) - 1e-6


def test_the_losses_are_the_formulas_of_the_paper() -> None:
    detector = small_efficientad(dropout=0.0, hard_quantile=0.9).train()
    detector.prepare(ToyBatches(toy_images(8)))
    # Images 0 and 1 of the prepared ones, so cached features are used.
    images = toy_images(8)[:2]
    torch.manual_seed(5)
    terms = detector.losses({"image": images, "index": torch.arange(2)}, 0, 10)
    torch.manual_seed(5)
    other = normalise(jittered(images))
    clean = normalise(images)
    channels = detector.teacher.channels
    whole = detector.student(clean)
    assert whole.shape[1] == 2 * channels
    jittered_student = detector.student(other)[:, channels:]
    autoencoder = detector.autoencoder(other)
    teacher = detector.teacher(other)
    expected = {
        "student": hard_loss(detector.teacher(clean), whole[:, :channels], 0.9),
        "autoencoder": ((teacher - autoencoder) ** 2).mean(),
        "student_autoencoder": ((autoencoder - jittered_student) ** 2).mean(),
    }
    torch.testing.assert_close(terms, expected)


def test_the_jitter_equals_pillows() -> None:
    image = torch.randint(0, 256, (1, 3, 16, 20), dtype=torch.uint8)
    pillow = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    editors = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        which = int(torch.randint(3, (1, 1, 1, 1)))
        factor = 1 + 0.2 * (2 * float(torch.rand((1, 1, 1, 1))) - 1)
        expected = np.asarray(editors[which](pillow).enhance(factor)).transpose(2, 0, 1)
        torch.manual_seed(seed)
        found = jittered(image)[0].numpy()
        # Pillow rounds the grey image before it blends.
        assert np.abs(found.astype(int) - expected).max() <= 2, which
        seen.add(which)
    assert seen == {0, 1, 2}


# --- penalties ------------------------------------------------------------------------------------


def sources(count: int, label: int) -> Batch:
    """A batch of the view `sources` with a white square as edit, all of one label."""
    images = toy_images(count)
    edited = images.clone()
    edited[:, :, 24:40, 24:40] = 255
    masks = torch.zeros(count, 64, 64, dtype=torch.uint8)
    masks[:, 24:40, 24:40] = 1
    return {
        "original": images, "edited": edited, "mask": masks,
        "label": torch.full((count,), label), "kind": torch.zeros(count, dtype=torch.int64),
        "index": torch.arange(count) + 100,
    }  # fmt: skip


def test_the_synthetic_penalty_is_the_mean_square_on_the_edited_cells() -> None:
    detector = small_efficientad(penalty="synthetic").train()
    assert detector.view == "sources"
    assert (detector.settings.sources().clean_share, detector.settings.sources().controls) == (
        0,
        False,
    )
    detector.prepare(ToyBatches(toy_images(8)))
    batch = sources(2, label=1)
    found = detector.losses(batch, 0, 10)["penalty"]
    half = detector.student(normalise(batch["edited"]))[:, : detector.teacher.channels]
    # Pixels 24 to 39 lie on cells 2 to 5 of the eight, which begin at pixel 16.
    torch.testing.assert_close(found, (half[:, :, 2:6, 2:6] ** 2).mean(), rtol=1e-4, atol=1e-6)
    assert detector.losses(sources(2, label=0), 0, 10)["penalty"].item() == 0


def test_a_mask_outside_all_cells_gives_zero() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, :8] = 1
    assert masked_mean(torch.ones(1, 3, 8, 8), masks).item() == 0


def test_the_imagenet_penalty_is_the_mean_square_on_the_folders_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    detector = small_efficientad(penalty="imagenet", penalty_folder=tmp_path).train()
    detector.prepare(ToyBatches(toy_images(8)))
    assert detector.penalty_images is not None
    torch.manual_seed(3)
    terms = detector.losses({"image": toy_images(1), "index": torch.arange(1)}, 0, 10)
    torch.manual_seed(3)
    # The jitter draws first.
    jittered(toy_images(1))
    drawn = normalise(detector.penalty_images.draw(1, torch.device("cpu")))
    half = detector.student(drawn)[:, : detector.teacher.channels]
    torch.testing.assert_close(terms["penalty"], (half**2).mean(), rtol=1e-4, atol=1e-6)


def test_a_penalty_without_images_is_rejected_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="penalty_folder"):
        small_efficientad(penalty="imagenet").prepare(ToyBatches(toy_images(2)))
    with pytest.raises(UserError, match="found none"):
        small_efficientad(penalty="imagenet", penalty_folder=tmp_path).prepare(
            ToyBatches(toy_images(2))
        )

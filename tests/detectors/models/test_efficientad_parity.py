"""EfficientAD against a second implementation with the same weights: losses, gradients, maps."""

from dataclasses import dataclass
from functools import partial

import efficientad_reference as reference
import pytest
import torch
from reference_tensors import copied
from toy_normals import ToyBatches, toy_images

from detectors.models.efficientad import model as efficientad
from detectors.models.efficientad.model import EfficientAd
from detectors.models.efficientad.settings import EfficientAdSettings
from detectors.networks.pdn import Pdn
from detectors.networks.teachers import PdnTeacher

TRAIN, VALIDATION = toy_images(3, size=256), toy_images(3, size=256, seed=1)
KINDS = {"small": reference.SMALL, "medium": reference.MEDIUM}
NEAR = {"rtol": 1e-3, "atol": 1e-5}


@dataclass(frozen=True)
class FixedImages:
    """Stands for a folder: always the same images."""

    images: torch.Tensor
    paths: tuple[str, ...] = ("one",)

    def draw(self, count: int, device: torch.device) -> torch.Tensor:
        return self.images[:count].to(device)


def darker(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Stands for the random jitter."""
    return images - images // 5


def made(kind: str, natural: torch.Tensor | None = None, border: str = "zero") -> EfficientAd:
    """A detector of 256 px with narrow networks, prepared and calibrated.

    With `natural` images it has the ImageNet penalty.
    """
    torch.manual_seed(0)
    settings = EfficientAdSettings(
        pdn=kind, width=0.0625, autoencoder_width=0.25, dropout=0.0, border=border,
        penalty="none" if natural is None else "imagenet",
    )  # fmt: skip
    detector = EfficientAd(settings, PdnTeacher(Pdn(kind, 12, width=0.0625)))
    detector.penalty_images = None if natural is None else FixedImages(natural)
    # As if trained: biases that are not zero, and maps that do not vanish.
    with torch.no_grad():
        for value in detector.parameters():
            value += 0.02 * torch.randn_like(value)
    detector.prepare(ToyBatches(TRAIN))
    detector.calibrate(ToyBatches(TRAIN), ToyBatches(VALIDATION))
    return detector.train()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_their_gradients_are_those_of_algorithm_1(kind, monkeypatch):
    monkeypatch.setattr(efficientad, "jittered", darker)
    natural = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    detector, image = made(kind, natural), TRAIN[1:2]
    found = detector.losses({"image": image, "index": torch.tensor([1])}, 0, 10)
    weights = copied(detector)
    expected = reference.losses(
        weights, TRAIN, image, darker(image, 0.2), natural, layers=KINDS[kind]
    )
    torch.testing.assert_close(found, expected, **NEAR)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    for name, value in detector.named_parameters():
        if name.startswith("teacher"):
            assert value.grad is None
        else:
            # The autoencoder's includes the pull of L_STAE: nothing is detached.
            near = 1e-3 * float(weights[name].grad.abs().max())
            torch.testing.assert_close(value.grad, weights[name].grad, rtol=1e-2, atol=near)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_map_and_score_are_those_of_algorithm_2_and_the_public_code(kind):
    detector, images = made(kind).eval(), toy_images(4, size=256, seed=9)
    images[:, 0, 120:136, 80:180] = 250
    fused_Bhw = reference.fused(copied(detector), TRAIN, VALIDATION, images, layers=KINDS[kind])
    assert (fused_Bhw.amax((1, 2)) > 0).all()
    scores, expected_BHW = detector(images), reference.image_map(fused_Bhw)
    torch.testing.assert_close(scores.maps_BHW, expected_BHW, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scores.image_B, expected_BHW.amax((1, 2)), rtol=1e-3, atol=1e-3)


# --- the border -----------------------------------------------------------------------------------


def some_maps() -> torch.Tensor:
    """Fused maps whose highest cell is near 0, on the border or inside, and below 0."""
    torch.manual_seed(0)
    maps = -torch.rand(6, 56, 56)
    maps[0, 20, 30] = 0.4
    maps[1, 0, 55] = 0.4
    maps[2, 0, 20] = 0.01
    maps[3, 20, 20] = 0.0
    maps[4] = maps[4].clamp_max(-0.3)
    maps[5] = maps[5].clamp_max(-0.1)
    return maps


def test_scores_and_maps_equal_the_public_codes_where_a_cell_reaches_zero():
    detector, maps = made("small"), some_maps()
    expected_BHW = reference.image_map(maps[:4])
    assert torch.equal(detector.map_scores(maps[:4]), expected_BHW.amax((1, 2)))
    assert torch.equal(detector.at_image_size(maps[:4]), expected_BHW)


def test_padding_never_exceeds_the_highest_cell():
    detector, maps = made("small"), some_maps()
    # The public code gives both last images the zero of its padding.
    assert reference.image_map(maps[4:]).amax((1, 2)).tolist() == [0, 0]
    found_B = detector.map_scores(maps)
    torch.testing.assert_close(found_B[4:], maps[4:].amax((1, 2)))
    assert found_B[4] < found_B[5] < 0


def test_the_border_can_have_the_lowest_value_of_each_map():
    detector, maps = made("small", border="lowest"), some_maps()
    found_BHW = detector.at_image_size(maps)
    torch.testing.assert_close(found_BHW[:, 0, 0], maps.amin((1, 2)))
    inner = slice(20, -20)
    standard_BHW = made("small").at_image_size(maps)
    torch.testing.assert_close(found_BHW[:, inner, inner], standard_BHW[:, inner, inner])
    assert torch.equal(detector.map_scores(maps), made("small").map_scores(maps))


# --- the penalty ----------------------------------------------------------------------------------


def test_the_penalty_follows_its_folder_and_its_absence_is_said(tmp_path):
    settings = partial(EfficientAdSettings, penalty_folder=tmp_path)
    assert settings().penalty_used == "imagenet"
    assert settings().notes() == ()
    assert EfficientAdSettings().penalty_used == "none"
    assert "penalty_folder" in EfficientAdSettings().notes()[0]
    # Chosen, not missing.
    assert EfficientAdSettings(penalty="none").notes() == ()
    assert "no effect" in settings(penalty="none").notes()[0]

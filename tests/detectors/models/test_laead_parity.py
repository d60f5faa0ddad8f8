"""LA-EAD against a second implementation with the same weights: loss sum, extractor, score."""

import efficientad_reference as reference
import numpy as np
import torch
from reference_tensors import copied, scaled
from toy_normals import ToyBatches, toy_images

from detectors.models.efficientad import model as efficientad
from detectors.models.laead.model import LaEad, LaEadSettings
from detectors.networks.pdn import Pdn
from detectors.networks.teachers import PdnTeacher

TRAIN, VALIDATION = toy_images(6, size=256), toy_images(5, size=256, seed=1)
HEADS = 2


def darker(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Stands for the random jitter."""
    return images - images // 5


def made() -> LaEad:
    """A detector of 256 px with narrow networks, prepared and calibrated."""
    torch.manual_seed(0)
    settings = LaEadSettings(
        pdn="small", width=0.0625, autoencoder_width=0.25, dropout=0.0, extractor_width=0.03125,
        heads=HEADS,
    )  # fmt: skip
    detector = LaEad(settings, PdnTeacher(Pdn("small", 12, width=0.0625)))
    # As if trained: biases that are not zero, and maps that do not vanish.
    with torch.no_grad():
        for value in detector.parameters():
            value += 0.02 * torch.randn_like(value)
    detector.prepare(ToyBatches(TRAIN))
    detector.calibrate(ToyBatches(TRAIN), ToyBatches(VALIDATION))
    with torch.no_grad():
        normals_NP = detector.parts(VALIDATION).double()
    detector.fuse(normals_NP, normals_NP[:0], torch.zeros(0), torch.zeros(0))
    return detector.train()


def test_the_loss_and_its_gradients_are_the_papers_sum(monkeypatch):
    """L = L_TS + L_TAE + L_SAE + L_TE + 0.1 L_RDC, and no penalty."""
    monkeypatch.setattr(efficientad, "jittered", darker)
    detector, image = made(), TRAIN[1:2]
    weights, layers = copied(detector), reference.SMALL
    jittered = darker(image, 0.2)
    terms = reference.losses(weights, TRAIN, image, jittered, penalty=None, layers=layers)
    # The constraint compares the squared errors of both networks on the jittered image.
    target = reference.teacher(weights, jittered, TRAIN, layers)
    of_autoencoder = (target - reference.autoencoder(weights, scaled(jittered))) ** 2
    of_student = (target - reference.student(weights, jittered, layers)[1]) ** 2
    constraint = ((of_autoencoder - of_student) ** 2).mean()
    # The extractor imitates the teacher on the clean image.
    missed = reference.extractor(weights, image, HEADS) - reference.teacher(
        weights, image, TRAIN, layers
    )
    expected = sum(terms.values()) + (missed**2).mean() + 0.1 * constraint
    found = sum(detector.losses({"image": image, "index": torch.tensor([1])}, 0, 10).values())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    found.backward()
    expected.backward()
    trained = [name for name, value in detector.named_parameters() if value.requires_grad]
    assert {name.split(".")[0] for name in trained} == {"student", "autoencoder", "extractor"}
    for name, value in detector.named_parameters():
        if value.requires_grad:
            near = 1e-3 * float(weights[name].grad.abs().max())
            torch.testing.assert_close(value.grad, weights[name].grad, rtol=1e-2, atol=near)


@torch.no_grad()
def test_the_score_is_that_of_algorithm_1():
    """The extractor's mean features take the place of the student's in PUAD's score."""
    detector, images = made().eval(), toy_images(4, size=256, seed=9)
    images[:, 0, 120:136, 80:180] = 250
    weights = copied(detector)

    def features(of: torch.Tensor) -> np.ndarray:
        return reference.extractor(weights, of, HEADS).double().mean((2, 3)).numpy()

    def map_scores(of: torch.Tensor) -> np.ndarray:
        fused_Bhw = reference.fused(weights, TRAIN, VALIDATION, of, reference.SMALL)
        return reference.image_map(fused_Bhw).amax((1, 2)).double().numpy()

    found_BC = detector.raw_outputs(images).pooled_BC
    np.testing.assert_allclose(found_BC, features(images), rtol=1e-3, atol=1e-5)
    expected_B = reference.puad_scores(
        (map_scores(VALIDATION), map_scores(images)),
        (features(TRAIN), features(VALIDATION), features(images)),
    )
    np.testing.assert_allclose(detector(images).image_B, expected_B, rtol=5e-3, atol=5e-3)

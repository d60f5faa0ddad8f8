"""PUAD against a second implementation with the same weights: EfficientAD's score plus distance."""

import efficientad_reference as reference
import numpy as np
import torch
from reference_tensors import copied
from toy_normals import ToyBatches, toy_images

from detectors.models.puad.model import Puad, PuadSettings
from detectors.networks.pdn import Pdn
from detectors.networks.teachers import PdnTeacher

TRAIN, VALIDATION = toy_images(6, size=256), toy_images(5, size=256, seed=1)


@torch.no_grad()
def test_the_score_is_that_of_the_paper():
    torch.manual_seed(0)
    settings = PuadSettings(pdn="small", width=0.0625, autoencoder_width=0.25)
    detector = Puad(settings, PdnTeacher(Pdn("small", 12, width=0.0625)))
    # As if trained: biases that are not zero, and maps that do not vanish.
    for value in detector.parameters():
        value += 0.02 * torch.randn_like(value)
    detector.eval().prepare(ToyBatches(TRAIN))
    detector.calibrate(ToyBatches(TRAIN), ToyBatches(VALIDATION))
    normals_NP = detector.parts(VALIDATION).double()
    detector.fuse(normals_NP, normals_NP[:0], torch.zeros(0), torch.zeros(0))
    images = toy_images(4, size=256, seed=9)
    images[:, 0, 120:136, 80:180] = 250
    weights = copied(detector)

    def features(of: torch.Tensor) -> np.ndarray:
        # The half that imitates the teacher, averaged over the cells.
        return reference.student(weights, of, reference.SMALL)[0].double().mean((2, 3)).numpy()

    def map_scores(of: torch.Tensor) -> np.ndarray:
        fused_Bhw = reference.fused(weights, TRAIN, VALIDATION, of, reference.SMALL)
        return reference.image_map(fused_Bhw).amax((1, 2)).double().numpy()

    expected_B = reference.puad_scores(
        (map_scores(VALIDATION), map_scores(images)),
        (features(TRAIN), features(VALIDATION), features(images)),
    )
    # Far above the normals, as the images have a red bar.
    assert expected_B.min() > 2
    np.testing.assert_allclose(detector(images).image_B, expected_B, rtol=2e-3, atol=2e-3)

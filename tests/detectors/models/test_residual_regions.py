"""SemRec and GLCF with `regions`: the residuals' score beside the published one."""

import numpy as np
import pytest
import torch
from small_glcf import small_glcf, with_block
from toy_normals import judged, onnx_scores, toy_images

from detectors.base import Detector
from detectors.models.semrec.model import SemRec, SemRecSettings, residual
from detectors.registry import PROFILES, configure
from pipeline.models.backbone import Trunk

REGIONS = (1, 2)


def made(name: str) -> Detector:
    """A small detector of random weights."""
    if name == "glcf":
        return small_glcf(regions=REGIONS, score="distance")
    torch.manual_seed(0)
    settings = SemRecSettings(
        size=64, teacher="bundled-teacher", branches="object", regions=REGIONS
    )
    return SemRec(settings, Trunk((8, 16, 32))).eval()


@pytest.fixture(scope="module", params=["semrec", "glcf"])
def fitted(request: pytest.FixtureRequest) -> Detector:
    samples = torch.cat([with_block(6, seed=5), toy_images(6, seed=6)])
    labels_M = torch.arange(12) // 6 == 0
    return judged(
        made(request.param), toy_images(8), toy_images(8, seed=1), samples, labels_M.long()
    )


@pytest.mark.parametrize("name", ["semrec", "glcf"])
def test_only_the_profile_cpu_has_regions(name: str) -> None:
    of = {
        profile: configure(name, profile).settings.regions for profile in ("paper", "cpu", "tiny")
    }
    assert [one for one in PROFILES if of[one]] == ["cpu"]


@torch.no_grad()
def test_the_score_is_that_of_its_parts_in_every_precision(fitted: Detector) -> None:
    images = with_block(3, seed=9)
    scores = fitted(images)
    torch.testing.assert_close(
        fitted.combined(fitted.parts(images)), scores.image_B, rtol=1e-4, atol=1e-4
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fitted(images).image_B, scores.image_B)


@torch.no_grad()
def test_a_state_dict_is_the_whole_detector(fitted: Detector) -> None:
    other = made("semrec" if isinstance(fitted, SemRec) else "glcf")
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other(toy_images(2)).image_B, fitted(toy_images(2)).image_B)


def test_semrecs_residual_does_not_depend_on_the_length_of_the_decoded_features() -> None:
    """Which the loss, a cosine distance, leaves open."""
    target = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    decoded = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    left = residual(target, decoded)
    torch.testing.assert_close(left, residual(target, 7 * decoded))
    torch.testing.assert_close(residual(target, -3 * target), torch.zeros_like(target),
                               atol=1e-4, rtol=0)  # fmt: skip
    # Least squares, cell by cell.
    for at in ((0, 0, 0), (1, 2, 1)):
        t, d = (one[at[0], :, at[1], at[2]].double().numpy() for one in (target, decoded))
        factor = np.linalg.lstsq(d[:, None], t, rcond=None)[0]
        np.testing.assert_allclose(left[at[0], :, at[1], at[2]], t - factor * d, atol=1e-4)


@pytest.mark.slow
def test_onnxruntime_gives_the_same_scores(fitted: Detector) -> None:
    images = with_block(3, seed=9)
    image_B, maps_BHW = onnx_scores(fitted, images)
    with torch.no_grad():
        expected = fitted(images)
    np.testing.assert_allclose(image_B, expected.image_B, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(maps_BHW, expected.maps_BHW, rtol=1e-2, atol=1e-2)

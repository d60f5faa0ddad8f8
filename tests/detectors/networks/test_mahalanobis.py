"""The Mahalanobis distance from normal features, against scikit-learn and SciPy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance, LedoitWolf

from detectors.networks.mahalanobis import Covariance, Gaussian
from pipeline.errors import UserError


def drawn(count: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    """Correlated features with a mean."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions))
    return torch.from_numpy(rng.normal(size=(count, dimensions)) @ mixing + 3).float()


def fitted(features_ND: torch.Tensor, covariance: Covariance, **options: bool) -> Gaussian:
    gaussian = Gaussian(features_ND.shape[1], **options)
    gaussian.fit(features_ND, covariance)
    return gaussian


# --- against independent references ---------------------------------------------------------------


@pytest.mark.parametrize("count", [12, 200], ids=["fewer than dimensions", "more"])
def test_shrunk_distances_are_scikit_learns(count: int) -> None:
    train, others = drawn(count, 24), drawn(9, 24, seed=1)
    reference = LedoitWolf().fit(train.double().numpy())
    expected = np.sqrt(reference.mahalanobis(others.double().numpy()))
    np.testing.assert_allclose(fitted(train, "ledoit_wolf")(others), expected, rtol=1e-5)


def test_the_sample_covariance_is_that_of_scikit_learn_and_scipy() -> None:
    train, others = drawn(100, 8), drawn(5, 8, seed=1)
    squared = fitted(train, "sample_pinv", root=False)(others)
    reference = EmpiricalCovariance().fit(train.double().numpy())
    # scikit-learn divides by N, this by N - 1 as the paper.
    expected = reference.mahalanobis(others.double().numpy()) * 99 / 100
    np.testing.assert_allclose(squared, expected, rtol=1e-4)
    inverse = np.linalg.inv(np.cov(train.double().numpy().T))
    mean = train.double().numpy().mean(0)
    for distance, other in zip(fitted(train, "sample_pinv")(others), others, strict=True):
        assert distance == pytest.approx(mahalanobis(other.numpy(), mean, inverse), rel=1e-4)


def test_a_ridge_is_added_to_the_diagonal() -> None:
    train, others = drawn(10, 16), drawn(4, 16, seed=2)
    gaussian = Gaussian(16)
    gaussian.fit(train, "sample_ridge", ridge=0.5)
    sample = np.cov(train.double().numpy().T)
    inverse = np.linalg.inv(sample + 0.5 * np.trace(sample) / 16 * np.eye(16))
    mean = train.double().numpy().mean(0)
    expected = [mahalanobis(other.numpy(), mean, inverse) for other in others]
    np.testing.assert_allclose(gaussian(others), expected, rtol=1e-5)


# --- properties -----------------------------------------------------------------------------------


def test_without_shrinkage_directions_without_variance_are_ignored() -> None:
    train = drawn(6, 16)
    _, _, rows = np.linalg.svd(train.numpy() - train.numpy().mean(0))
    # Orthogonal to all differences between normals.
    beside = train.mean(0) + 100 * torch.from_numpy(rows[-1])
    assert fitted(train, "sample_pinv")(beside[None]).item() == pytest.approx(0, abs=1e-2)
    assert fitted(train, "ledoit_wolf")(beside[None]).item() > 10


def test_the_mean_is_at_distance_zero_and_the_root_is_a_switch() -> None:
    train, others = drawn(30, 8), drawn(5, 8, seed=3)
    gaussian = fitted(train, "ledoit_wolf")
    assert gaussian(gaussian.mean_D[None]).item() == 0
    squared = fitted(train, "ledoit_wolf", root=False)(others)
    torch.testing.assert_close(gaussian(others) ** 2, squared)


def test_a_constant_feature_and_a_single_normal_give_finite_distances() -> None:
    for train in (torch.ones(5, 4), drawn(1, 4)):
        assert torch.isfinite(fitted(train, "ledoit_wolf")(drawn(3, 4))).all()


def test_the_state_dict_is_the_whole_gaussian() -> None:
    train, others = drawn(30, 8), drawn(5, 8, seed=4)
    before, after = fitted(train, "ledoit_wolf"), Gaussian(8)
    after.load_state_dict(before.state_dict())
    assert torch.equal(before(others), after(others))


def test_no_normals_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="training normals"):
        Gaussian(4).fit(torch.empty(0, 4), "ledoit_wolf")


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_normals_have_a_distance_in_every_direction(count: int) -> None:
    values_ND = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    gaussian = Gaussian(6)
    gaussian.fit(values_ND, "ledoit_wolf")
    away_D = values_ND.mean(0) + 5 * torch.eye(6)
    distances_B = gaussian(away_D)
    torch.testing.assert_close(distances_B, distances_B[:1].expand(6))
    assert distances_B.min() > 1

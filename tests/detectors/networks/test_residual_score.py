"""The second score of a reconstruction: what it is made of, what chooses, and what it finds."""

import pytest
import torch
from torch import Tensor
from toy_normals import ToyBatches

from detectors.networks.residual_score import Residuals, ResidualScore

CHANNELS = (3, 4)


def residuals_of(images_B3HW: Tensor) -> Residuals:
    """Cells of 4 and 8 pixels of "what is left over": the images themselves, plus a constant."""
    middle, coarse = (torch.nn.functional.avg_pool2d(images_B3HW.float(), 4 * n) for n in (1, 2))
    coarse = torch.cat((coarse, torch.ones_like(coarse[:, :1])), 1)
    return Residuals((middle, coarse), coarse)


def images_of(count: int, seed: int, lit: bool = False) -> Tensor:
    """Noise, and with `lit` one bright cell in the middle."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(90, 110, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    if lit:
        images[:, :, 24:32, 24:32] = 200
    return images


@pytest.fixture(scope="module")
def fitted() -> ResidualScore:
    score = ResidualScore(CHANNELS, grids=(1, 2))
    score.fit(residuals_of, ToyBatches(images_of(20, seed=0)))
    return score


def parts_of(score: ResidualScore, images: Tensor) -> Tensor:
    """With a published score that says nothing."""
    published_B = torch.arange(len(images)).float() % 3
    return score.parts(published_B, residuals_of(images))


def test_parts_are_the_published_score_the_nearest_residual_and_the_pooled_ones(
    fitted: ResidualScore,
) -> None:
    images = images_of(3, seed=5, lit=True)
    parts_BP = parts_of(fitted, images)
    assert parts_BP[:, 0].tolist() == [0, 1, 2]
    # By a naive search in the memory.
    cells_BPC = fitted.memory.cells(residuals_of(images).cells_BChw)
    nearest = (cells_BPC[:, :, None] - fitted.memory.bank_NC).norm(dim=3).amin(2).amax(1)
    torch.testing.assert_close(parts_BP[:, 1], nearest, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(parts_BP[:, 2:], fitted.distances(residuals_of(images).pooled))


def test_turned_views_do_not_enter_the_memory(fitted: ResidualScore) -> None:
    """Twenty images of 64 cells of stride 8."""
    assert len(fitted.memory.bank_NC) == 20 * 64


def test_an_odd_cell_is_found_and_the_score_is_made_of_its_parts(fitted: ResidualScore) -> None:
    held, samples = images_of(30, seed=1), images_of(30, seed=2, lit=True)
    normals_NP, pairs_MP = (parts_of(fitted, images).double() for images in (held, samples))
    ones_M = torch.ones(30, dtype=torch.int64)
    fitted.fuse(normals_NP, pairs_MP, ones_M, ones_M)
    normal, anomalous = images_of(20, seed=3), images_of(20, seed=4, lit=True)
    found = [fitted(torch.zeros(20), residuals_of(images)) for images in (normal, anomalous)]
    assert found[1].min() > found[0].max()
    again = fitted.combined(fitted.parts(torch.zeros(20), residuals_of(normal)))
    torch.testing.assert_close(again, found[0], rtol=1e-4, atol=1e-4)


def test_without_synthetics_the_published_score_stays_alone(fitted: ResidualScore) -> None:
    normals_NP = parts_of(fitted, images_of(12, seed=1)).double()
    none_M = torch.zeros(0, dtype=torch.int64)
    fitted.fuse(normals_NP, normals_NP[:0], none_M, none_M)
    parts_BP = parts_of(fitted, images_of(6, seed=7, lit=True))
    published_B = (parts_BP[:, 0] - normals_NP[:, 0].mean()) / normals_NP[:, 0].std(correction=0)
    torch.testing.assert_close(fitted.combined(parts_BP), published_B.float())

"""The parts of the small LaMa that are not learned, and the measure of its trace."""

import cv2
import numpy as np
import pytest
import torch
from scipy.sparse import diags, eye, kron
from scipy.sparse.linalg import spsolve

from pretraining.inpainting.holes import HoleMaker
from pretraining.inpainting.network import SmallLama, candidates
from pretraining.inpainting.noise_synthesis import high_pass, level, missing_noise
from pretraining.inpainting.prefill import biharmonic_fill, copies, harmonic_fill
from pretraining.inpainting.residue_probe import probe

SIZE = 64


def hole(top: int = 20, left: int = 24, height: int = 22, width: int = 18) -> torch.Tensor:
    mask_11HW = torch.zeros(1, 1, SIZE, SIZE)
    mask_11HW[..., top : top + height, left : left + width] = 1
    return mask_11HW


def tensor(image_HW3: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image_HW3.astype(np.float32)).permute(2, 0, 1)[None] / 255


def waves(seed: int = 0) -> torch.Tensor:
    """A smooth colourful background: small noise, enlarged."""
    small = np.random.default_rng(seed).uniform(20, 235, (5, 5, 3)).astype(np.float32)
    return tensor(cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC).clip(0, 255))


def laplacian_matrix():
    """The graph Laplacian of a SIZE x SIZE grid."""
    line = diags([np.full(SIZE - 1, -1.0)] * 2, [-1, 1])
    line = line + diags([-np.asarray(line.sum(1)).ravel()], [0])
    return (kron(line, eye(SIZE)) + kron(eye(SIZE), line)).tocsr()


@pytest.mark.parametrize(
    ("fill", "power", "tolerance"), [(harmonic_fill, 1, 0.01), (biharmonic_fill, 2, 0.06)]
)
def test_a_smooth_fill_is_near_the_exact_solution(fill, power, tolerance):
    image, mask = waves(), hole()
    matrix = laplacian_matrix() ** power
    unknown = mask.bool().numpy().ravel()
    truth = image[0].permute(1, 2, 0).reshape(-1, 3).numpy().astype(np.float64)
    right = -matrix[unknown][:, ~unknown] @ truth[~unknown]
    exact = spsolve(matrix[unknown][:, unknown].tocsc(), right)
    ours = fill(image * (1 - mask), mask)[0].permute(1, 2, 0).reshape(-1, 3)[unknown].numpy()
    assert np.abs(ours - exact).mean() < tolerance


def test_the_biharmonic_fill_continues_a_curve_that_the_harmonic_one_cuts_off():
    yy, xx = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    bowl = tensor(np.repeat((40 + 90 * (xx**2 + yy**2))[..., None], 3, 2))
    errors = [
        float(((fill(bowl, hole()) - bowl).abs() * hole()).sum())
        for fill in (harmonic_fill, biharmonic_fill)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_a_copy_repeats_a_pattern():
    yy, xx = np.mgrid[:SIZE, :SIZE]
    checks = tensor(np.repeat(np.where((xx // 8 + yy // 8) % 2, 200, 60)[..., None], 3, 2))
    mask = hole()
    harmonic = harmonic_fill(checks * (1 - mask), mask)
    first = copies(harmonic, mask, 1)
    assert float(((first - checks).abs() * mask).mean()) < 0.002
    assert float(((harmonic - checks).abs() * mask).mean()) > 0.01


def test_candidates_keep_the_known_pixels():
    image, mask = waves(3), hole()
    fills = candidates(image, mask)
    assert torch.allclose(fills * (1 - mask), (image * (1 - mask))[:, None], atol=1e-6)


def test_the_untrained_network_is_a_mixture_of_smooth_fills():
    image, mask = waves(4), hole()
    mixed = SmallLama().eval().predict(image, mask)[0]
    fills = candidates(image, mask)
    assert bool((mixed <= fills.amax(1) + 1e-5).all() and (mixed >= fills.amin(1) - 1e-5).all())


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_a_flat_fill_gets_noise_of_the_level_around_it(sigma):
    rng = np.random.default_rng(0)
    noisy = tensor(128 + rng.normal(0, sigma, (SIZE, SIZE, 3)))
    mask = hole()
    flat = noisy * (1 - mask) + mask * 128 / 255
    noise = missing_noise(flat, mask)
    assert torch.equal(noise * (1 - mask), torch.zeros_like(noise))
    inside = level(high_pass(flat + noise), mask).mean()
    around = level(high_pass(noisy), 1 - mask).mean()
    assert float(inside / around) == pytest.approx(1, abs=0.25)


def test_noise_keeps_the_colour_of_the_noise_around_it():
    """Grey noise around the hole gives grey noise inside."""
    grey = np.random.default_rng(1).normal(128, 4, (SIZE, SIZE, 1)).repeat(3, 2)
    mask = hole()
    noise = missing_noise(tensor(grey) * (1 - mask) + mask * 128 / 255, mask)
    assert float(noise.abs().max()) > 0.01
    assert torch.allclose(noise, noise.mean(1, keepdim=True).expand_as(noise), atol=1e-5)


def test_no_noise_is_made_where_the_image_has_none_or_the_fill_has_its_own():
    assert float(missing_noise(torch.full((1, 3, SIZE, SIZE), 0.5), hole()).abs().max()) < 1e-6
    noisy = tensor(np.random.default_rng(0).normal(128, 3, (SIZE, SIZE, 3)))
    louder = noisy + hole() * (noisy - noisy.mean())
    assert float(missing_noise(louder, hole()).abs().max()) < 1e-6


def test_the_probe_finds_flat_fills_and_not_untouched_noise():
    rng = np.random.default_rng(0)
    noisy = [rng.normal(128, 4, (SIZE, SIZE, 3)).round().astype(np.uint8) for _ in range(40)]
    where = hole()[0, 0].numpy() > 0
    flat = [np.where(where[..., None], 128, image).astype(np.uint8) for image in noisy]
    assert probe(flat, [where] * 40).value > 0.99
    untouched = probe(noisy, [where] * 40)
    assert untouched.low < 0.75
    assert untouched.value < 0.75


def test_a_batch_depends_on_its_seed_alone():
    maker = HoleMaker([])
    first, again, other = (maker.batch(np.random.default_rng(seed), 3, SIZE) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    image, mask, truth = first
    assert image.shape == truth.shape == (3, 3, SIZE, SIZE)
    assert mask.any((1, 2, 3)).all()

"""Perlin corruption: noise against the textbook, changes inside the blobs only, seeds."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from detectors.data import perlin
from detectors.data.perlin import LATTICE, OCTAVES, corrupt, perlin_mask, shuffle_blocks
from detectors.data.textures import read_textures
from pipeline.errors import UserError

CPU = torch.device("cpu")


def random_images(batch: int = 4, height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=random)
    return images.contiguous(memory_format=torch.channels_last)


def naive_perlin(
    cells_2, angle: float, turns_LL: np.ndarray, height: int, width: int
) -> np.ndarray:
    """One image, pixel by pixel and corner by corner, as Perlin describes it (2002)."""
    noise = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            v, u = (row + 0.5) / height - 0.5, (column + 0.5) / width - 0.5
            y = (math.cos(angle) * v + math.sin(angle) * u) * cells_2[0] + LATTICE / 2
            x = (math.cos(angle) * u - math.sin(angle) * v) * cells_2[1] + LATTICE / 2
            total = 0.0
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    dy, dx = y - i, x - j
                    weight = np.prod(
                        [1 - (6 * abs(d) ** 5 - 15 * d**4 + 10 * abs(d) ** 3) for d in (dy, dx)]
                    )
                    turn = turns_LL[i, j]
                    total += weight * (math.sin(turn) * dy + math.cos(turn) * dx)
            noise[row, column] = math.sqrt(2) * total
    return noise


def test_the_noise_equals_the_textbooks():
    torch.manual_seed(3)
    found = perlin.perlin(5, torch.Size((24, 17)), CPU).numpy()
    # The same draws in the same order.
    torch.manual_seed(3)
    cells = 2.0 ** torch.randint(0, OCTAVES, (5, 2))
    angles = math.pi * (torch.rand(5) - 0.5)
    turns = 2 * math.pi * torch.rand(5, LATTICE * LATTICE).reshape(5, LATTICE, LATTICE).numpy()
    for number in range(5):
        expected = naive_perlin(
            cells[number].tolist(), float(angles[number]), turns[number], 24, 17
        )
        np.testing.assert_allclose(found[number], expected, atol=2e-4)


def test_no_angle_or_scale_leaves_the_lattice():
    # The corner of a rotated image is farthest from the lattice's centre.
    reach = 2 ** (OCTAVES - 1) * math.sqrt(0.5)
    assert LATTICE / 2 - reach >= 0
    assert LATTICE / 2 + reach + 1 < LATTICE


def test_blobs_have_the_size_that_the_recipe_gives():
    torch.manual_seed(0)
    # Share of corrupted pixels per image.
    share_B = (
        torch.cat([perlin_mask(64, torch.Size((64, 64)), CPU) for _ in range(12)])
        .float()
        .mean((1, 2))
    )
    assert 0.03 < float(share_B.mean()) < 0.09
    assert float(share_B.max()) < 0.6
    assert float((share_B == 0).float().mean()) < 0.35


@pytest.mark.parametrize("noise", ["perlin_self", "perlin_gauss", "perlin_dtd"])
@pytest.mark.parametrize("shape", [(4, 64, 64), (1, 33, 50), (3, 8, 7)])
def test_nothing_outside_the_blobs_changes(noise, shape):
    torch.manual_seed(1)
    images = random_images(*shape)
    textures = random_images(6, 20, 20, seed=9)
    corrupted, mask_BHW = corrupt(images, noise, textures)
    assert corrupted.dtype == torch.uint8
    assert mask_BHW.dtype == torch.bool
    assert corrupted.shape == images.shape
    outside = ~mask_BHW[:, None].expand_as(images)
    assert torch.equal(corrupted[outside], images[outside])
    if mask_BHW.any():
        assert not torch.equal(corrupted, images)


@pytest.mark.parametrize("noise", ["perlin_self", "perlin_gauss", "perlin_dtd"])
def test_results_depend_on_the_global_seed(noise):
    textures = random_images(6, 20, 20, seed=9)

    def outcome(seed: int) -> tuple[bytes, bytes]:
        torch.manual_seed(seed)
        corrupted, mask = corrupt(random_images(), noise, textures)
        return corrupted.numpy().tobytes(), mask.numpy().tobytes()

    assert outcome(5) == outcome(5)
    assert len({outcome(seed) for seed in range(6)}) == 6


def test_gauss_noise_has_the_deviation_that_was_outcome(monkeypatch):
    monkeypatch.setattr(perlin, "SIGMA", (0.1, 0.1))
    torch.manual_seed(0)
    grey = torch.full((8, 3, 128, 128), 127, dtype=torch.uint8)
    corrupted, mask = corrupt(grey, "perlin_gauss")
    inside = corrupted.permute(0, 2, 3, 1)[mask].float()
    assert float(inside.std()) == pytest.approx(25.5, rel=0.03)


def test_shuffling_moves_whole_blocks_and_loses_none():
    torch.manual_seed(0)
    images = random_images(2, 64, 32)
    mixed = shuffle_blocks(images)

    def blocks(image: torch.Tensor) -> list[bytes]:
        tiles = image.unfold(1, 8, 8).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).flatten(0, 1)
        return [tile.contiguous().numpy().tobytes() for tile in tiles]

    for before, after in zip(images, mixed, strict=True):
        assert sorted(blocks(before)) == sorted(blocks(after))
        assert blocks(before) != blocks(after)


def test_textures_come_from_another_image():
    torch.manual_seed(2)
    dark, bright = torch.full((3, 64, 64), 10), torch.full((3, 64, 64), 240)
    images = torch.stack([dark, bright]).to(torch.uint8)
    for _ in range(20):
        corrupted, mask = corrupt(images)
        if mask[0].any() and mask[1].any():
            assert corrupted[0].float()[:, mask[0]].mean() > 11
            assert corrupted[1].float()[:, mask[1]].mean() < 239


def test_a_texture_is_blended_in_as_it_is():
    """(1 - b) D + b I inside a blob, with b from 0 to 0.8; D is not recoloured."""
    torch.manual_seed(2)
    black = torch.zeros(32, 3, 64, 64, dtype=torch.uint8)
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8)
    texture = colour.view(1, 3, 1, 1).expand(1, 3, 16, 16)
    corrupted, mask = corrupt(black, "perlin_dtd", texture)
    shares = []
    for image, blob in zip(corrupted, mask, strict=True):
        if blob.any():
            inside = image[:, blob].float()
            share = 1 - inside[0, 0] / 200
            expected = ((1 - share) * colour.float())[:, None].expand_as(inside)
            torch.testing.assert_close(inside, expected, rtol=0, atol=1)
            shares.append(float(share))
    assert min(shares) < 0.2
    assert 0.6 < max(shares) <= 0.81


def test_a_folder_of_textures_is_read_in_order(tmp_path):
    (tmp_path / "inner").mkdir()
    for place, level in (("b.png", 200), ("inner/c.jpg", 90), ("a.png", 10)):
        Image.new("RGB", (30, 20), (level, level, level)).save(tmp_path / place)
    textures = read_textures(tmp_path, 16)
    assert textures.shape == (3, 3, 16, 16)
    np.testing.assert_allclose(textures.float().mean((1, 2, 3)), [10, 200, 90], atol=1.5)
    (tmp_path / "d.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"d\.png"):
        read_textures(tmp_path, 16)
    with pytest.raises(UserError, match="no images"):
        read_textures(tmp_path / "nowhere", 16)
    with pytest.raises(UserError, match="textures"):
        corrupt(random_images(), "perlin_dtd")

"""Random rotations: image and mask together, exact quarter turns, small angles against Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from detectors.data import rotation
from detectors.data.rotation import OUTSIDE, rotated


def random_images(batch: int = 16, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 3, side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_no_rotation_returns_the_same_tensors():
    images = random_images()
    assert rotated("none", images)[0] is images


def test_a_full_rotation_without_its_small_part_turns_by_quarters(monkeypatch):
    monkeypatch.setattr(rotation, "SLIGHT", 0.0)
    torch.manual_seed(0)
    images, masks = random_images(), random_images()[:, 0] // 255
    found, found_masks = rotated("full", images, masks)
    assert (found.dtype, found_masks.dtype) == (torch.uint8, torch.uint8)
    quarters = []
    for one, other, mask, turned in zip(images, found, masks, found_masks, strict=True):
        turns = [n for n in range(4) if torch.equal(other, one.rot90(n, (1, 2)))]
        # The mask turned with its image.
        assert torch.equal(turned, mask.rot90(turns[0], (0, 1)))
        quarters += turns
    assert set(quarters) == {0, 1, 2, 3}


def test_small_angles_are_those_of_pillow(monkeypatch):
    """As DeSTSeg's public code turns its images: bilinearly, grey outside."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    smooth = (128 + 60 * torch.sin(x / 7) + 50 * torch.cos(y / 5)).round().to(torch.uint8)
    images = smooth.expand(6, 3, 64, 64)
    torch.manual_seed(4)
    (found,) = rotated("slight", images)
    torch.manual_seed(4)
    angles = rotation.SLIGHT * (2 * torch.rand(6) - 1)
    pillow = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    for number, angle in enumerate(angles.tolist()):
        expected = pillow.rotate(angle, resample=Image.BILINEAR, fillcolor=(OUTSIDE,) * 3)
        gap = np.abs(found[number].permute(1, 2, 0).int().numpy() - np.asarray(expected, int))
        # Pillow does not blend the image with the grey along their common border.
        assert gap[8:-8, 8:-8].max() <= 2
    assert angles.abs().max() > 3


def test_an_edit_stays_inside_its_mask():
    torch.manual_seed(1)
    original = random_images(side=64)
    edited, mask = original.clone(), torch.zeros(16, 64, 64, dtype=torch.uint8)
    edited[:, :, 20:40, 12:30] = 0
    mask[:, 20:40, 12:30] = 1
    one, other, turned = rotated("full", original, edited, mask)
    changed = (one != other).any(1)
    # Bilinear sampling reaches one pixel beyond the mask's own, nearest, sampling.
    near = torch.nn.functional.max_pool2d(turned[:, None].float(), 3, 1, 1)[:, 0] > 0
    assert not (changed & ~near).any()
    assert (turned.sum((1, 2)) > 300).all()


@pytest.mark.parametrize("rotations", ["slight", "full"])
def test_what_comes_into_view_is_grey_and_unmasked(rotations):
    torch.manual_seed(2)
    images, masks = torch.zeros(8, 3, 64, 64, dtype=torch.uint8), torch.ones(8, 64, 64)
    found, turned = rotated(rotations, images, masks.to(torch.uint8))
    assert found.max() <= OUTSIDE
    assert found.max() > 100
    assert (turned == 0).any()

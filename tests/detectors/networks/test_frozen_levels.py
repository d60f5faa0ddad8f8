"""Features by the content of an image: computed once, and never more than fits."""

import torch
from torch import Tensor
from toy_normals import toy_images

from detectors.networks.frozen_levels import FrozenLevels
from pipeline.models.backbone import Levels, Trunk, normalise, small_teacher


class Counted(Trunk):
    """A small trunk that counts the images it has seen."""

    def __init__(self) -> None:
        super().__init__((8, 16, 32))
        self.images = 0

    def forward(self, images_B3HW: Tensor) -> Levels:
        self.images += len(images_B3HW)
        return super().forward(images_B3HW)


@torch.no_grad()
def test_images_in_another_batch_and_another_fit_are_remembered() -> None:
    trunk, images = Counted(), toy_images(6)
    features, other = FrozenLevels(trunk), FrozenLevels(trunk)
    features(images[:4], keep=True)
    features(images[4:], keep=True)
    other.share(features)
    found = other(images[[5, 0, 3]])
    assert trunk.images == 6
    expected = trunk(normalise(images[[5, 0, 3]]))[1:]
    for level, of_trunk in zip(found, expected, strict=True):
        torch.testing.assert_close(level, of_trunk)


@torch.no_grad()
def test_fresh_images_are_not_kept_and_a_full_memory_keeps_no_more() -> None:
    trunk, images = Counted(), toy_images(3)
    features = FrozenLevels(trunk)
    features(images)
    assert features.memory.known == {}
    # Room for two images of 16 x 64 + 32 x 16 float32.
    small = FrozenLevels(trunk, most=int(2.5 * (16 * 64 + 32 * 16) * 4))
    small(images, keep=True)
    assert len(small.memory.known) == 2
    small(images, keep=True)
    assert trunk.images == 9


@torch.no_grad()
def test_levels_are_float32_in_every_precision() -> None:
    features, images = FrozenLevels(small_teacher()), toy_images(2)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = features(images)
    for one, exact in zip(reduced, features(images), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, exact)

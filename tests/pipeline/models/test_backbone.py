"""The stem of a large image, made in bands of rows, has the bits of the whole."""

import pytest
import torch

from pipeline.models.backbone import LARGE, SMALL_CHANNELS, Trunk, normalise


@pytest.mark.parametrize("size", [(4 * LARGE, 64), (4 * LARGE + 5, 71), (96, 64)])
def test_bands_are_the_whole(size):
    torch.manual_seed(0)
    trunk = Trunk(SMALL_CHANNELS).freeze().to(memory_format=torch.channels_last)
    trunk.bn1.running_mean.normal_()
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        pixels = normalise(images).contiguous(memory_format=torch.channels_last)
        whole = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(pixels))))
        assert torch.equal(trunk.stem(images), whole)

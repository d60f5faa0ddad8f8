"""EfficientAD's autoencoder: parameter count, sizes of its decoder, dropout."""

import pytest
import torch

from detectors.models.efficientad.autoencoder import Autoencoder, decoder_sizes
from detectors.networks.pdn import cells_per_side


def test_it_has_the_parameters_counted_from_the_paper() -> None:
    autoencoder = Autoencoder(256, 384)
    assert sum(value.numel() for value in autoencoder.parameters()) == 1_096_320


def test_its_sizes_are_those_of_the_paper() -> None:
    assert cells_per_side(256) == 56
    assert decoder_sizes(256) == (3, 8, 15, 32, 63, 127, 56)
    # The rule for other sizes that anomalib published.
    for size in (256, 320, 512, 1024):
        expected = (size // 64 - 1, size // 32, size // 16 - 1, size // 8)
        assert decoder_sizes(size) == (*expected, size // 4 - 1, size // 2 - 1, -(-size // 4) - 8)
    encoded = torch.zeros(1, 3, 256, 256)
    autoencoder = Autoencoder(256, 384, width=0.25)
    for convolution in autoencoder.encoder:
        encoded = convolution(encoded)
    assert autoencoder.bottleneck(encoded).shape[-2:] == (1, 1)


@pytest.mark.parametrize("size", [64, 96, 128, 256, 320])
def test_its_map_has_the_cells_of_an_unpadded_network(size: int) -> None:
    with torch.no_grad():
        features = Autoencoder(size, 8, width=0.25)(torch.randn(1, 3, size, size))
    assert features.shape == (1, 8, cells_per_side(size), cells_per_side(size))


def test_dropout_is_an_argument_and_off_by_default() -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(64, 8, width=0.25).train()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(autoencoder(images), autoencoder(images))
        assert not torch.equal(autoencoder(images, dropout=0.2), autoencoder(images, dropout=0.2))

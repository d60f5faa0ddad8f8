"""EfficientNet-Lite0: shapes, always frozen, and the publisher's file by order and shape."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from pipeline.errors import WeightsError
from pipeline.models.backbone import normalise
from pipeline.models.lite0 import CHANNELS, lite0_trunk


def test_levels_have_strides_4_8_and_16_and_training_mode_changes_nothing() -> None:
    torch.manual_seed(0)
    trunk = lite0_trunk()
    images = normalise(torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8))
    levels = trunk(images)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (channels, 64 // stride, 96 // stride)
        for channels, stride in zip(CHANNELS, (4, 8, 16), strict=True)
    ]
    again = trunk.train()(images)
    assert all(torch.equal(one, other) for one, other in zip(levels, again, strict=True))
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


def test_folded_batch_norms_give_the_levels_of_the_published_network(
    pulled: Callable[[str], Path],
) -> None:
    """The reference is timm's whole network with its batch norms as they are."""
    path = pulled("efficientnet-lite0")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    tensors = torch.load(path, weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    pixels_B3HW = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network.eval().forward_intermediates(
            (pixels_B3HW.float() - 127) / 128, indices=(1, 2, 3), intermediates_only=True
        )
        found = lite0_trunk(path)(normalise(pixels_B3HW))
    for wanted_BChw, level_BChw in zip(expected, found, strict=True):
        atol = 1e-4 * float(wanted_BChw.abs().max())
        torch.testing.assert_close(level_BChw, wanted_BChw, rtol=0, atol=atol)


def test_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"expected EfficientNet-Lite0 .* got another network"):
        lite0_trunk(tmp_path / "other.pth")


def test_the_publishers_weights_see_a_difference_between_photographs_and_noise(
    pulled: Callable[[str], Path],
) -> None:
    path = pulled("efficientnet-lite0")
    flat = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    edge = flat.clone()
    edge[..., 32:] = 20
    # ImageNet features respond to an edge where a flat grey leaves them nearly silent.
    loaded = lite0_trunk(path)
    responses = [float(loaded(normalise(one))[0].std()) for one in (flat, edge)]
    assert responses[1] > 1.2 * responses[0]


def test_image_by_image_gives_what_the_batch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    trunk = lite0_trunk()
    pixels_B3HW = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        found = trunk(normalise(pixels_B3HW))
        monkeypatch.setattr("pipeline.models.lite0.recorded", lambda: True)
        at_once = trunk(normalise(pixels_B3HW))
        empty = trunk(normalise(pixels_B3HW[:0]))
    for one, other, none in zip(found, at_once, empty, strict=True):
        # Small images are multiplied in another order.
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert none.shape == (0, *one.shape[1:])

"""Backbones by name: the right layers, weights from a file, joined on one grid."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from detectors.networks.backbones import channels_of, extractor, join_layers
from detectors.networks.teachers import CHANNELS
from pipeline.errors import UserError, WeightsError
from pipeline.models.backbone import normalise, small_teacher

# --- several layers on one grid -------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    sides=st.tuples(*[st.sampled_from([2, 4, 8])] * 3),
    channels=st.integers(1, 12),
)
def test_layers_are_joined_as_by_hand(
    counts: list[int], sides: tuple[int, int, int], channels: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, count, side, side, generator=generator)
        for count, side in zip(counts, sides, strict=False)
    ]
    found = join_layers(maps, 4, channels).numpy()
    on_grid = np.concatenate([by_hand(map_BChw.numpy(), 4) for map_BChw in maps], 1)
    total = sum(counts)
    for channel in range(channels):
        # The c-th of n equal intervals, widened to whole channels.
        first, end = channel * total // channels, -(-(channel + 1) * total // channels)
        expected = on_grid[:, first:end].mean(1)
        np.testing.assert_allclose(found[:, channel], expected, rtol=1e-5, atol=1e-5)


def by_hand(maps_BChw: np.ndarray, side: int) -> np.ndarray:
    """The same maps on `side` cells: means of blocks, or bilinear between centres."""
    own = maps_BChw.shape[2]
    if own >= side:
        block = own // side
        return maps_BChw.reshape(*maps_BChw.shape[:2], side, block, side, block).mean((3, 5))
    weights = np.zeros((side, own))
    for cell in range(side):
        place = min(max((cell + 0.5) * own / side - 0.5, 0), own - 1)
        low = min(int(place), own - 2) if own > 1 else 0
        weights[cell, low] += 1 - (place - low)
        if own > 1:
            weights[cell, low + 1] += place - low
    return np.einsum("ih,jw,bchw->bcij", weights, weights, maps_BChw)


def test_the_resnet18_trunk_fills_the_384_channels_exactly() -> None:
    source = extractor("resnet18")
    images_B3HW = normalise(torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8))
    _, middle, coarse = source.network(images_B3HW)
    wanted = torch.cat((middle, nn.functional.interpolate(coarse, (16, 16), mode="bilinear")), 1)
    torch.testing.assert_close(join_layers(source(images_B3HW), 16, CHANNELS), wanted)


# --- backbones ------------------------------------------------------------------------------------


def test_a_torchvision_network_is_read_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = torchvision.models.resnet18(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    source = extractor("torchvision:resnet18", tmp_path / "whole.pth", ["layer3", "layer1"])
    images_B3HW = torch.randn(1, 3, 64, 64)
    x = whole.maxpool(whole.relu(whole.bn1(whole.conv1(images_B3HW))))
    fine = whole.layer1(x)
    coarse = whole.layer3(whole.layer2(fine))
    found = source(images_B3HW)
    torch.testing.assert_close(found[0], coarse)
    torch.testing.assert_close(found[1], fine)
    assert not any(name.startswith(("layer4", "fc")) for name in source.network.state_dict())


@pytest.mark.parametrize(
    ("model", "layers"),
    [("test_resnet", []), ("test_convnext", []), ("test_vit", ["blocks.1", "blocks.4"])],
)
def test_a_timm_network_is_read_from_a_file(tmp_path: Path, model: str, layers: list[str]) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(model, pretrained=False).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    source = extractor(f"timm:{model}", tmp_path / "whole.pth", layers)
    kept: dict[str, torch.Tensor] = {}
    for layer in source.layers:
        whole.get_submodule(layer).register_forward_hook(
            lambda _module, _given, made, layer=layer: kept.update({layer: made})
        )
    side = 160
    images_B3HW = torch.randn(1, 3, side, side)
    whole(images_B3HW)
    for layer, found in zip(source.layers, source(images_B3HW), strict=True):
        made = kept[layer]
        # A transformer has tokens, after some prefix tokens.
        if made.ndim == 3:
            made = made[:, -(found.shape[2] ** 2) :].transpose(1, 2).reshape(found.shape)
        torch.testing.assert_close(found, made)
    assert [side // cells for _, cells in channels_of(source, side)] == (
        [16, 16] if layers else [8, 16]
    )


def test_an_extractor_stays_frozen() -> None:
    bundled = extractor("bundled-teacher")
    bundled.train()
    assert not any(module.training for module in bundled.modules())
    assert not any(value.requires_grad for value in bundled.parameters())


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("resnet19", [], "known: torchvision:NAME"),
        ("torchvision:resnet19", [], "no classifier 'resnet19'"),
        ("torchvision:fasterrcnn_resnet50_fpn", [], "no classifier"),
        ("timm:resnet19", [], "no model 'resnet19'"),
        ("resnet18", ["layer4"], r"layer1 \(stride 4\)"),
        ("torchvision:resnet18", ["layer9"], "layer1, layer2"),
        ("timm:test_vit", [], "choose --layers"),
        ("timm:test_resnet", ["layer9"], r"layer2 \(stride 8\)"),
        ("resnet18", ["layer2", "layer2"], "once"),
        ("torchvision:resnet18", ["layer2", "flatten"], "no layer 'flatten'"),
    ],
)
def test_errors_list_the_valid_names(name: str, layers: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        extractor(name, None, layers)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_resnet", "resnet18"])
def test_weights_of_another_network_are_rejected(tmp_path: Path, name: str) -> None:
    torch.save(small_teacher().state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="expected the"):
        extractor(name, tmp_path / "other.pth")

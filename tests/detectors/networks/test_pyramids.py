"""Frozen pyramids: levels against hooks in whole networks, files, frozen weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from toy_normals import ToyBatches, toy_images

from detectors.networks.pyramids import StandardisedPyramid, pyramid_of
from pipeline.errors import WeightsError
from pipeline.models.backbone import normalise, resnet18_trunk

SWIN_SHAPES = [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]


@pytest.fixture(scope="module")
def swin() -> nn.Module:
    """timm's complete network, DropPath included, with random weights."""
    from timm.models.swin_transformer import swin_tiny_patch4_window7_224

    torch.manual_seed(0)
    return swin_tiny_patch4_window7_224(pretrained=False).eval()


@pytest.fixture(scope="module")
def swin_file(swin: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("swin") / "swin.safetensors"
    save_file({name: value.contiguous() for name, value in swin.state_dict().items()}, path)
    return path


def hooked(network: nn.Module, modules: list[nn.Module], images: Tensor) -> list[Tensor]:
    """Outputs of the modules while the whole network runs."""
    seen: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda *given: seen.append(given[2])) for m in modules]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return seen


def levels_of(pyramid: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(pyramid(images))


def test_swins_levels_are_the_inputs_of_its_stages(swin, swin_file):
    images = normalise(toy_images(2, 224))
    taps = [swin.patch_embed, *(stage.downsample for stage in swin.layers[1:])]
    theirs = [tap.permute(0, 3, 1, 2) for tap in hooked(swin, taps, images)]
    pyramid = pyramid_of("swin-tiny", swin_file, 224)
    ours = levels_of(pyramid, images)
    assert [tuple(level.shape[1:]) for level in ours] == SWIN_SHAPES
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    after_blocks = hooked(swin, [swin.layers[0].blocks], images)[0].permute(0, 3, 1, 2)
    assert (ours[0] - after_blocks).abs().max() > 0.1
    assert sum(value.numel() for value in pyramid.parameters()) == pytest.approx(13.33e6, rel=1e-3)


def test_the_first_swin_files_count_mergings_to_the_stage_before(swin, swin_file, tmp_path):
    old = {}
    for name, value in swin.state_dict().items():
        stage = name.split(".")[1]
        moved = f"layers.{int(stage) - 1}.downsample" if ".downsample." in name else ""
        old[name.replace(f"layers.{stage}.downsample", moved) if moved else name] = value
    assert set(old) != set(swin.state_dict())
    torch.save(old, tmp_path / "old.pth")
    of_old, of_new = (
        pyramid_of("swin-tiny", path, 224) for path in (tmp_path / "old.pth", swin_file)
    )
    for name, value in of_new.state_dict().items():
        assert torch.equal(value, of_old.state_dict()[name]), name


def test_the_same_swin_weights_serve_other_sizes(swin_file):
    levels = levels_of(pyramid_of("swin-tiny", swin_file, 128), normalise(toy_images(1, 128)))
    assert [level.shape[-1] for level in levels] == [32, 16, 8, 4]


def test_a_wide_resnets_levels_are_its_four_stages(tmp_path):
    """Its official file is in half precision; files may omit batch norm's counters."""
    from torchvision.models import wide_resnet50_2

    torch.manual_seed(0)
    whole = wide_resnet50_2(weights=None).eval()
    state = {
        name: value.half()
        for name, value in whole.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    whole.load_state_dict(state, strict=False)
    torch.save(state, tmp_path / "wide.pth")
    images = normalise(toy_images(1))
    theirs = hooked(whole, [whole.layer1, whole.layer2, whole.layer3, whole.layer4], images)
    ours = levels_of(pyramid_of("wide-resnet50-2", tmp_path / "wide.pth", 64), images)
    assert [tuple(level.shape[1:]) for level in ours] == [
        (256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2),
    ]  # fmt: skip
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_trunks_fourth_level_is_the_mean_of_its_third(shared):
    path = shared / "weights" / "resnet18_layers1-3.safetensors"
    if not path.is_file():
        pytest.skip(f"no {path}")
    images = normalise(toy_images(2))
    *three, fourth = levels_of(pyramid_of("resnet18", path, 64), images)
    for one, other in zip(three, levels_of(resnet18_trunk(path), images), strict=True):
        assert torch.equal(one, other)
    cells = three[2].unfold(2, 2, 2).unfold(3, 2, 2)
    torch.testing.assert_close(fourth, cells.mean((4, 5)))


def test_lite0_has_the_levels_of_its_trunk_and_their_mean():
    torch.manual_seed(0)
    pyramid = pyramid_of("efficientnet-lite0", None, 64)
    images = normalise(toy_images(2))
    *three, fourth = levels_of(pyramid, images)
    assert [tuple(level.shape[1:]) for level in three] == [(24, 16, 16), (40, 8, 8), (112, 4, 4)]
    assert pyramid.channels == (24, 40, 112, 112)
    for one, other in zip(three, levels_of(pyramid.trunk, images), strict=True):
        assert torch.equal(one, other)
    cells = three[2].unfold(2, 2, 2).unfold(3, 2, 2)
    torch.testing.assert_close(fourth, cells.mean((4, 5)))


@pytest.mark.parametrize("teacher", ["swin-tiny", "efficientnet-lite0", "bundled-teacher"])
def test_nothing_moves_in_training_mode(teacher):
    pyramid = pyramid_of(teacher, None, 64)
    images = normalise(toy_images(2))
    before = levels_of(pyramid, images)
    parent = nn.Sequential(pyramid).train()
    for one, other in zip(before, levels_of(parent, images), strict=True):
        assert torch.equal(one, other)
    assert not any(module.training for module in pyramid.modules())
    assert not any(value.requires_grad for value in pyramid.parameters())


def test_a_file_of_another_network_is_rejected(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"patch_embed.proj.weight": torch.zeros(96, 3, 4, 4)}, path)
    for teacher in ("swin-tiny", "wide-resnet50-2"):
        with pytest.raises(WeightsError, match=r"other\.safetensors.*another network.*matching"):
            pyramid_of(teacher, path, 64)


def test_standardised_channels_have_mean_0_and_deviation_1_over_the_normals():
    torch.manual_seed(0)
    plain = pyramid_of("bundled-teacher", None, 64)
    pyramid = StandardisedPyramid(plain).freeze()
    normals = toy_images(8)
    pyramid.measure(ToyBatches(normals))
    raw, scaled = (levels_of(network, normalise(normals)) for network in (plain, pyramid))
    for before_BChw, after_BChw in zip(raw, scaled, strict=True):
        values = before_BChw.double().numpy()
        mean, deviation = (f(values, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
        expected = (values - mean) / np.where(deviation > 1e-6, deviation, 1)
        np.testing.assert_allclose(after_BChw.numpy(), expected, rtol=1e-3, atol=1e-3)
    # A trunk's raw levels are never negative.
    assert not F.relu(-scaled[0]).eq(0).all()

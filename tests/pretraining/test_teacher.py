"""The small teacher and the ResNet-18 trunk: shapes, files, freezing; distilling one from the
other.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms.functional import normalize

from pipeline.errors import WeightsError
from pipeline.models.backbone import (
    RESNET18_CHANNELS,
    SMALL_CHANNELS,
    STRIDES,
    Trunk,
    normalise,
    resnet18_trunk,
    save_trunk,
    small_teacher,
)
from pretraining import patch_score
from pretraining.data.examples import render_ahead
from pretraining.teacher import __main__ as teacher
from pretraining.teacher.__main__ import Distiller, fit_projections, relation
from pretraining.teacher.filter_selection import inherit
from pretraining.teacher.images import CropSampler

BUNDLED = patch_score.WEIGHTS


def noisy(count: int, height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
    """Images (B, 3, H, W) uint8 of plain noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def resnet18_file(shared: Path) -> Path:
    return shared / "weights" / "resnet18_layers1-3.safetensors"


# --- against independent references ---------------------------------------------------------------


def test_the_resnet18_trunk_is_torchvisions_run_by_hand(resnet18_file: Path) -> None:
    whole = torchvision.models.resnet18(weights=None).eval()
    state = {name: value.float() for name, value in load_file(resnet18_file).items()}
    absent = whole.load_state_dict(state, strict=False)
    assert not absent.unexpected_keys
    images = normalise(noisy(2, 96, 64))
    with torch.no_grad():
        x = whole.maxpool(whole.relu(whole.bn1(whole.conv1(images))))
        expected = []
        for layer in (whole.layer1, whole.layer2, whole.layer3):
            x = layer(x)
            expected.append(x)
        found = resnet18_trunk(resnet18_file)(images)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_normalisation_is_torchvisions() -> None:
    images = noisy(2)
    expected = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normalise(images), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="uint8"):
        normalise(images / 255)


# --- shapes, budget, files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trunk", "channels"),
    [(resnet18_trunk(), RESNET18_CHANNELS), (small_teacher(), SMALL_CHANNELS)],
    ids=["resnet18", "small"],
)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96), (50, 70)])
def test_levels_have_the_promised_strides_and_channels(
    trunk: Trunk, channels: tuple[int, int, int], height: int, width: int
) -> None:
    levels = trunk(normalise(noisy(1, height, width)))
    assert trunk.channels == channels
    for level, count, stride in zip(levels, channels, STRIDES, strict=True):
        assert level.shape == (1, count, -(-height // stride), -(-width // stride))
        assert level.min() >= 0


def test_the_budget_holds() -> None:
    small = small_teacher(BUNDLED)
    assert sum(value.numel() for value in small.parameters()) <= 1_500_000
    assert BUNDLED.stat().st_size <= 3_000_000
    wide = sum(value.numel() for value in resnet18_trunk().parameters())
    # ResNet-18 up to layer3, as the papers count it.
    assert wide == 2_782_784


def test_a_saved_trunk_comes_back_at_half_precision(tmp_path: Path) -> None:
    before = Trunk(SMALL_CHANNELS)
    save_trunk(before, tmp_path / "teacher.safetensors", {"steps": "0"})
    after = small_teacher(tmp_path / "teacher.safetensors")
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=1e-3, atol=1e-6)


def test_truncated_foreign_and_absent_files_are_each_one_clear_error(tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(BUNDLED.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="damaged"):
        small_teacher(cut)
    save_trunk(Trunk((16, 32, 64)), tmp_path / "narrow.safetensors")
    with pytest.raises(WeightsError, match="another network"):
        small_teacher(tmp_path / "narrow.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        resnet18_trunk(tmp_path / "absent.safetensors")


def test_torchvisions_own_file_loads_without_its_last_stage(tmp_path: Path) -> None:
    whole = torchvision.models.resnet18(weights=None)
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    trunk = resnet18_trunk(tmp_path / "resnet18.pth")
    assert all(torch.equal(value, whole.state_dict()[k]) for k, value in trunk.state_dict().items())
    (tmp_path / "cut.pth").write_bytes((tmp_path / "resnet18.pth").read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="damaged"):
        resnet18_trunk(tmp_path / "cut.pth")


def test_a_teacher_is_the_same_in_train_mode_and_stays_frozen() -> None:
    small = small_teacher(BUNDLED)
    around = nn.Sequential(small)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    images = normalise(noisy(2))
    in_evaluation = around.eval()(images)
    in_training = around.train()(images)
    assert around.training
    assert not any(module.training for module in small.modules())
    for one, other in zip(in_evaluation, in_training, strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert not any(value.requires_grad for value in small.parameters())


# --- how it learns --------------------------------------------------------------------------------


def test_a_trunk_of_full_width_inherits_all_features() -> None:
    torch.manual_seed(0)
    original = Trunk((16, 32, 64)).freeze()
    for module in original.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Statistics of its own, as a trained network has.
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.5)
    slim = Trunk((16, 32, 64)).train()
    images = normalise(noisy(8, 96, 96))
    inherit(slim, original, images)
    for mine, its in zip(slim(images), original(images), strict=True):
        # The last stage sees 288 cells, where n and n - 1 differ a little.
        torch.testing.assert_close(mine, its, rtol=0.05, atol=0.05)


def test_fitted_projections_reach_the_least_squares() -> None:
    torch.manual_seed(0)
    wide, model = Trunk((16, 32, 64)).freeze(), Distiller(Trunk((8, 16, 32)), (16, 32, 64))
    images = normalise(noisy(6, 96, 96))
    fit_projections(model, wide, images)
    with torch.no_grad():
        bare, predicted = model(images)
        wanted = wide(images)
    for own, mine, its in zip(bare, predicted, wanted, strict=True):
        own_NC, mine_NC, its_NC = (
            maps.permute(0, 2, 3, 1).flatten(0, 2).double().numpy() for maps in (own, mine, its)
        )
        given_NC = np.hstack([own_NC, np.ones((len(own_NC), 1))])
        solution = np.linalg.lstsq(given_NC, its_NC, rcond=None)[0]
        least = np.square(given_NC @ solution - its_NC).mean()
        assert np.square(mine_NC - its_NC).mean() <= 1.02 * least


def test_the_relational_loss_ignores_scale_and_rotation_but_not_other_features() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 16, 6, 6, generator=generator)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    turned = 3 * torch.einsum("dc,bchw->bdhw", turn, maps)
    assert relation(turned, maps) < 1e-8
    assert relation(torch.rand(2, 16, 6, 6, generator=generator), maps) > 1e-3


def test_crops_depend_on_their_seed_alone() -> None:
    rendered = noisy(5, 40, 40).permute(0, 2, 3, 1).numpy()
    crops = CropSampler([rendered])
    one, again, other = (crops.batch(np.random.default_rng(seed), 6, 48) for seed in (1, 1, 2))
    assert one.shape == (6, 3, 48, 48)
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_command_trains_exports_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "SIZES", ((1.0, 64, 4),))
    monkeypatch.setattr(teacher, "MOMENTS", 2)
    ahead = render_ahead(tmp_path / "clutter", 6, 0, size=64, scenes=0.0)
    save_trunk(resnet18_trunk(), tmp_path / "wide.safetensors", {"license": "L", "source": "S"})
    out = tmp_path / "slim.safetensors"
    command = ["teacher", "--teacher", tmp_path / "wide.safetensors", "--out", out, "--steps", "2"]
    command += ["--folder", tmp_path / "run", "--ahead", ahead]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    teacher.main()
    first, table = load_file(out), capsys.readouterr().out
    assert "clutter, 3 held out: cosine" in table
    with safe_open(out, "pt") as file:
        assert file.metadata() == {
            "license": "L", "teacher": "ImageNet ResNet-18: S", "steps": "2", "seed": "0",
        }  # fmt: skip
    out.unlink()
    # Both steps are done: it only exports and measures again.
    teacher.main()
    again = load_file(out)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert capsys.readouterr().out == table


# --- the patch score ------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_separates_real_defects_nearly_as_well_as_the_resnet18(
    shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["patch_score", "--shared", str(shared), "--json"])
    patch_score.main()
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["category"] for row in rows] == list(patch_score.CATEGORIES)
    for row in rows:
        assert row["ratio"] >= 0.85, row

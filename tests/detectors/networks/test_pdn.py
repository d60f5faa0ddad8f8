"""Patch description networks and the teachers: parameter counts, shapes, cells, files."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from detectors.networks.pdn import BORDER, STRIDE, Kind, Pdn, cells_per_side, load_pdn
from detectors.networks.teachers import Moments, PdnTeacher, TrunkTeacher, teacher_for
from pipeline.errors import UserError, WeightsError
from pipeline.models.backbone import normalise, small_teacher


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def noisy(count: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def sequence(kind: Kind, outputs: int, width: int, pad: int) -> nn.Sequential:
    """The layer tables of the paper's appendix as a plain sequence."""
    if kind == "small":
        return nn.Sequential(
            nn.Conv2d(3, width, 4, padding=3 * pad), nn.ReLU(), nn.AvgPool2d(2, 2, pad),
            nn.Conv2d(width, 2 * width, 4, padding=3 * pad), nn.ReLU(), nn.AvgPool2d(2, 2, pad),
            nn.Conv2d(2 * width, 2 * width, 3, padding=pad), nn.ReLU(),
            nn.Conv2d(2 * width, outputs, 4),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(3, width, 4, padding=3 * pad), nn.ReLU(), nn.AvgPool2d(2, 2, pad),
        nn.Conv2d(width, 2 * width, 4, padding=3 * pad), nn.ReLU(), nn.AvgPool2d(2, 2, pad),
        nn.Conv2d(2 * width, 2 * width, 1), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=pad), nn.ReLU(),
        nn.Conv2d(2 * width, outputs, 4), nn.ReLU(), nn.Conv2d(outputs, outputs, 1),
    )  # fmt: skip


# --- against independent references ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "outputs", "count"),
    [
        ("medium", 384, 8_026_624),
        ("medium", 768, 11_615_488),
        ("small", 384, 2_694_144),
        ("small", 768, 4_267_392),
    ],
)
def test_parameters_are_those_counted_from_the_paper(kind: Kind, outputs: int, count: int) -> None:
    assert parameters(Pdn(kind, outputs)) == count


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["small", "medium"])
def test_the_network_is_the_table_of_layers(kind: Kind, padded: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    table = sequence(kind, outputs=24, width=32 if kind == "small" else 64, pad=int(padded))
    torch.save(table.state_dict(), tmp_path / "sequence.pth")
    pdn = Pdn(kind, 24, width=0.25, padded=padded)
    load_pdn(pdn, tmp_path / "sequence.pth")
    images = normalise(noisy(1, 96))
    with torch.no_grad():
        expected = table(images)
        torch.testing.assert_close(pdn(images), expected, rtol=1e-4, atol=1e-5)
        half = pdn(images, slice(8, 20))
    torch.testing.assert_close(half, expected[:, 8:20], rtol=1e-4, atol=1e-5)
    assert expected.shape[-1] == (96 // STRIDE if padded else cells_per_side(96))


def test_moments_are_numpys_over_any_batches() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(7, 5, 4, 3)) * [[[[1e-3]]]] + 1000).astype(np.float32)
    moments = Moments(5)
    for part in (values[:1], values[1:4], values[4:]):
        moments.add(torch.from_numpy(part))
    whole = values.astype(np.float64)
    np.testing.assert_allclose(moments.mean_C, whole.mean((0, 2, 3)), rtol=1e-12)
    # E[x²] - E[x]² in float32 has no correct digit here.
    np.testing.assert_allclose(moments.deviation_C, whole.std((0, 2, 3)), rtol=1e-7)


# --- shapes and places ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 96, 128, 256, 320])
def test_students_and_teachers_have_the_same_cells(size: int) -> None:
    images = normalise(noisy(1, size))
    networks = {
        "small": Pdn("small", 8, width=0.0625),
        "medium": Pdn("medium", 8, width=0.03125),
        "trunk": TrunkTeacher(small_teacher()),
    }
    with torch.no_grad():
        for name, network in networks.items():
            assert network(images).shape[-2:] == (cells_per_side(size), cells_per_side(size)), name


@pytest.mark.parametrize("kind", ["small", "medium"])
def test_the_receptive_field_is_33_pixels(kind: Kind) -> None:
    """Cell (i, j) of an unpadded network lies at pixels 4 i to 4 i + 32."""
    torch.manual_seed(0)
    pdn = Pdn(kind, 8, width=0.125).double()
    image = torch.randn(1, 3, 96, 96, dtype=torch.float64, requires_grad=True)
    pdn(image)[0, :, 5, 9].square().sum().backward()
    assert image.grad is not None
    rows, columns = image.grad[0].abs().sum(0).nonzero(as_tuple=True)
    assert (rows.min(), rows.max()) == (20, 52)
    assert (columns.min(), columns.max()) == (36, 68)


def test_trunk_cells_align_with_those_of_the_network() -> None:
    """The middle of cell i is pixel 4 i + 16 for the one; the other's cell is 4 strides in."""
    teacher = TrunkTeacher(small_teacher())
    images = normalise(noisy(1, 128))
    fine, middle, coarse = teacher.trunk(images)
    raw = teacher.raw(images)
    assert teacher.channels == raw.shape[1] == 224
    inner = slice(BORDER, -BORDER)
    torch.testing.assert_close(raw[:, :32], fine[:, :, inner, inner])
    up = F.interpolate(coarse, (32, 32), mode="bilinear")[:, :, inner, inner]
    torch.testing.assert_close(raw[:, 96:], up)
    assert raw[:, 32:96].shape == middle[:, :, 4:, 4:].repeat(1, 1, 2, 2)[..., :24, :24].shape


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["small", "medium"])
def test_all_naming_schemes_of_layers_are_read(kind: Kind, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pdn = Pdn(kind, 8, width=0.125)
    numbered = list(pdn.convs)
    by_name = {
        f"conv{place + 1}.{key}": value
        for place, conv in enumerate(numbered)
        for key, value in conv.state_dict().items()
    }
    torch.save(by_name, tmp_path / "named.pth")
    behind = {f"model.teacher.{name}": value.contiguous() for name, value in by_name.items()}
    save_file(behind, tmp_path / "behind.safetensors")
    save_file(pdn.state_dict(), tmp_path / "own.safetensors")
    for name in ("named.pth", "behind.safetensors", "own.safetensors"):
        read = Pdn(kind, 8, width=0.125)
        load_pdn(read, tmp_path / name)
        for mine, theirs in zip(read.parameters(), pdn.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_a_file_of_another_network_is_rejected(tmp_path: Path) -> None:
    save_file(Pdn("small", 8, width=0.125).state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match=r"small\.safetensors: expected .* 6 convolutions"):
        load_pdn(Pdn("medium", 8, width=0.125), tmp_path / "small.safetensors")
    with pytest.raises(UserError, match="known: efficientad-s"):
        teacher_for("swin-tiny", None)


# --- teachers -------------------------------------------------------------------------------------


def test_a_teacher_is_frozen_and_normalises_itself() -> None:
    torch.manual_seed(0)
    teacher = PdnTeacher(Pdn("small", 8, width=0.125))
    images = normalise(noisy(4, 64))
    moments = Moments(8)
    with torch.no_grad():
        moments.add(teacher.raw(images))
        teacher.set_statistics(moments)
    teacher.train()
    assert not teacher.training
    assert not any(value.requires_grad for value in teacher.parameters())
    values = teacher(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(8), rtol=0, atol=1e-5)
    other = PdnTeacher(Pdn("small", 8, width=0.125))
    other.load_state_dict(teacher.state_dict())
    assert torch.equal(other(images), teacher(images))


def test_a_channel_that_never_changes_stays_finite() -> None:
    moments = Moments(2)
    moments.add(torch.stack([torch.full((3, 4, 4), 7.0), torch.randn(3, 4, 4)], 1))
    teacher = PdnTeacher(Pdn("small", 2, width=0.125))
    teacher.set_statistics(moments)
    assert teacher.normalised(torch.full((1, 2, 1, 1), 7.0))[0, 0].item() == 0
    with pytest.raises(UserError, match="training normals"):
        teacher.set_statistics(Moments(2))

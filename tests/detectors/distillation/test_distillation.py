"""Distillation of a teacher: its targets, its training, bit-exact resume, and the command."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from detectors.distillation import distill as distillation
from detectors.distillation.card import read_card, state_file
from detectors.distillation.distill import Distilled, Recipe, distil
from detectors.distillation.images import DistillationImages
from detectors.networks.backbones import Extractor, extractor
from detectors.networks.pdn import BORDER, cells_per_side
from detectors.networks.teachers import CHANNELS, PdnTeacher, teacher_for
from detectors.training.precision import resolve
from detectors.training.progress import Watcher
from flows.cli import app
from pipeline.errors import UserError, WeightsError
from pipeline.models.backbone import normalise

BUNDLED = Path(__file__).resolve().parents[3] / "weights" / "small_teacher.safetensors"
TINY = Recipe(width=0.125, size=64, steps=4, batch_size=2, statistics=6)
CPU = resolve("cpu", "fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of blobs in two folders, of several shapes and formats."""
    root = tmp_path_factory.mktemp("images")
    for number, suffix in enumerate(("png", "jpg", "png", "bmp", "png", "png")):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (5, 4 + number, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((70 + number, 90), Image.Resampling.BICUBIC)
        (root / f"{number % 2}").mkdir(exist_ok=True)
        image.save(root / f"{number % 2}" / f"{number}.{suffix}")
    (root / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def images(folder: Path) -> DistillationImages:
    return DistillationImages.open(folder, TINY.size)


@pytest.fixture
def bundled() -> Extractor:
    return extractor("bundled-teacher", BUNDLED)


def run(out: Path, source: Extractor, images: DistillationImages, **options: Any) -> Distilled:
    recipe = options.pop("recipe", TINY)
    return distil(recipe, source, images, out, compute=CPU, **options)


# --- the target -----------------------------------------------------------------------------------


def test_over_all_images_the_targets_have_mean_0_and_deviation_1(
    tmp_path: Path, bundled: Extractor, images: DistillationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    loss = nn.functional.mse_loss
    monkeypatch.setattr(
        distillation.F, "mse_loss", lambda found, target: seen.append(target) or loss(found, target)
    )
    # Three steps of two images are one pass over the six.
    run(tmp_path / "t.safetensors", bundled, images, recipe=TINY.model_copy(update={"steps": 3}))
    targets_BChw = torch.cat(seen).double()
    torch.testing.assert_close(
        targets_BChw.mean((0, 2, 3)), torch.zeros(CHANNELS).double(), rtol=0, atol=1e-4
    )
    # A narrow backbone may have dead channels.
    alive_C = targets_BChw.std((0, 2, 3)) > 0
    deviation_C = targets_BChw.std((0, 2, 3), correction=0)
    torch.testing.assert_close(
        deviation_C[alive_C], torch.ones(int(alive_C.sum())).double(), rtol=0, atol=1e-3
    )
    assert alive_C.sum() > CHANNELS / 2


# --- training -------------------------------------------------------------------------------------


def test_a_stopped_run_resumes_to_the_same_bytes(
    tmp_path: Path, bundled: Extractor, images: DistillationImages
) -> None:
    class Stops(Watcher):
        def step(self, done: int, losses: Mapping[str, float]) -> None:
            if losses and done == 3:
                raise KeyboardInterrupt

    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    unbroken = run(whole, bundled, images)
    with pytest.raises(KeyboardInterrupt):
        run(parts, bundled, images, watcher=Stops(), save_minutes=0, log_seconds=0)
    assert state_file(parts).exists()
    assert not parts.exists()
    resumed = run(parts, bundled, images)
    assert not state_file(parts).exists()
    one, other = load_file(whole), load_file(parts)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert unbroken.final_loss == resumed.final_loss


def test_another_seed_makes_another_teacher_and_will_not_overwrite_the_first(
    tmp_path: Path, bundled: Extractor, images: DistillationImages
) -> None:
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    run(first, bundled, images)
    other = TINY.model_copy(update={"seed": 1})
    with pytest.raises(UserError, match="seed: 0 there, 1 here"):
        run(first, bundled, images, recipe=other)
    run(again, bundled, images, recipe=other)
    assert not torch.equal(load_file(first)["convs.0.weight"], load_file(again)["convs.0.weight"])


def test_a_finished_run_is_read_from_its_file(
    tmp_path: Path, bundled: Extractor, images: DistillationImages
) -> None:
    first = run(tmp_path / "t.safetensors", bundled, images)
    written = first.path.stat().st_mtime_ns
    again = run(tmp_path / "t.safetensors", bundled, images)
    assert (first.cached, again.cached) == (False, True)
    assert again.final_loss == first.final_loss
    assert again.path.stat().st_mtime_ns == written


def test_it_learns_a_few_images(
    tmp_path: Path, bundled: Extractor, images: DistillationImages
) -> None:
    recipe = TINY.model_copy(update={"steps": 40, "batch_size": 3, "rate": 3e-3, "grey": 0.0})
    losses: list[float] = []

    class Keeps(Watcher):
        def step(self, done: int, parts: Mapping[str, float]) -> None:
            losses.extend(parts.values())

    out = tmp_path / "t.safetensors"
    run(out, bundled, images, recipe=recipe, watcher=Keeps(), log_seconds=0)
    assert len(losses) == 40
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])


@pytest.mark.parametrize("kind", ["small", "medium"])
def test_the_file_is_a_teacher(
    tmp_path: Path, bundled: Extractor, images: DistillationImages, kind: str
) -> None:
    recipe = Recipe(pdn=kind, size=64, steps=1, batch_size=1, statistics=2)
    done = run(tmp_path / "t.safetensors", bundled, images, recipe=recipe)
    teacher = teacher_for(f"efficientad-{kind[0]}", done.path)
    assert isinstance(teacher, PdnTeacher)
    images_B3HW = normalise(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    assert teacher(images_B3HW).shape == (1, CHANNELS, cells_per_side(64), cells_per_side(64))
    held = teacher.pdn.state_dict()
    assert all(torch.equal(value, held[name]) for name, value in load_file(done.path).items())


def test_inside_the_border_the_unpadded_teacher_is_the_padded_student() -> None:
    torch.manual_seed(0)
    padded = distillation.Pdn("small", 8, 0.25, padded=True)
    bare = distillation.Pdn("small", 8, 0.25)
    bare.load_state_dict(padded.state_dict())
    images_B3HW = torch.randn(1, 3, 96, 96)
    inside = padded(images_B3HW)[:, :, BORDER:-BORDER, BORDER:-BORDER]
    torch.testing.assert_close(bare(images_B3HW), inside)


# --- images -------------------------------------------------------------------------------------


def test_images_come_at_both_sizes_and_once_per_epoch(images: DistillationImages) -> None:
    assert images.names == ("0/0.png", "0/2.png", "0/4.png", "1/1.jpg", "1/3.bmp", "1/5.png")
    stream = images.stream(2, seed=3)
    batches = [next(stream) for _ in range(3)]
    assert batches[0].small_B3SS.shape == (2, 3, 64, 64)
    assert batches[0].large_B3LL.shape == (2, 3, 128, 128)
    seen = torch.cat([batch.small_B3SS for batch in batches])
    assert len({image.numpy().tobytes() for image in seen}) == 6
    later = next(images.stream(2, seed=3, start=2))
    assert torch.equal(later.small_B3SS, batches[2].small_B3SS)


def test_the_share_of_grey_images_is_as_configured(images: DistillationImages) -> None:
    coloured = next(images.stream(6, seed=0, grey=0.0)).large_B3LL
    grey = next(images.stream(6, seed=0, grey=1.0)).large_B3LL
    assert (coloured[:, 0] != coloured[:, 1]).any()
    assert torch.equal(grey[:, 0], grey[:, 1])
    stream, drawn = images.stream(6, seed=0, grey=0.1), 0
    for _ in range(50):
        large_B3LL = next(stream).large_B3LL
        drawn += int((large_B3LL[:, 0] == large_B3LL[:, 2]).flatten(1).all(1).sum())
    # 300 draws, 30 expected.
    assert 10 <= drawn <= 55


def test_workers_give_the_same_batches(images: DistillationImages) -> None:
    alone, helped = images.stream(2, 0, grey=0.5), images.stream(2, 0, grey=0.5, workers=2)
    for _ in range(4):
        one, other = next(alone), next(helped)
        assert torch.equal(one.small_B3SS, other.small_B3SS)
        assert torch.equal(one.large_B3LL, other.large_B3LL)


def test_damaged_images_are_skipped_and_named(
    tmp_path: Path, folder: Path, bundled: Extractor
) -> None:
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 300 if number == 1 else None])
    (tmp_path / "empty.jpg").touch()
    found = run(
        tmp_path / "out" / "t.safetensors", bundled, DistillationImages.open(tmp_path, TINY.size)
    )
    assert sorted(found.skipped) == ["2.png", "empty.jpg"]
    assert "zero bytes" in found.skipped["empty.jpg"]
    assert read_card(found.path)["skipped"] == dict(found.skipped)


def test_images_that_are_links_are_read_from_a_named_folder(tmp_path: Path, folder: Path) -> None:
    for name in DistillationImages.open(folder, TINY.size).names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(UserError, match=r"0 image file.* --follow-links"):
        DistillationImages.open(tmp_path, TINY.size)
    linked = DistillationImages.open(tmp_path, TINY.size, folder)
    assert linked.listing == DistillationImages.open(folder, TINY.size).listing


def test_a_folder_without_images_is_one_clear_error(tmp_path: Path, bundled: Extractor) -> None:
    with pytest.raises(UserError, match="found none at"):
        DistillationImages.open(tmp_path / "absent", 64)
    with pytest.raises(UserError, match=r"0 image file\(s\), at least 2"):
        DistillationImages.open(tmp_path, 64)
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    with pytest.raises(UserError, match="none of 2 image files in a row"):
        run(tmp_path / "t.safetensors", bundled, DistillationImages.open(tmp_path, 64))


def test_one_readable_image_is_not_enough(tmp_path: Path, bundled: Extractor) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    with pytest.raises(UserError, match="1 of 2 image files cannot be read"):
        run(tmp_path / "t.safetensors", bundled, DistillationImages.open(tmp_path, 64))


# --- the command ----------------------------------------------------------------------------------


def command(*options: object) -> Any:
    return CliRunner().invoke(app, ["distill-teacher", *map(str, options)])


def test_the_command_distils_and_records_the_origin(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "t.safetensors"
    options = ["--images", folder, "--out", out, "--backbone", "bundled-teacher", "--size", 64,
             "--steps", 2, "--batch-size", 2, "--statistics", 4, "--device", "cpu",
             "--tensorboard", tmp_path / "board", "--json"]  # fmt: skip
    plan = command(*options, "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert json.loads(plan.stdout)["maps"] == [[64, 16], [128, 8]]
    assert not out.exists()
    done = command(*options)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["steps"], facts["pictures"], facts["cached"]) == (2, 6, False)
    assert list((tmp_path / "board").rglob("events*"))
    card = read_card(out)
    assert card["plan"]["backbone"] == "bundled-teacher"
    assert card["plan"]["licence"] == facts["licence"] == "Apache-2.0"
    assert len(card["plan"]["weights_sha256"]) == 64
    assert json.loads(command(*options).stdout)["cached"]


def test_a_damaged_image_ends_the_command_with_code_3(tmp_path: Path, folder: Path) -> None:
    for path in folder.rglob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "empty.jpg").touch()
    done = command(
        "--images", tmp_path, "--out", tmp_path / "t.safetensors", "--backbone", "bundled-teacher",
        "--size", 64, "--steps", 1, "--batch-size", 2, "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 3, done.output
    assert "empty.jpg: the file has zero bytes" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "t.pth"), "with a .safetensors file, got t.pth"),
        (("--out", "t.safetensors", "--size", 100), "multiple of 32"),
        (("--out", "t.safetensors", "--pdn", "large"), "'small' or 'medium'"),
        (("--out", "t.safetensors", "--backbone", "timm:test_resnet"), "name the --weights"),
        (("--out", "t.safetensors", "--weights", "nothing"), "got nothing"),
    ],
)
def test_a_user_error_is_raised_before_any_work(
    folder: Path, options: tuple[object, ...], message: str
) -> None:
    done = command("--images", folder, *options)
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)


def test_the_error_about_missing_weights_says_how_to_get_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = command("--images", folder, "--out", tmp_path / "t.safetensors")
    assert isinstance(done.exception, WeightsError)
    assert "anomalysmith weights pull wide-resnet101-2" in str(done.exception)

"""Training images of the bundled models, and their training loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.errors import UserError
from pretraining.data import clutter
from pretraining.data.examples import CHUNK, Example, example, open_ahead, render_ahead
from pretraining.data.textures import photographs
from pretraining.loop import train


def same(one: Example, other: Example) -> bool:
    return one.removed == other.removed and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("image_HW3", "instances_HW", "foreground_HW", "without_HW3")
    )


@pytest.mark.parametrize("scenes", [0.0, 1.0])
def test_a_seed_determines_the_image(scenes: float) -> None:
    assert same(example(7, 96, scenes), example(7, 96, scenes))
    assert not same(example(7, 96, scenes), example(8, 96, scenes))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 40), scenes=st.sampled_from([0.0, 1.0]))
def test_every_example_is_consistent(seed: int, scenes: float) -> None:
    one = example(seed, 64, scenes)
    assert one.image_HW3.shape == one.without_HW3.shape == (64, 64, 3)
    assert one.image_HW3.dtype == one.without_HW3.dtype == one.instances_HW.dtype == np.uint8
    assert one.foreground_HW.dtype == np.bool_
    numbers = np.unique(one.instances_HW)
    assert set(numbers) | {0} == set(range(int(numbers.max()) + 1)), "numbered without a gap"
    assert one.removed <= numbers.max()
    assert (one.removed > 0) == (numbers.max() > 0)


def test_clutter_objects_are_foreground() -> None:
    for seed in range(20):
        one = example(seed, 64, scenes=0.0)
        assert one.foreground_HW[one.instances_HW > 0].all()


def test_leaving_out_a_layer_changes_nothing_beyond_its_reach() -> None:
    for seed in range(10):
        scene = clutter.scene(np.random.default_rng(seed), 96)
        layer = scene.layers[-1]
        with_HW3, _ = clutter.compose(scene)
        without_HW3, owner_HW = clutter.compose(scene, skip=len(scene.layers) - 1)
        rows, columns = np.nonzero((with_HW3 != without_HW3).any(2))
        side = layer.alpha_hw.shape[0]
        assert ((rows >= layer.y) & (rows < layer.y + side)).all()
        assert ((columns >= layer.x) & (columns < layer.x + side)).all()
        assert owner_HW.max() < len(scene.layers)


def test_camera_effects_are_the_same_for_both_images() -> None:
    """Light and noise must not reveal which of the two images has an object removed."""
    grey_HW3 = np.full((48, 48, 3), 120, np.float32)
    assert np.array_equal(clutter.camera(5, grey_HW3), clutter.camera(5, grey_HW3))


def test_photographs_come_from_disk_only() -> None:
    found = photographs()
    assert len(found) >= 10
    for image_HW3 in found:
        assert image_HW3.dtype == np.uint8
        assert image_HW3.ndim == 3


def test_rendering_ahead_resumes_where_it_stopped(tmp_path: Path, monkeypatch) -> None:
    calls = 0

    def stopping(*arguments):
        nonlocal calls
        calls += 1
        if calls > CHUNK + 3:
            raise KeyboardInterrupt
        return example(*arguments)

    monkeypatch.setattr("pretraining.data.examples.example", stopping)
    with pytest.raises(KeyboardInterrupt):
        render_ahead(tmp_path, CHUNK + 5, first_seed=100, size=64, scenes=0.0)
    assert len(open_ahead(tmp_path)["images"]) == CHUNK
    monkeypatch.undo()
    render_ahead(tmp_path, CHUNK + 5, first_seed=100, size=64, scenes=0.0)
    arrays = open_ahead(tmp_path)
    for row in (0, CHUNK - 1, CHUNK + 4):
        one = example(100 + row, 64, 0.0)
        assert np.array_equal(arrays["images"][row], one.image_HW3)
        assert np.array_equal(arrays["foreground"][row], one.foreground_HW)
        assert arrays["removed"][row] == one.removed
    with pytest.raises(UserError, match="name another folder"):
        render_ahead(tmp_path, CHUNK + 5, first_seed=101, size=64, scenes=0.0)


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="render_ahead"):
        open_ahead(tmp_path)


# --- the loop --------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for a killed process."""


def line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 1))


def batches(step: int, progress: float) -> tuple[Tensor, Tensor]:
    image_BCHW = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    return image_BCHW, (image_BCHW.sum(1, keepdim=True) > 0).float()


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    logits = model(batch[0]).float()
    return nn.functional.binary_cross_entropy_with_logits(logits, batch[1])


def test_the_loop_learns_and_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    def breaking(step: int, progress: float) -> tuple[Tensor, Tensor]:
        if step == 20:
            raise Interrupted
        return batches(step, progress)

    cpu = torch.device("cpu")
    whole = train(line(), batches, loss, 60, tmp_path / "a", rate=1e-2, warm_up=5, device=cpu)
    with pytest.raises(Interrupted):
        train(line(), breaking, loss, 60, tmp_path / "b", rate=1e-2, warm_up=5, device=cpu,
              save_minutes=0)  # fmt: skip
    resumed = train(line(), batches, loss, 60, tmp_path / "b", rate=1e-2, warm_up=5, device=cpu)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert float(loss(whole, batches(999, 0)).detach()) < 0.3


def test_the_clock_ends_a_run(tmp_path: Path) -> None:
    seen: list[int] = []
    train(line(), batches, loss, 10**9, tmp_path, minutes=0.005,
          on_save=lambda averaged, step: seen.append(step))  # fmt: skip
    assert 0 < seen[-1] < 10**9


def test_a_checkpoint_of_another_model_is_rejected(tmp_path: Path) -> None:
    train(line(), batches, loss, 1, tmp_path)
    with pytest.raises(UserError, match="another model"):
        train(nn.Conv2d(3, 1, 1), batches, loss, 2, tmp_path)

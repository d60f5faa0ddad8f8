"""The nearest-neighbour patch baseline: its bank, its distances, its map, its score."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from detectors.base import Batch
from detectors.models.nearest.model import Nearest, NearestSettings, build
from detectors.networks.patch_memory import CHUNK, coreset_rows
from detectors.registry import Profile, assemble, configure
from pipeline.models.backbone import SMALL_CHANNELS, Trunk, small_teacher
from pretraining.patch_score import WEIGHTS


def plates(count: int, seed: int, size: int = 128) -> list[Batch]:
    """Grey plates with weak noise, in batches of two."""
    rng = np.random.default_rng(seed)
    noisy = 128 + 6 * rng.standard_normal((count, 1, size, size)) + np.zeros((1, 3, 1, 1))
    images = torch.from_numpy(noisy.clip(0, 255).astype(np.uint8))
    return [{"image": part} for part in images.split(2)]


def scratched(batches: list[Batch]) -> Tensor:
    """The same plates with a dark line."""
    images_B3HW = torch.cat([batch["image"] for batch in batches]).clone()
    images_B3HW[:, :, 60:64, 30:90] = 60
    return images_B3HW


def fitted(normals: list[Batch], **changes: object) -> Nearest:
    changes = {"teacher": "bundled-teacher", "size": 128} | changes
    detector = build(NearestSettings.model_validate(changes), WEIGHTS)
    detector.prepare(normals)
    return detector.eval()


# --- against an independent reference -------------------------------------------------------------


def naive_cells(trunk: Trunk, image_3HW: Tensor) -> np.ndarray:
    """(h, w, C) float64: averages over 3x3 windows filled with zeros, level by level, by hand."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised_HW3 = (image_3HW.permute(1, 2, 0).numpy() / 255 - mean) / deviation
    images = torch.from_numpy(normalised_HW3).permute(2, 0, 1)[None].float()
    averaged = []
    with torch.no_grad():
        for level in trunk(images)[1:]:
            padded = np.pad(level[0].numpy().astype(np.float64), ((0, 0), (1, 1), (1, 1)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
            averaged.append(windows.mean((3, 4)))
    middle, coarse = averaged
    side = middle.shape[1]
    places = np.clip((np.arange(side) + 0.5) / 2 - 0.5, 0, coarse.shape[1] - 1)
    low = np.floor(places).astype(int)
    high, part = np.minimum(low + 1, coarse.shape[1] - 1), places - low
    coarse = coarse[:, low] * (1 - part)[:, None] + coarse[:, high] * part[:, None]
    coarse = coarse[:, :, low] * (1 - part) + coarse[:, :, high] * part
    return np.concatenate((middle, coarse)).transpose(1, 2, 0)


def test_distances_are_those_of_a_naive_search() -> None:
    normals, unseen = plates(3, seed=0, size=64), scratched(plates(2, seed=1, size=64))
    detector = fitted(normals, size=64)
    trunk = small_teacher(WEIGHTS)
    bank_NC = np.concatenate(
        [naive_cells(trunk, i).reshape(64, -1) for b in normals for i in b["image"]]
    )
    first = SMALL_CHANNELS[1]
    scale_C = np.ones(bank_NC.shape[1])
    scale_C[:first] = np.sqrt((bank_NC[:, :first] ** 2).sum(1).mean())
    scale_C[first:] = np.sqrt((bank_NC[:, first:] ** 2).sum(1).mean())
    with torch.inference_mode():
        scores = detector(unseen)
    for image, score, map_HW in zip(unseen, scores.image_B, scores.maps_BHW, strict=True):
        cells_PC = naive_cells(trunk, image).reshape(64, -1) / scale_C
        apart_PN = np.linalg.norm(cells_PC[:, None] - (bank_NC / scale_C)[None], axis=2)
        assert float(score) == pytest.approx(apart_PN.min(1).max(), rel=1e-3)
        grid = apart_PN.min(1).reshape(8, 8)
        # A corner pixel lies in its cell alone, four pixels next to a corner of four cells average.
        assert float(map_HW[0, 0]) == pytest.approx(grid[0, 0], rel=1e-3, abs=1e-3)
        middle = float(map_HW[31:33, 31:33].mean())
        assert middle == pytest.approx(grid[3:5, 3:5].mean(), rel=1e-3, abs=1e-3)


def test_the_greedy_coreset_is_that_of_a_naive_loop() -> None:
    cells_MC = torch.randn(60, 5, generator=torch.Generator().manual_seed(3))
    rows = coreset_rows(cells_MC, 20, seed=1).tolist()
    chosen = rows[:1]
    while len(chosen) < 20:
        gaps = [min(float((cell - cells_MC[c]).norm()) for c in chosen) for cell in cells_MC]
        chosen.append(int(np.argmax(gaps)))
    assert rows == chosen


def test_re_weighting_follows_the_papers_equation() -> None:
    normals, unseen = plates(4, seed=0), scratched(plates(3, seed=1))
    plain, weighted = fitted(normals, bank=500), fitted(normals, bank=500, neighbours=5)
    with torch.inference_mode():
        before, after = plain(unseen), weighted(unseen)
        cells_BPC = plain.memory.cells(*plain.features(unseen))
    bank_NC = plain.memory.bank_NC.double().numpy()
    for number, cells_PC in enumerate(cells_BPC.double().numpy()):
        apart_PN = np.linalg.norm(cells_PC[:, None] - bank_NC[None], axis=2)
        cell, match = np.unravel_index(
            np.where(apart_PN == apart_PN.min(1, keepdims=True), apart_PN, -1).argmax(),
            apart_PN.shape,
        )
        near = np.argsort(np.linalg.norm(bank_NC - bank_NC[match], axis=1))[:5]
        weight = 1 - np.exp(apart_PN[cell, match]) / np.exp(apart_PN[cell, near]).sum()
        expected = weight * apart_PN[cell, match]
        assert float(after.image_B[number]) == pytest.approx(expected, rel=1e-3)
    assert torch.equal(before.maps_BHW, after.maps_BHW)


# --- behaviour ------------------------------------------------------------------------------------


@pytest.mark.parametrize("subset", ["random", "greedy"])
def test_a_scratch_scores_above_every_normal_plate_and_is_localised(subset: str) -> None:
    detector = fitted(plates(8, seed=0), subset=subset, bank=1000)
    unseen = plates(6, seed=1)
    with torch.inference_mode():
        good = torch.cat([detector(batch["image"]).image_B for batch in unseen])
        scratches = detector(scratched(unseen))
    assert scratches.image_B.min() > good.max()
    for map_HW in scratches.maps_BHW:
        row, column = divmod(int(map_HW.argmax()), 128)
        assert 48 <= row < 76
        assert 18 <= column < 102


def test_an_image_of_the_bank_scores_zero() -> None:
    normals = plates(8, seed=0)
    detector = fitted(normals)
    # Fewer cells than the bank could hold, so all of them are in it.
    assert len(detector.memory.bank_NC) == 8 * 16 * 16
    with torch.inference_mode():
        assert detector(normals[1]["image"]).image_B.max() < 0.02


def test_banks_longer_than_a_chunk_are_searched_completely() -> None:
    normals = plates(8, seed=0)
    detector = fitted(normals)
    assert len(detector.memory.bank_NC) == 2 * CHUNK
    with torch.inference_mode():
        whole = detector(normals[0]["image"]).image_B
        detector.memory.bank_NC = detector.memory.bank_NC.flip(0)
        torch.testing.assert_close(detector(normals[0]["image"]).image_B, whole, atol=0.02, rtol=0)


@pytest.mark.parametrize("subset", ["random", "greedy"])
def test_the_bank_depends_on_its_seed_alone(subset: str) -> None:
    normals = plates(10, seed=0)
    one, again, other = (fitted(normals, bank=200, subset=subset, seed=s) for s in (0, 0, 1))
    regrouped = fitted([{"image": torch.cat([b["image"] for b in normals])}], bank=200,
                       subset=subset)  # fmt: skip
    assert one.memory.bank_NC.shape == (200, sum(SMALL_CHANNELS[1:]))
    assert torch.equal(one.memory.bank_NC, again.memory.bank_NC)
    torch.testing.assert_close(one.memory.bank_NC, regrouped.memory.bank_NC, rtol=1e-3, atol=1e-4)
    assert not torch.equal(one.memory.bank_NC, other.memory.bank_NC)


def test_a_state_dict_carries_a_bank_of_any_length() -> None:
    normals = plates(2, seed=0)
    before = fitted(normals)
    after = assemble("nearest", before.settings, weights=False).eval()
    after.load_state_dict(before.state_dict())
    with torch.inference_mode():
        one, other = before(scratched(normals)), after(scratched(normals))
    assert torch.equal(one.image_B, other.image_B)
    assert torch.equal(one.maps_BHW, other.maps_BHW)


@pytest.mark.parametrize(
    ("profile", "teacher"),
    [("paper", "resnet18"), ("cpu", "efficientnet-lite0"), ("tiny", "bundled-teacher")],
)
def test_the_profiles_are_one_detector_on_three_backbones(profile: Profile, teacher: str) -> None:
    recipe = configure("nearest", profile)
    assert recipe.settings.teacher == teacher
    assert recipe.schedule.steps == 0


@pytest.mark.slow
def test_it_is_exported_to_onnx_for_any_number_of_images(tmp_path: Path) -> None:
    detector = fitted(plates(4, seed=0, size=64), size=64, neighbours=3)
    unseen = scratched(plates(3, seed=1, size=64))
    torch.onnx.export(
        detector, (unseen[:2],), tmp_path / "nearest.onnx", dynamo=True, verbose=False,
        input_names=["images"], dynamic_shapes=({0: torch.export.Dim("B")},),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "nearest.onnx")
    image_B, maps_BHW = session.run(None, {"images": unseen.numpy()})
    with torch.inference_mode():
        scores = detector(unseen)
    np.testing.assert_allclose(image_B, scores.image_B, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(maps_BHW, scores.maps_BHW, rtol=1e-3, atol=1e-3)

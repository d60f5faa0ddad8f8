"""Foreground through rembg sessions, and images where rembg's stretch would invent one."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from pipeline.models.build import FOREGROUND
from pipeline.models.foreground import (
    CLEAR,
    ClearerForeground,
    Saliency,
    U2NetForeground,
    ambiguity,
    foreground_of,
    tidied,
)
from pipeline.models.weights import store as weights


def saliency_model(path, levels: np.ndarray):
    """An ONNX file with U²-Net's interface whose output is always `levels` (320, 320)."""
    constant = helper.make_tensor(
        "levels", TensorProto.FLOAT, [1, 1, 320, 320], levels.astype(np.float32).ravel()
    )
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["levels", "nothing"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "saliency",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 320, 320])],
        [constant, zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def image_HW3():
    return np.random.default_rng(0).integers(0, 255, (80, 120, 3), np.uint8)


def test_a_clear_object_is_the_foreground(tmp_path, image_HW3):
    levels = np.zeros((320, 320))
    levels[80:240, 80:240] = 0.95
    found = U2NetForeground(saliency_model(tmp_path / "m.onnx", levels))(image_HW3)
    assert not found.fallback
    assert found.mask_HW.shape == (80, 120)
    assert found.mask_HW.mean() == pytest.approx(0.25, abs=0.02)
    assert found.peak == pytest.approx(0.95)


@pytest.mark.parametrize("most", [255, 97, 0])
def test_the_network_gets_what_rembg_makes_of_an_image(tmp_path, image_HW3, most):
    """The long way: rembg's own arithmetic on every pixel."""
    session = U2NetForeground(saliency_model(tmp_path / "m.onnx", np.zeros((320, 320))))._session
    image = Image.fromarray(np.minimum(image_HW3, most).astype(np.uint8))
    given = image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (320, 320)
    ((name, expected),) = type(session).normalize(session, *given).items()
    ((found_name, found),) = session.normalize(*given).items()
    assert found_name == name
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("peak", [0.0, 0.02, 0.49])
def test_an_image_without_an_object_falls_back_to_the_whole_frame(tmp_path, image_HW3, peak):
    """rembg would stretch this faint spot to a full-range mask."""
    levels = np.zeros((320, 320))
    levels[100:110, 100:110] = peak
    found = U2NetForeground(saliency_model(tmp_path / "m.onnx", levels))(image_HW3)
    assert found.mask_HW.all()
    assert "whole frame" in found.fallback


def test_a_constant_saliency_map_does_not_divide_by_zero(tmp_path, image_HW3):
    found = U2NetForeground(saliency_model(tmp_path / "m.onnx", np.full((320, 320), 0.9)))(
        image_HW3
    )
    assert found.mask_HW.all()


def test_a_speck_is_no_foreground(tmp_path, image_HW3):
    levels = np.zeros((320, 320))
    levels[100:104, 100:104] = 0.99
    found = U2NetForeground(saliency_model(tmp_path / "m.onnx", levels))(image_HW3)
    assert "covers" in found.fallback


def test_the_bundled_model_finds_a_rendered_tray():
    from scenes.render import render

    scene = render("tray", seed=123_456, size=256)
    found = U2NetForeground(weights.require("bundled-u2netp"))(scene.image_HW3)
    shared = (found.mask_HW & scene.product_HW).sum()
    assert shared / (found.mask_HW | scene.product_HW).sum() > 0.8
    assert not found.fallback


def test_the_session_runs_on_one_thread(tmp_path, monkeypatch):
    """Sums split over threads round differently, which would change the digest of a dataset."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    model = U2NetForeground(saliency_model(tmp_path / "m.onnx", np.zeros((320, 320))))
    assert model._session.inner_session.get_session_options().intra_op_num_threads == 1


def test_ambiguity_is_0_for_a_binary_map_and_1_without_an_object():
    levels_HW = np.zeros((40, 50), np.uint8)
    levels_HW[10:30, 10:30] = 255
    assert ambiguity(Saliency(levels_HW, 1.0)) == 0
    # Against the formula: a region as large as the foreground at half saliency is all doubt.
    levels_HW[10:30, 30:50] = 127
    s_HW = levels_HW / 255
    expected = (4 * s_HW * (1 - s_HW)).sum() / (s_HW > 0.5).sum()
    assert ambiguity(Saliency(levels_HW, 1.0)) == pytest.approx(expected)
    assert expected == pytest.approx(1, abs=0.01)
    assert ambiguity(Saliency(levels_HW, 0.2)) == 1
    assert ambiguity(Saliency(np.zeros_like(levels_HW), 1.0)) == 1


def test_small_holes_are_filled_and_specks_dropped_but_bores_and_parts_stay():
    mask_HW = np.zeros((200, 200), np.bool_)
    mask_HW[20:120, 20:120] = True
    clean_HW = mask_HW.copy()
    # A bore of 4 % of the foreground, and a part of 1 %.
    clean_HW[60:80, 60:80] = False
    clean_HW[150:160, 150:160] = True
    flawed_HW = clean_HW.copy()
    flawed_HW[30:33, 30:33] = False
    flawed_HW[180:183, 20:23] = True
    assert np.array_equal(tidied(flawed_HW), clean_HW)
    assert np.array_equal(tidied(clean_HW), clean_HW)
    # Background that the border cuts off is no hole.
    corner_HW = np.ones((100, 100), np.bool_)
    corner_HW[:3, :3] = False
    assert np.array_equal(tidied(corner_HW), corner_HW)


def doubtful(levels: np.ndarray) -> np.ndarray:
    """The same object with half saliency all around it."""
    return np.where(levels > 0, levels, 0.45)


@pytest.mark.parametrize(
    ("first_clear", "second_clear", "chosen"),
    [
        (True, True, "u2netp"),
        (True, False, "u2netp"),
        (False, True, "bundled"),
        (False, False, "u2netp"),
    ],
)
def test_the_clearer_of_two_answers_is_taken_and_named(
    tmp_path, image_HW3, first_clear, second_clear, chosen
):
    left, right = np.zeros((320, 320)), np.zeros((320, 320))
    left[80:240, 40:140] = right[80:240, 180:280] = 0.99
    # rembg stretches every map to its own range: a corner at 0 keeps the doubt what it is.
    maps = {
        "u2netp": left if first_clear else doubtful(left),
        "bundled": right if second_clear else doubtful(right),
    }
    for levels in maps.values():
        levels[:10, :10] = 0
    first, second = (
        U2NetForeground(saliency_model(tmp_path / f"{name}.onnx", levels), backend=name)
        for name, levels in maps.items()
    )
    assert (ambiguity(first.saliency(image_HW3)) <= CLEAR) == first_clear
    found = ClearerForeground(first, second)(image_HW3)
    assert found.backend == chosen
    assert np.array_equal(
        found.mask_HW, (first if chosen == "u2netp" else second)(image_HW3).mask_HW
    )


def test_a_clear_answer_does_not_run_the_second_network(tmp_path, image_HW3):
    levels = np.zeros((320, 320))
    levels[80:240, 80:240] = 0.99
    first = U2NetForeground(saliency_model(tmp_path / "m.onnx", levels), backend="u2netp")
    # None cannot be called: asking it would fail.
    assert ClearerForeground(first, None)(image_HW3).backend == "u2netp"


def iou(first_HW: np.ndarray, second_HW: np.ndarray) -> float:
    return (first_HW & second_HW).sum() / (first_HW | second_HW).sum()


# Held-out drawn scenes on which the official network finds a fraction of the product.
@pytest.mark.parametrize(("product", "seed"), [("bag", 80_000_000), ("tray", 80_000_004)])
def test_products_that_the_official_network_loses_are_found(pulled, product, seed):
    from scenes.render import render

    scene = render(product, seed, size=256)
    official = U2NetForeground(pulled("u2netp"), backend="u2netp")
    bundled = U2NetForeground(weights.require(FOREGROUND["bundled"]), backend="bundled")
    assert iou(official(scene.image_HW3).mask_HW, scene.product_HW) < 0.3
    found = ClearerForeground(official, bundled)(scene.image_HW3)
    assert found.backend == "bundled"
    assert iou(found.mask_HW, scene.product_HW) > 0.95


def test_photographs_keep_the_official_answer(pulled, shared):
    """Objects of eight photographs, against the published masks of the large U²-Net."""
    from pipeline.imaging.decode import load_image

    folder = shared / "data" / "u2net_reference"
    official = U2NetForeground(pulled("u2netp"), backend="u2netp")
    bundled = U2NetForeground(weights.require(FOREGROUND["bundled"]), backend="bundled")
    auto = ClearerForeground(official, bundled)
    for photograph in sorted((folder / "images").iterdir()):
        published_HW3 = load_image(folder / "u2net_results" / f"{photograph.stem}.png")
        found = auto(load_image(photograph))
        assert found.backend == "u2netp", photograph.name
        assert iou(found.mask_HW, published_HW3[..., 0] > 127) > 0.84, photograph.name


def test_a_failed_network_has_no_object():
    found = foreground_of(Saliency(np.zeros((8, 8), np.uint8), float("nan")))
    assert found.mask_HW.all()
    assert found.peak == 0
    assert "whole frame" in found.fallback

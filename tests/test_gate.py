"""The gate: each rule refuses the sample made to break it, and a sound sample passes."""

import cv2
import numpy as np
import pytest

from pipeline import gate
from pipeline.grain import MAX_GRAIN, add_grain, grain_level, ring_of
from pipeline.records import Edit, Sample
from pipeline.settings import GateSettings


def scene(noise: float = 3.0, size: int = 96) -> np.ndarray:
    rng = np.random.default_rng(0)
    ground = np.full((size, size, 3), 120.0) + rng.normal(0, noise, (size, size, 3))
    cv2.circle(ground, (48, 48), 12, (200, 60, 60), -1)
    return np.clip(ground, 0, 255).astype(np.uint8)


def disc(radius: int, size: int = 96, at: tuple[int, int] = (48, 48)) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    return cv2.circle(mask, at, radius, 1, -1).astype(np.bool_)


def removal(image: np.ndarray, fill: np.ndarray, change: np.ndarray, kind="missing", share=0.1):
    pixels = np.where(change[..., None], fill, image).astype(np.uint8)
    return Sample(Edit(kind, (0,), {"foreground_share": share}, 0), pixels, change, disc(12))


def clean(noise: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.clip(120 + rng.normal(0, noise, (96, 96, 3)), 0, 255)


def test_a_clean_removal_passes():
    image = scene()
    assert gate.judge(removal(image, clean(), disc(14)), image).accepted


def broken_samples():
    image = scene()
    big = disc(45)
    edge = np.zeros((96, 96), np.bool_)
    edge[:4] = True
    rim = np.where(disc(12)[..., None], clean(), 255)
    yield "empty", removal(image, clean(), np.zeros((96, 96), np.bool_))
    yield "too_large", removal(image, clean(), big)
    yield "whole_object", removal(image, clean(), disc(14), share=0.8)
    yield "touches_border", removal(image, clean(), edge | disc(12))
    yield "unchanged", removal(image, image, disc(14))
    yield "seam", removal(image, rim, disc(14))
    yield "too_smooth", removal(image, np.full_like(image, 120), disc(14))
    yield "too_noisy", removal(image, clean(noise=20), disc(14))
    yield "altered_control", removal(image, clean(), disc(14), kind="control_noop")


@pytest.mark.parametrize(("reason", "sample"), list(broken_samples()), ids=lambda v: str(v)[:20])
def test_each_rule_has_its_reason(reason, sample):
    verdict = gate.judge(sample, scene())
    assert verdict.reason == reason, verdict


def test_a_faint_change_is_refused():
    image = scene(noise=0)
    paler = np.clip(image.astype(int) + 9, 0, 255)
    assert gate.judge(removal(image, paler, disc(12)), image).reason == "faint"


def test_exchanging_two_of_a_kind_is_no_anomaly():
    """Two discs that differ in texture only against two that differ in colour."""
    rng = np.random.default_rng(3)
    left, right = disc(12, at=(28, 48)), disc(12, at=(68, 48))
    edit = Edit("swapped", (0, 1), {"foreground_share": 0.1, "offset": [40, 0]}, 0)
    reasons = {}
    for name, colours in {"alike": (150, 150), "unlike": (90, 210)}.items():
        image = clean().astype(np.uint8)
        for mask, colour in zip((left, right), colours, strict=True):
            image[mask] = np.clip(colour + rng.normal(0, 25, (mask.sum(), 3)), 0, 255)
        edited = image.copy()
        edited[left], edited[right] = image[right], image[left]
        around = disc(16, at=(28, 48)) | disc(16, at=(68, 48))
        verdict = gate.judge(Sample(edit, edited, around, left | right), image)
        reasons[name] = verdict.reason
    assert reasons == {"alike": "look_alike", "unlike": ""}


def test_the_same_edit_twice_is_a_duplicate():
    image = scene()
    sample = removal(image, clean(), disc(14))
    assert gate.judge(sample, image, accepted=[sample]).reason == "duplicate"
    elsewhere = removal(image, clean(), disc(14, at=(20, 20)))
    assert gate.judge(sample, image, accepted=[elsewhere]).accepted


def test_a_control_that_changed_nothing_passes():
    image = scene()
    assert gate.judge(removal(image, image, disc(14), kind="control_noop"), image).accepted


def test_thresholds_are_settings():
    image = scene()
    strict = GateSettings(min_delta_e=90)
    assert gate.judge(removal(image, clean(), disc(14)), image, strict).reason == "faint"


def test_delta_e_agrees_with_scikit_image():
    color = pytest.importorskip("skimage.color")
    image = scene()
    sample = removal(image, clean(), disc(14))
    labs = [color.rgb2lab(p)[disc(14)] for p in (sample.pixels_HW3, image)]
    expected = color.deltaE_cie76(*labs).mean()
    assert gate.measure(sample, image)["delta_e"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("sigma", [1.0, 3.0, 5.0])
def test_grain_is_brought_up_to_that_of_the_ring(sigma):
    image = scene(noise=sigma)
    hole = disc(16)
    filled = np.where(hole[..., None], 120.0, image).astype(np.float32)
    grainy = add_grain(filled, image, hole, np.random.default_rng(2))
    around, inside = grain_level(image, ring_of(hole)), grain_level(grainy, hole)
    np.testing.assert_allclose(inside, around, rtol=0.25)
    assert np.array_equal(grainy[~hole], filled[~hole])


def test_texture_is_not_mistaken_for_grain():
    board = (np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[..., None], 3, 2)
    hole = disc(16)
    filled = np.where(hole[..., None], 120.0, image).astype(np.float32)
    grainy = add_grain(filled, image, hole, np.random.default_rng(2))
    assert grain_level(grainy, hole).max() < 1.5 * MAX_GRAIN

"""Calibration of the gate: distances against SciPy, limits that untouched regions keep and
inserted artifacts exceed, and independence of the order of the images."""

from functools import lru_cache

import cv2
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pipeline.gate import calibration
from pipeline.gate import judge as gate
from pipeline.gate import patch_bank as patches
from pipeline.gate.checks import findings
from pipeline.gate.settings import GateSettings
from pipeline.imaging.artifacts import clipped_share, outline_ratio
from pipeline.imaging.noise import add_noise
from pipeline.models.weights import store as weights
from pipeline.records import Edit, ObjectProposals, Sample
from scenes.render import render

TEACHER = weights.BUNDLED / "small_teacher.safetensors"
IMAGES, HELD_OUT = 6, 4


@lru_cache
def normal_image(seed: int):
    """One rendered tray with its true objects as proposals."""
    scene = render("tray", seed, size=256)
    masks = np.stack([instance.mask_HW for instance in scene.instances])
    scores = np.ones(len(masks), np.float32)
    return scene.image_HW3, ObjectProposals(masks, scores, scene.product_HW)


def normals(seeds):
    return {f"{seed + 17:064x}": lambda seed=seed: normal_image(seed) for seed in seeds}


@pytest.fixture(scope="module")
def calibrated():
    return calibration.learn(normals(range(IMAGES)), TEACHER)


def untouched(seed: int):
    """Regions of an image as the calibration takes them, with digests that it has not seen."""
    image, proposals = normal_image(seed)
    shapes = calibration._shapes(normals([seed]), 4)
    return image, list(calibration._regions(f"{seed:064x}", (256, 256), proposals, shapes, 4))


def rejected(image, edited, mask, calibrated, kind="missing") -> set[str]:
    edit = Edit(kind, (0,), {"foreground_share": 0.1, "dilation": 4}, 0)
    sample = Sample(edit, edited, mask, mask)
    settings = GateSettings(min_changed_fraction=0, min_delta_e=0)
    scores = gate.scores_of(sample, image, settings, calibrated, always=True)
    found = findings(edit, scores, settings, calibrated.limits)
    return {f.check.reason for f in found if not f.passed}


def test_a_distance_equals_that_of_scipy_to_the_nearest_cell(calibrated):
    image, _ = normal_image(IMAGES)
    bank = calibrated.patches
    cells = patches.describe(image, TEACHER) / bank.scale_C
    expected = cdist(cells.reshape(-1, cells.shape[-1]), bank.cells_NC).min(1).reshape(32, 32)
    everywhere = np.ones((256, 256), np.bool_)
    np.testing.assert_allclose(bank.distances(image, everywhere), expected, atol=2e-3)
    assert bank.distance_map(image).shape == (256, 256)


def test_a_window_gives_the_distances_of_the_whole_image(calibrated):
    image, proposals = normal_image(IMAGES)
    mask = proposals.masks_NHW[0]
    everywhere = calibrated.patches.distances(image, np.ones_like(mask))
    inside = patches.coverage(mask) > 0
    near = calibrated.patches.distances(image, mask)
    np.testing.assert_allclose(near[inside], everywhere[inside], atol=1e-4)
    assert not near[~inside].any()
    before = calibrated.patches.distance_before(image, mask)
    assert before == pytest.approx(calibrated.patches.region_distance(image, mask), abs=1e-4)


def test_an_image_is_never_compared_with_its_own_patches(calibrated):
    digest = next(iter(normals([0])))
    image, _ = normal_image(0)
    everywhere = np.ones((256, 256), np.bool_)
    with_itself = calibrated.patches.region_distance(image, everywhere)
    without = calibrated.without(digest).patches
    assert without.region_distance(image, everywhere) > with_itself
    assert len(without.pooled_KC) == IMAGES - 1
    assert calibrated.without("f" * 64).patches.cells_NC.shape == calibrated.patches.cells_NC.shape


def test_untouched_regions_of_new_images_keep_the_limits(calibrated):
    """Nearly all of them, each judged as if an edit had inpainted the pixels that are there."""
    verdicts = []
    for seed in range(IMAGES, IMAGES + HELD_OUT):
        image, masks = untouched(seed)
        verdicts += [not rejected(image, image, mask, calibrated) for mask in masks]
    assert len(verdicts) == 12 * HELD_OUT
    # 48 regions: two may fail by chance.
    assert np.mean(verdicts) >= 0.95


def with_artifact(seed: int, how: str):
    """An image, and the same with an artifact over one of its objects."""
    image, proposals = normal_image(seed)
    mask = calibration.grown(max(proposals.masks_NHW, key=np.count_nonzero), 4)
    rng = np.random.default_rng(0)
    soft = image.astype(np.float32)
    if how == "blur":
        soft = cv2.GaussianBlur(soft, (0, 0), 6)
    elif how == "smear":
        soft = cv2.blur(soft, (61, 3))
    elif how == "noise":
        soft = soft + rng.normal(0, 25, soft.shape)
    elif how == "step":
        soft = soft + np.where(soft.mean() > 128, -60, 60)
    elif how == "white":
        soft = np.full_like(soft, 255)
    painted = np.where(mask[..., None], soft, image)
    # As after inpainting: with the sensor noise of the surroundings.
    if how in ("blur", "smear"):
        painted = add_noise(painted.astype(np.float32), image, mask, rng)
    painted = np.clip(np.rint(painted), 0, 255).astype(np.uint8)
    return image, painted, mask


@pytest.mark.parametrize(
    ("how", "reasons"),
    [
        ("blur", {"implausible"}),
        ("smear", {"implausible"}),
        ("noise", {"too_noisy", "implausible"}),
        ("white", {"saturated", "too_smooth"}),
        ("step", {"seam", "outline"}),
    ],
)
def test_planted_artifacts_are_rejected(calibrated, how, reasons):
    image, painted, mask = with_artifact(IMAGES + 1, how)
    assert rejected(image, painted, mask, calibrated) & reasons


def test_order_of_images_and_cache_do_not_change_the_calibration(calibrated):
    again = calibration.learn(dict(reversed(normals(range(IMAGES)).items())), TEACHER)
    assert again.limits == calibrated.limits
    assert np.array_equal(again.patches.cells_NC, calibrated.patches.cells_NC)
    back = calibration.unpack(*calibration.pack(calibrated), TEACHER)
    assert back.limits == calibrated.limits
    assert back.patches.digests == calibrated.patches.digests
    assert np.array_equal(back.patches.pooled_KC, calibrated.patches.pooled_KC)


def test_a_calibrated_noise_limit_is_bounded():
    """Where regions of normals hold texture, 30 to 60 times the noise around, the cap applies."""
    measured = {name: [1.0] for name in calibration.ARTIFACTS} | {"any_noise": [30.0, 60.0]}
    assert calibration._limits(measured).max_noise_ratio == calibration.MAX_NOISE_RATIO
    measured["any_noise"] = [1.0, 2.0]
    assert 2.5 <= calibration._limits(measured).max_noise_ratio < calibration.MAX_NOISE_RATIO


def test_without_a_network_artifact_limits_are_calibrated_all_the_same(calibrated):
    plain = calibration.learn(normals(range(IMAGES)), None)
    assert plain.patches is None
    assert plain.limits.max_patch_distance is None
    assert plain.limits.max_outline_ratio == calibrated.limits.max_outline_ratio


def test_one_image_gives_no_patch_limit_and_none_gives_no_limit():
    one = calibration.learn(normals([0]), TEACHER)
    assert one.limits.max_patch_distance is None
    assert one.limits.max_outline_ratio is not None
    assert calibration.learn({}, TEACHER).limits.regions == 0


def test_artifact_measures_match_their_definitions():
    rng = np.random.default_rng(0)
    flat = np.full((64, 64, 3), 100, np.uint8)
    box = np.zeros((64, 64), np.bool_)
    box[20:44, 20:44] = True
    assert outline_ratio(flat, box) == 1.0
    drawn = flat.copy()
    # Sobel / 8 sees half of a step of 40 on each side of it; 2 is added for flat background.
    drawn[box] = 140
    assert outline_ratio(drawn, box) == pytest.approx((20 + 2) / 2, rel=0.1)
    noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
    noise[:32] = 0
    noise[:8] = 255
    wanted = (noise.max(2) <= 1) | (noise.min(2) >= 254)
    assert clipped_share(noise, box) == pytest.approx(wanted[box].mean())

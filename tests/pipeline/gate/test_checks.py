"""The gate: each check rejects the sample made to fail it, and a sound sample is accepted."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.gate import scores as gate_scores
from pipeline.gate.checks import CHECKS, FALLBACK_LIMITS, limit_of
from pipeline.gate.judge import judge
from pipeline.gate.limits import Limits
from pipeline.gate.settings import GateSettings
from pipeline.imaging.noise import MAX_NOISE, add_noise, noise_level, ring_of
from pipeline.records import Edit, Sample


def scene(noise: float = 3.0, size: int = 96) -> np.ndarray:
    rng = np.random.default_rng(0)
    background = np.full((size, size, 3), 120.0) + rng.normal(0, noise, (size, size, 3))
    cv2.circle(background, (48, 48), 12, (200, 60, 60), -1)
    return np.clip(background, 0, 255).astype(np.uint8)


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
    assert judge(removal(image, clean(), disc(14)), image).accepted


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
    yield "too_noisy", removal(image, clean(noise=10), disc(14))
    yield "altered_control", removal(image, clean(), disc(14), kind="control_noop")


@pytest.mark.parametrize(("reason", "sample"), list(broken_samples()), ids=lambda v: str(v)[:20])
def test_each_check_has_its_reason(reason, sample):
    verdict = judge(sample, scene())
    assert verdict.reason == reason, verdict


def test_a_faint_change_is_rejected():
    image = scene(noise=0)
    paler = np.clip(image.astype(int) + 9, 0, 255)
    assert judge(removal(image, paler, disc(12)), image).reason == "faint"


def test_exchanging_two_of_a_kind_is_rejected():
    """Two discs that differ only in texture, and two that differ in colour."""
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
        verdict = judge(Sample(edit, edited, around, left | right), image)
        reasons[name] = verdict.reason
    assert reasons == {"alike": "look_alike", "unlike": ""}


def test_the_same_edit_twice_is_a_duplicate():
    image = scene()
    sample = removal(image, clean(), disc(14))
    assert judge(sample, image, accepted=[sample]).reason == "duplicate"
    elsewhere = removal(image, clean(), disc(14, at=(20, 20)))
    assert judge(sample, image, accepted=[elsewhere]).accepted


def test_a_control_that_changed_nothing_passes():
    image = scene()
    assert judge(removal(image, image, disc(14), kind="control_noop"), image).accepted


def test_thresholds_are_settings():
    image = scene()
    strict = GateSettings(min_delta_e=90)
    assert judge(removal(image, clean(), disc(14)), image, strict).reason == "faint"


def test_delta_e_agrees_with_scikit_image():
    color = pytest.importorskip("skimage.color")
    image = scene()
    sample = removal(image, clean(), disc(14))
    labs = [color.rgb2lab(p)[disc(14)] for p in (sample.pixels_HW3, image)]
    expected = color.deltaE_cie76(*labs).mean()
    assert gate_scores.measure(sample, image)["delta_e"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("sigma", [1.0, 3.0, 5.0])
def test_noise_is_raised_to_the_level_of_the_ring(sigma):
    image = scene(noise=sigma)
    hole = disc(16)
    filled = np.where(hole[..., None], 120.0, image).astype(np.float32)
    noisy = add_noise(filled, image, hole, np.random.default_rng(2))
    around, inside = noise_level(image, ring_of(hole)), noise_level(noisy, hole)
    np.testing.assert_allclose(inside, around, rtol=0.25)
    assert np.array_equal(noisy[~hole], filled[~hole])


def test_the_noise_of_a_shrunk_object_is_measured_on_the_object():
    """And not on the noiseless background that shows where it was."""
    rng = np.random.default_rng(0)
    image, after = np.full((96, 96, 3), 255.0), np.full((96, 96, 3), 255.0)
    for pixels, radius in ((image, 24), (after, 12)):
        pixels[disc(radius)] = 120 + rng.normal(0, 4, (np.count_nonzero(disc(radius)), 3))
    edit = Edit("wrong_size", (0,), {"scale": 0.5, "along": None}, 0)
    sample = Sample(edit, after.clip(0, 255).astype(np.uint8), disc(26), disc(24))
    scores = gate_scores.measure(sample, image.clip(0, 255).astype(np.uint8))
    assert 0.8 < scores["noise_ratio"] < 1.5


def test_texture_is_not_mistaken_for_noise():
    board = (np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[..., None], 3, 2)
    hole = disc(16)
    filled = np.where(hole[..., None], 120.0, image).astype(np.float32)
    noisy = add_noise(filled, image, hole, np.random.default_rng(2))
    assert noise_level(noisy, hole).max() < 1.5 * MAX_NOISE


# --- scores against independent definitions -------------------------------------------------------


@given(
    top=st.integers(0, 60), left=st.integers(0, 60),
    height=st.integers(1, 30), width=st.integers(1, 30), kind=st.sampled_from(["missing", "extra"]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_scores_do_not_depend_on_how_much_image_lies_around(top, left, height, width, kind):
    """The same edit inside a larger image: ratios and colours stay, shares of the image shrink."""
    rng = np.random.default_rng(0)
    large = rng.integers(60, 200, (240, 240, 3), np.uint8)
    change = np.zeros((240, 240), np.bool_)
    change[80 + top : 80 + top + height, 80 + left : 80 + left + width] = True
    edited = np.where(change[..., None], 255 - large, large)
    edit = Edit(kind, (0,), {"foreground_share": 0.1, "offset": [0, 0]}, 0)
    whole = gate_scores.measure(Sample(edit, edited, change, change), large)
    cut = (slice(40, 230), slice(40, 230))
    part = gate_scores.measure(Sample(edit, edited[cut], change[cut], change[cut]), large[cut])
    shares = {"change_area", "painted", "border"}
    for name in set(whole) - shares:
        assert part[name] == pytest.approx(whole[name], abs=1e-5), name
    assert part["change_area"] == pytest.approx(whole["change_area"] * 240**2 / 190**2)
    moved = np.abs(edited.astype(int) - large).max(2) > 8
    assert whole["changed_fraction"] == pytest.approx(moved[change].mean())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_border_and_overlap_match_their_definitions(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 20, 30)) < 0.3
    frame = np.ones((20, 30), np.bool_)
    frame[1:-1, 1:-1] = False
    assert gate_scores.border_share(first) == pytest.approx(first[frame].mean())
    pixels = np.zeros((20, 30, 3), np.uint8)
    samples = [Sample(Edit("missing", (0,), {}, 0), pixels, mask, mask) for mask in (first, second)]
    union = (first | second).sum()
    expected = (first & second).sum() / union if union else 0
    assert gate_scores.duplicate_iou(samples[0], samples[1:]) == pytest.approx(expected)


def test_the_inpainted_region_is_where_a_hole_stays_open():
    """An object moved by half its width leaves half a hole; a pasted one leaves none."""
    part = np.zeros((96, 96), np.bool_)
    part[40:60, 20:40] = True
    change = part | np.roll(part, 10, 1)
    for kind, expected in {"misplaced": 200, "missing": 600, "extra": 0}.items():
        edit = Edit(kind, (0,), {"offset": [10, 0], "dilation": 0}, 0)
        assert gate_scores.inpainted_region(edit, change, part).sum() == expected


def test_the_inpainted_region_around_an_object_that_was_scaled_rotated_or_replaced():
    """A box of 30 x 20: at half its size three quarters stay open, rotated upright both ends."""
    part = np.zeros((96, 96), np.bool_)
    part[40:60, 20:50] = True
    where = np.ones_like(part)
    cases = [
        ("wrong_size", {"scale": 0.5, "along": None}, 600 - 150),
        ("wrong_size", {"scale": 1.5, "along": None}, 0),
        ("wrong_orientation", {"turn": 90, "mirror": False}, 600 - 400),
        ("wrong_orientation", {"turn": 180, "mirror": False}, 0),
        ("wrong_type", {"donor": {"box_4": (70, 0, 80, 10), "area": 100}}, 600 - 100),
        ("wrong_type", {"part": 1, "box": [70, 0, 80, 10], "area": 78}, 600 - 25 * np.pi),
        ("wrong_type", {"prompt": "a coin"}, 0),
        # Older records do not contain its size.
        ("wrong_type", {"part": 1}, 0),
    ]
    for kind, parameters, expected in cases:
        edit = Edit(kind, (0,), parameters | {"dilation": 0, "offset": [0, 0]}, 0)
        found = gate_scores.inpainted_region(edit, where, part).sum()
        assert found == pytest.approx(expected, abs=16), (kind, parameters)


# --- where limits come from -----------------------------------------------------------------------


def test_a_limit_of_the_manifest_beats_a_calibrated_one_and_that_the_default():
    learned = Limits(max_noise_ratio=1.7)
    assert limit_of("max_noise_ratio", GateSettings(), Limits()) == (2.5, "default")
    assert limit_of("max_noise_ratio", GateSettings(), learned) == (1.7, "calibrated")
    own = GateSettings(max_noise_ratio=9)
    assert limit_of("max_noise_ratio", own, learned) == (9.0, "manifest")
    assert limit_of("max_patch_distance", GateSettings(), Limits()) == (None, "default")
    assert limit_of("min_delta_e", GateSettings(), learned) == (4.0, "default")


def test_every_check_has_a_limit_and_every_calibrated_limit_a_check():
    for check in CHECKS:
        limit_of(check.limit, GateSettings(), Limits())
    silent = {f for f, info in GateSettings.model_fields.items() if info.default is None}
    # A switch, no limit.
    calibrated = silent - {"patches"}
    assert calibrated == set(FALLBACK_LIMITS)
    assert calibrated <= set(Limits().to_json())
    assert calibrated <= {check.limit for check in CHECKS}


def test_saturated_pixels_are_rejected():
    image = scene()
    white = np.full_like(image, 255)
    # Every second line, so that noise stays.
    white[::2] = clean()[::2].astype(np.uint8)
    loose = GateSettings(max_seam_ratio=100, max_noise_ratio=100, min_noise_ratio=0)
    verdict = judge(removal(image, white, disc(14)), image, loose)
    assert verdict.reason == "saturated"
    assert judge(
        removal(image, white, disc(14)), image, loose.model_copy(update={"max_clipped": 1.0})
    ).accepted


@pytest.mark.parametrize(("backdrop", "clipped"), [(255, 0.0), (200, 1.0)])
def test_white_where_a_product_was_is_no_fault_on_a_white_backdrop(backdrop, clipped):
    image = np.full((96, 96, 3), backdrop, np.uint8)
    image[disc(12)] = (90, 60, 50)
    white = np.full_like(image, 255)
    assert gate_scores.measure(removal(image, white, disc(14)), image)["clipped"] == clipped


def test_two_edits_in_one_sample_are_judged_separately():
    image = clean().astype(np.uint8)
    image[disc(10, at=(24, 24))] = (200, 60, 60)
    image[disc(10, at=(72, 72))] = (60, 60, 200)
    holes = [disc(12, at=(24, 24)), disc(12, at=(72, 72))]
    boxes = [[8, 8, 44, 44], [56, 56, 92, 92]]
    parts = [
        Edit("missing", (n,), {"foreground_share": 0.1, "region": box}, 0).to_json()
        for n, box in enumerate(boxes)
    ]
    edit = Edit("combined", (0, 1), {"edits": parts, "foreground_share": 0.2}, 0)
    fill = np.clip(120 + np.random.default_rng(5).normal(0, 3, image.shape), 0, 255)
    both = np.where((holes[0] | holes[1])[..., None], fill, image).astype(np.uint8)
    verdict = judge(Sample(edit, both, holes[0] | holes[1], holes[0] | holes[1]), image)
    assert verdict.accepted
    assert {"delta_e", "delta_e_2"} <= set(verdict.scores)
    half = np.where(holes[0][..., None], fill, image).astype(np.uint8)
    verdict = judge(Sample(edit, half, holes[0] | holes[1], holes[0] | holes[1]), image)
    assert verdict.reason == "unchanged"
    assert verdict.scores["changed_fraction"] > 0.3 > verdict.scores["changed_fraction_2"]


def test_two_edits_together_must_leave_enough_of_image_and_product():
    """Each edit alone is small enough; their total is judged as well."""
    image = clean().astype(np.uint8)
    holes = np.zeros((2, 96, 96), np.bool_)
    # 26 % of the image each.
    holes[0, 20:80, 4:44] = holes[1, 20:80, 52:92] = True
    image[holes[0]], image[holes[1]] = (200, 60, 60), (60, 60, 200)
    fill = np.clip(120 + np.random.default_rng(5).normal(0, 3, image.shape), 0, 255)
    both = np.where(holes.any(0)[..., None], fill, image).astype(np.uint8)
    boxes = [[2, 18, 46, 82], [50, 18, 94, 82]]
    for share, area, reason in (
        (0.3, 0.6, "whole_object"),
        (0.2, 0.4, "too_large"),
        (0.2, 0.6, ""),
    ):
        parts = [
            Edit("missing", (n,), {"foreground_share": share, "region": box}, 0).to_json()
            for n, box in enumerate(boxes)
        ]
        edit = Edit("combined", (0, 1), {"edits": parts, "foreground_share": 2 * share}, 0)
        sample = Sample(edit, both, holes.any(0), holes.any(0))
        verdict = judge(sample, image, GateSettings(max_change_area=area))
        assert verdict.reason == reason


def test_pages_read_the_checks_without_loading_a_network():
    program = "import sys, pipeline.gate.checks; print(*{'torch', 'scipy', 'cv2'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []

"""Is this sample good enough? Measured without any real defect, every refusal with its reason.

A good edit changes something that one sees, leaves no seam and no foreign grain, and does not
swallow the product (the failure that the source method reports for capsule and pill). A control
must leave the object as it was. Thresholds are in `GateSettings`.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.grain import grain_level, ring_of
from pipeline.records import Sample, Verdict
from pipeline.settings import GateSettings

BAND = 2
"""Width in pixels of the two bands, on the outline of the change mask and just outside it."""
MIN_GRAIN = 0.35
"""Grain in grey levels below which a surface counts as noiseless and the ratio says nothing."""

SWAP = "swapped"
MAX_CONTROL_CHANGED = 0.4
"""Share of a control's change mask that may differ visibly: its rim, which was filled anew."""


def judge(
    sample: Sample,
    image_HW3: np.ndarray,
    settings: GateSettings | None = None,
    accepted: Sequence[Sample] = (),
) -> Verdict:
    """Accepted, or the first reason against it; `accepted` are earlier samples of the image."""
    settings = settings or GateSettings()
    scores = measure(sample, image_HW3, settings.change_threshold)
    scores["duplicate_iou"] = max(
        (_iou(sample, other) for other in accepted if other.edit.kind == sample.edit.kind),
        default=0.0,
    )
    scores = {name: round(float(value), 5) for name, value in scores.items()}
    rules = _control_rules if sample.edit.is_control else _anomaly_rules
    for reason, broken in rules(scores, settings):
        if broken:
            return Verdict(False, reason, scores)
    return Verdict(True, "", scores)


def measure(sample: Sample, image_HW3: np.ndarray, threshold: int = 8) -> dict[str, float]:
    """Every quantity the rules look at; shares in [0, 1], ratios where 1 means no difference."""
    change_HW = sample.change_HW
    difference_HW = np.abs(sample.pixels_HW3.astype(np.int16) - image_HW3).max(2)
    moved_HW = (difference_HW > threshold) & change_HW
    frame_HW = np.ones_like(change_HW)
    frame_HW[1:-1, 1:-1] = False
    return {
        "change_area": change_HW.mean(),
        "changed_fraction": moved_HW.sum() / max(1, change_HW.sum()),
        "delta_e": _delta_e(sample.pixels_HW3, image_HW3, change_HW),
        "border": (change_HW & frame_HW).sum() / frame_HW.sum(),
        "foreground_share": sample.edit.parameters.get("foreground_share", 0.0),
        "seam_ratio": _seam_ratio(sample, image_HW3),
        "noise_ratio": _noise_ratio(sample),
        **({"swap_delta_e": _swap_delta_e(sample, image_HW3)} if sample.edit.kind == SWAP else {}),
    }


def _anomaly_rules(scores: dict[str, float], settings: GateSettings) -> list[tuple[str, bool]]:
    return [
        ("empty", scores["change_area"] == 0),
        ("too_large", scores["change_area"] > settings.max_change_area),
        ("whole_object", scores["foreground_share"] > settings.max_foreground_share),
        ("touches_border", scores["border"] > settings.max_border),
        ("unchanged", scores["changed_fraction"] < settings.min_changed_fraction),
        ("faint", scores["delta_e"] < settings.min_delta_e),
        ("look_alike", scores.get("swap_delta_e", 100) < settings.min_swap_delta_e),
        ("seam", scores["seam_ratio"] > settings.max_seam_ratio),
        ("too_smooth", scores["noise_ratio"] < settings.min_noise_ratio),
        ("too_noisy", scores["noise_ratio"] > settings.max_noise_ratio),
        ("duplicate", scores["duplicate_iou"] > settings.max_duplicate_iou),
    ]


def _control_rules(scores: dict[str, float], settings: GateSettings) -> list[tuple[str, bool]]:
    return [
        ("empty", scores["change_area"] == 0),
        ("altered_control", scores["changed_fraction"] > MAX_CONTROL_CHANGED),
        ("visible_control", scores["delta_e"] > settings.max_control_delta_e),
        ("seam", scores["seam_ratio"] > settings.max_seam_ratio),
        ("duplicate", scores["duplicate_iou"] > settings.max_duplicate_iou),
    ]


def _delta_e(edited_HW3: np.ndarray, image_HW3: np.ndarray, where_HW: np.ndarray) -> float:
    """Mean CIE76 distance over a region; 2.3 is just noticeable."""
    if not where_HW.any():
        return 0.0
    lab = [
        cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[where_HW]
        for picture in (edited_HW3, image_HW3)
    ]
    return float(np.linalg.norm(lab[0] - lab[1], axis=1).mean())


def _swap_delta_e(sample: Sample, image_HW3: np.ndarray) -> float:
    """Colour distance on the exchanged objects after a blur of half their size.

    Two walnuts exchanged differ in every pixel and in nothing that anybody would call wrong.
    """
    if not sample.object_HW.any():
        return 0.0
    sigma = max(1.0, 0.5 * (float(sample.object_HW.sum()) / 2 / np.pi) ** 0.5)
    blurred = [
        cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma)
        for picture in (sample.pixels_HW3, image_HW3)
    ]
    return _delta_e(blurred[0], blurred[1], sample.object_HW)


def _seam_ratio(sample: Sample, image_HW3: np.ndarray) -> float:
    """Gradient that the edit put on the outline of its mask, against the ground just outside."""
    change_HW = sample.change_HW.astype(np.uint8)
    kernel = np.ones((2 * BAND + 1, 2 * BAND + 1), np.uint8)
    outline_HW = (cv2.dilate(change_HW, np.ones((3, 3), np.uint8)) > 0) & (
        cv2.erode(change_HW, np.ones((3, 3), np.uint8)) == 0
    )
    outside_HW = (cv2.dilate(change_HW, kernel, iterations=2) > 0) & ~sample.change_HW & ~outline_HW
    if not outline_HW.any() or not outside_HW.any():
        return 1.0
    edited_HW = _gradient(sample.pixels_HW3)
    before_HW = _gradient(image_HW3)
    added = np.maximum(edited_HW - before_HW, 0)[outline_HW].mean()
    return float(1 + added / (before_HW[outside_HW].mean() + 2.0))


def _noise_ratio(sample: Sample) -> float:
    """Grain where ground was filled in, against grain of the ring around it; 1 for pastes."""
    if sample.edit.kind != "missing":
        return 1.0
    around = float(grain_level(sample.pixels_HW3, ring_of(sample.change_HW)).mean())
    inside = float(grain_level(sample.pixels_HW3, sample.change_HW).mean())
    if around < MIN_GRAIN:
        return 1.0
    return inside / around


def _gradient(image_HW3: np.ndarray) -> np.ndarray:
    grey_HW = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY).astype(np.float32)
    dx = cv2.Sobel(grey_HW, cv2.CV_32F, 1, 0) / 8
    dy = cv2.Sobel(grey_HW, cv2.CV_32F, 0, 1) / 8
    return np.hypot(dx, dy)


def _iou(first: Sample, second: Sample) -> float:
    union = (first.change_HW | second.change_HW).sum()
    return float((first.change_HW & second.change_HW).sum() / max(1, union))

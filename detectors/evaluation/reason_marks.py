"""Reasons drawn into an image or a heatmap: boxes around what is wrong, dashed where it is missing.

Shapes: H, W image; 3 colour (RGB). Reasons are in pixels of a square input of side `size`.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from detectors.base import Box, Reason

# Pink for what is wrong, as in reports; a dark plate behind words.
WRONG, PLATE = (255, 46, 136), (28, 28, 32)
# The longer side at which lines are 2 px wide and words have OpenCV's font scale 0.5; smaller
# images have thinner lines, and words of 0.35 at least, which can still be read.
STATED, FONT, LEAST_FONT = 640, 0.5, 0.35
_FACE = cv2.FONT_HERSHEY_SIMPLEX


def marked(image_HW3: np.ndarray, size: int, reasons: Sequence[Reason]) -> np.ndarray:
    """A copy with the boxes of all reasons, each with the name of its rule; uint8 RGB."""
    drawn_HW3 = np.ascontiguousarray(image_HW3.copy())
    names: dict[Box, list[str]] = {}
    for reason in reasons:
        for box in (*reason.boxes, *reason.missing):
            names.setdefault(scaled(box, size, drawn_HW3), []).append(reason.rule)
        for box in reason.boxes:
            x0, y0, x1, y1 = scaled(box, size, drawn_HW3)
            cv2.rectangle(drawn_HW3, (x0, y0), (x1 - 1, y1 - 1), WRONG, _thick(drawn_HW3))
        for box in reason.missing:
            dashed(drawn_HW3, scaled(box, size, drawn_HW3))
    # Names last, so that no line crosses them; the first reason of a box is the most surprising.
    for (x0, _, x1, y1), rules in names.items():
        more = f" +{len(rules) - 1}" if len(rules) > 1 else ""
        plate(drawn_HW3, rules[0] + more, (x0 + x1) // 2, y1, WRONG)
    return drawn_HW3


def scaled(box: Box, size: int, image_HW3: np.ndarray) -> Box:
    """A box of the detector's input in pixels of an image."""
    height, width = image_HW3.shape[:2]
    x0, y0, x1, y1 = box
    across, down = width / size, height / size
    return round(x0 * across), round(y0 * down), round(x1 * across), round(y1 * down)


def plate(image_HW3: np.ndarray, text: str, x: int, y: int, colour: tuple[int, ...]) -> None:
    """The text around (x, y) on a dark plate, inside the image."""
    scale, thick = _font(image_HW3), max(1, _thick(image_HW3) // 2)
    (w, h), _ = cv2.getTextSize(text, _FACE, scale, thick)
    left = max(2, min(x - w // 2, image_HW3.shape[1] - w - 2))
    low = max(h + 4, min(y + h // 2, image_HW3.shape[0] - 4))
    cv2.rectangle(image_HW3, (left - 3, low - h - 3), (left + w + 3, low + 4), PLATE, cv2.FILLED)
    cv2.putText(image_HW3, text, (left, low), _FACE, scale, colour, thick, cv2.LINE_AA)


def dashed(image_HW3: np.ndarray, box: Box) -> None:
    """A dashed box."""
    x0, y0, x1, y1 = box
    thick = _thick(image_HW3)
    dash = 3 * thick
    for start in range(x0, x1, 2 * dash):
        for y in (y0, y1):
            cv2.line(image_HW3, (start, y), (min(start + dash, x1), y), WRONG, thick)
    for start in range(y0, y1, 2 * dash):
        for x in (x0, x1):
            cv2.line(image_HW3, (x, start), (x, min(start + dash, y1)), WRONG, thick)


def _thick(image_HW3: np.ndarray) -> int:
    return max(1, round(2 * max(image_HW3.shape[:2]) / STATED))


def _font(image_HW3: np.ndarray) -> float:
    return max(LEAST_FONT, FONT * max(image_HW3.shape[:2]) / STATED)

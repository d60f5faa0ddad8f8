"""Where the findings of an image are: boxes for people, a map for pixel metrics.

Shapes: H, W image.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from detectors.base import Box
from pipeline.rulebook.findings import Finding
from pipeline.rulebook.parts import Parts, ProductFrame

# Radius of a place where a part is missing, in units of the frame.
PLACE = 0.05


def painted(
    parts: Parts, findings: Sequence[tuple[float, Finding]], frame: ProductFrame
) -> np.ndarray:
    """The highest score of what each pixel shows, (H, W) float32; 0 outside of all parts.

    A missing part is shown at its place where that is known, else on all parts of its kind, and on
    the whole image where there is none. `frame` is that of the positions.
    """
    map_HW = np.zeros(parts.masks_NHW.shape[1:], np.float32)
    for score, finding in findings:
        shown_HW = np.zeros(map_HW.shape, np.uint8)
        for x, y in frame.outward(np.array(finding.places).reshape(-1, 2)):
            radius = max(1, round(PLACE * frame.size))
            cv2.circle(shown_HW, (round(x), round(y)), radius, 1, cv2.FILLED)
        shown_HW |= parts.masks_NHW[list(finding.parts)].any(0)
        # Every part of the kind is missing, and nobody knows where it should be.
        if not shown_HW.any() and finding.broken:
            shown_HW[:] = 1
        np.maximum(map_HW, score * shown_HW, out=map_HW)
    return map_HW


def empty_places(finding: Finding, frame: ProductFrame) -> Iterator[Box]:
    """Boxes around the places where a part is missing, in pixels."""
    radius = PLACE * frame.size
    for x, y in frame.outward(np.array(finding.places).reshape(-1, 2)).tolist():
        yield (round(x - radius), round(y - radius), round(x + radius), round(y + radius))

"""A normal image as the part finder saw it, kept small, so that an edited book is checked at once.

Finding parts takes a second per image; evaluating rules on them takes milliseconds. So what was
found is kept without its masks: descriptors for the rules, outlines for pictures.

Shapes: H, W image; K points of an outline.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.rulebook.book import Place, RuleBook
from pipeline.rulebook.check import frame_in, recognised
from pipeline.rulebook.descriptors import PartDescriptor
from pipeline.rulebook.findings import Finding, RecognisedPart, findings_of
from pipeline.rulebook.parts import Parts, ProductFrame

# Colours of outlines: what a rule is about, other parts, where rules admit parts.
_WRONG, _OTHER, _PLACE, _RIM = (255, 46, 136), (94, 234, 212), (255, 220, 60), (20, 20, 28)
# Longer side of a picture in pixels, from which an image is not enlarged.
_LEAST_SIDE = 720


@dataclass(frozen=True, slots=True, eq=False)
class SeenImage:
    """The parts of one image of `size_HW` pixels; `outlines` are (K, 2) int32 x, y per part."""

    name: str
    size_HW: tuple[int, int]
    frame: ProductFrame
    descriptors: tuple[PartDescriptor, ...]
    outlines: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, name: str, parts: Parts) -> "SeenImage":
        outlines = []
        for mask_HW in parts.masks_NHW:
            found, _ = cv2.findContours(
                mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
            )
            outlines.append(np.concatenate(found)[:, 0] if found else np.zeros((0, 2), np.int32))
        height, width = parts.masks_NHW.shape[1:]
        return cls(name, (height, width), parts.frame, parts.descriptors, tuple(outlines))

    def recognised(self, book: RuleBook) -> list[RecognisedPart]:
        """The parts, recognised by the examples of a book."""
        return recognised(book, self.descriptors, self.frame_in(book))

    def frame_in(self, book: RuleBook) -> ProductFrame:
        """The frame in which the book gives positions."""
        return frame_in(book, self.frame, self.size_HW)

    def broken(self, book: RuleBook) -> list[Finding]:
        """The rules that the image breaks, in the order of the book."""
        return [finding for finding in findings_of(book, self.recognised(book)) if finding.broken]


def draw_finding(
    image_HW3: np.ndarray, seen: SeenImage, book: RuleBook, finding: Finding
) -> np.ndarray:
    """The image with outlines of the parts that a rule is about, and circles where one is missing.

    Small images are enlarged, so that lines are thin; (H, W, 3) uint8.
    """
    canvas = _Canvas(image_HW3)
    for number, outline in enumerate(seen.outlines):
        if number not in finding.parts:
            canvas.line(outline, _OTHER)
    for number in finding.parts:
        canvas.line(seen.outlines[number], _WRONG)
    for point in seen.frame_in(book).outward(np.array(finding.places).reshape(-1, 2)):
        canvas.circle(point, 0.04 * seen.frame.size, _WRONG)
    return canvas.image_HW3


def draw_places(
    image_HW3: np.ndarray, where: SeenImage, book: RuleBook, name: str, all_: Sequence[SeenImage]
) -> np.ndarray:
    """The image with the place of a part, and a dot at each of them in all images."""
    canvas = _Canvas(image_HW3)
    frame, place = where.frame_in(book), book.book.parts[name].place
    at = [part.at for seen in all_ for part in seen.recognised(book) if part.name == name]
    for point in frame.outward(np.array(at).reshape(-1, 2)):
        canvas.dot(point, _OTHER)
    if isinstance(place, Place) and place.box is not None:
        x0, y0, x1, y1 = place.box
        canvas.line(frame.outward(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])), _PLACE)
    elif isinstance(place, Place):
        for point in frame.outward(np.array(place.slots)):
            canvas.circle(point, place.radius * frame.size, _PLACE)
    return canvas.image_HW3


class _Canvas:
    """An enlarged copy of an image; everything is given in pixels of the original."""

    def __init__(self, image_HW3: np.ndarray) -> None:
        self._scale = max(1, round(_LEAST_SIDE / max(image_HW3.shape[:2])))
        self.image_HW3 = cv2.resize(
            image_HW3, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_CUBIC
        )

    def line(self, points_K2: np.ndarray, colour: tuple[int, ...]) -> None:
        """A closed line with a dark rim."""
        if len(points_K2):
            points = [(self._scale * (points_K2 + 0.5)).round().astype(np.int32)]
            cv2.polylines(self.image_HW3, points, True, _RIM, 4, cv2.LINE_AA)
            cv2.polylines(self.image_HW3, points, True, colour, 2, cv2.LINE_AA)

    def circle(self, point_2: np.ndarray, radius: float, colour: tuple[int, ...]) -> None:
        at, pixels = self._at(point_2), max(4, round(self._scale * radius))
        cv2.circle(self.image_HW3, at, pixels, _RIM, 4, cv2.LINE_AA)
        cv2.circle(self.image_HW3, at, pixels, colour, 2, cv2.LINE_AA)

    def dot(self, point_2: np.ndarray, colour: tuple[int, ...]) -> None:
        cv2.circle(self.image_HW3, self._at(point_2), 5, _RIM, -1, cv2.LINE_AA)
        cv2.circle(self.image_HW3, self._at(point_2), 3, colour, -1, cv2.LINE_AA)

    def _at(self, point_2: np.ndarray) -> tuple[int, int]:
        x, y = (self._scale * (point_2 + 0.5)).round().astype(int).tolist()
        return x, y

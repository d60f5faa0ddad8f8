"""Check which rules an image breaks, on the parts recognised in it.

Rules are evaluated on a list of `RecognisedPart`. The same code therefore checks what was found in
an image and what an edit says should be found there.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.rulebook.book import RuleBook
from pipeline.rulebook.descriptors import PartDescriptor
from pipeline.rulebook.findings import RecognisedPart, findings_of
from pipeline.rulebook.parts import Parts, ProductFrame
from pipeline.rulebook.recognition import recognise

# The name of parts that have examples but no entry in the book.
UNUSED = ""


def recognised_in(book: RuleBook, parts: Parts) -> list[RecognisedPart]:
    """The parts of an image, recognised by the examples of a book."""
    return recognised(
        book, parts.descriptors, frame_in(book, parts.frame, parts.masks_NHW.shape[1:])
    )


def recognised(
    book: RuleBook, descriptors: Sequence[PartDescriptor], frame: ProductFrame
) -> list[RecognisedPart]:
    """The same from the descriptors alone; `frame` is that of the book's positions."""
    named = {kind: name for name, part in book.book.parts.items() for kind in part.kinds}
    found = []
    for kind, descriptor in zip(recognise(book.examples, descriptors), descriptors, strict=True):
        x, y = frame.inward(np.array([descriptor.centre]))[0]
        name = None if kind.group < 0 else named.get(kind.group, UNUSED)
        chances: dict[str | None, float] = {None: max(0.0, 1 - float(kind.chances_K.sum()))}
        for group, chance in enumerate(kind.chances_K.tolist()):
            other = named.get(group, UNUSED)
            chances[other] = chances.get(other, 0.0) + chance
        found.append(
            RecognisedPart(
                name, kind.group, kind.view, (float(x), float(y)), descriptor, kind.likeness,
                chances,
            )
        )  # fmt: skip
    return found


def frame_in(book: RuleBook, product: ProductFrame, size_HW: Sequence[int]) -> ProductFrame:
    """The frame in which a book gives positions: the product's, or that of the image."""
    if book.book.frame == "product":
        return product
    # Positions count from the image's centre, for products that fill the image.
    height, width = size_HW
    return ProductFrame(width / 2, height / 2, 0.0, float(np.sqrt(height * width)))


def broken_rules(book: RuleBook, seen: Sequence[RecognisedPart]) -> dict[str, str]:
    """Every broken rule and a text that says what is wrong, in the order of the book."""
    return {finding.rule: str(finding) for finding in findings_of(book, seen) if finding.broken}

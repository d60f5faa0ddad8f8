"""Holes in photographs: at the places of objects, and cut into plain background.

A hole at an object has no known truth; its fill is compared with other normal images. A hole cut
into the background has one: the photograph itself.

Shapes: H, W image; 3 colour (RGB, uint8).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.real_parts.scenes import ARRANGEMENTS, compose
from pipeline.edits.context import ImageContext
from pipeline.imaging.decode import file_digest, load_image
from pipeline.imaging.masks import MaskCrop, dilated
from pipeline.models.build import Models
from pipeline.records import ObjectProposals

# Pixels at 256 by which a removal dilates its object, as `edits.dilation`.
DILATION = 4
# Pixels at 256 that a cut hole keeps from foreground and objects.
CLEAR = 8
# Longest side of a cut hole, as a share of the image, and places that are tried for it.
LONGEST, PLACES = 0.3, 200


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One photograph as the pipeline sees it; `digest` is the SHA-256 of its file."""

    digest: str
    image_HW3: np.ndarray
    proposals: ObjectProposals


@dataclass(frozen=True, slots=True, eq=False)
class Hole:
    """A hole, and what must not be copied into it. `known` says that the image is the truth."""

    scene: Scene
    hole_HW: np.ndarray
    avoid_HW: np.ndarray
    known: bool


def scenes(
    photographs: Path, category: str, models: Models, size: int, count: int
) -> Iterator[Scene]:
    """The first `count` training images of a category with their foreground and objects.

    Or scenes composed of the photographs' parts: `free-cloth` names arrangement and background.
    """
    arrangement, _, background = category.partition("-")
    if arrangement in ARRANGEMENTS:
        for seed in range(count):
            image_HW3 = compose(arrangement, seed, photographs, size, background or None).image_HW3
            digest = hashlib.sha256(image_HW3.tobytes()).hexdigest()
            yield Scene(digest, image_HW3, _proposals(image_HW3, models))
    else:
        for file in sorted((photographs / category / "train" / "good").iterdir())[:count]:
            image_HW3 = load_image(file, (size, size))
            yield Scene(file_digest(file), image_HW3, _proposals(image_HW3, models))


def _proposals(image_HW3: np.ndarray, models: Models) -> ObjectProposals:
    found: ObjectProposals = models.proposals(image_HW3, models.foreground(image_HW3))
    return found


def at_objects(scene: Scene, most: int) -> Iterator[Hole]:
    """Holes as removals make them, at the `most` best objects."""
    context = ImageContext(scene.image_HW3, scene.proposals)
    for mask_HW in scene.proposals.masks_NHW[:most]:
        hole_HW = dilated(mask_HW, round(DILATION * mask_HW.shape[0] / 256))
        yield Hole(scene, hole_HW, context.not_background(hole_HW), known=False)


def in_background(scene: Scene, shapes: Sequence[np.ndarray], number: int) -> Iterator[Hole]:
    """One hole with the outline of some object at a random free place; none where none is free."""
    context = ImageContext(scene.image_HW3, scene.proposals)
    taken_HW = scene.proposals.foreground_HW | context.objects_HW()
    height, width = taken_HW.shape
    taken_HW = dilated(taken_HW, round(CLEAR * height / 256))
    rng = np.random.default_rng(number)
    for _ in range(PLACES):
        shape_hw = shapes[int(rng.integers(len(shapes)))]
        rows, columns = shape_hw.shape
        if max(rows, columns) > LONGEST * height:
            continue
        at = int(rng.integers(0, width - columns)), int(rng.integers(0, height - rows))
        hole_HW = MaskCrop(shape_hw, *at).full((height, width))
        if not (hole_HW & taken_HW).any():
            yield Hole(scene, hole_HW, context.not_background(hole_HW), known=True)
            return


def drawn_shapes(size: int) -> list[np.ndarray]:
    """Discs, bars and rings from a twentieth to a fifth of the image, (h, w) bool."""
    shapes = []
    for share in (0.06, 0.1, 0.14, 0.2):
        side = round(share * size)
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        radius = np.hypot(y, x)
        shapes += [
            radius <= side / 2,
            (radius <= side / 2) & (radius >= side / 4),
            np.ones((side, max(4, side // 3)), np.bool_),
        ]
    return shapes

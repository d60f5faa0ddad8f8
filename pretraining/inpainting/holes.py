"""Training examples for the small LaMa: an image, a hole, and the true content of the hole.

Two sorts. *Removal pairs* come from rendered scenes that exist with and without one object: the
hole is the dilated object, the truth is the scene without it. *Self-supervised* examples cut a hole
of an object's shape, a blob, a stroke or a ring into any image; the truth is the image.
Everything is drawn from one NumPy generator, so the seed determines the whole training.
Shapes: N batch; H, W image; 3 colour (RGB, uint8).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pretraining.data import textures
from pretraining.data.examples import Example

# Rendered scenes by the names in `pretraining.data.examples.ARRAYS`, indexed by example.
Scenes = dict[str, np.ndarray]

# Shares of removal pairs, and of holes cut into scenes and photographs; surfaces get the rest.
REMOVALS, RENDERED, PHOTOGRAPHS = 0.4, 0.22, 0.28


@dataclass(frozen=True, slots=True, eq=False)
class Hole:
    """One example: uint8 images (H, W, 3) and a bool hole (H, W)."""

    image_HW3: np.ndarray
    hole_HW: np.ndarray
    truth_HW3: np.ndarray


class HoleMaker:
    """Draws examples of one size; works without rendered scenes, on photographs and surfaces."""

    def __init__(self, sets: Sequence[Scenes]) -> None:
        self.sets = sets
        # Only examples with a removed object can be a removal pair.
        self.paired = [np.flatnonzero(scenes["removed"]) for scenes in self.sets]
        full = textures.photographs()
        # Photographs at half size as well, where that leaves room for a crop: other scales of
        # texture.
        halved = [cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for p in full]
        self.photographs = full + [image for image in halved if min(image.shape[:2]) >= 192]

    def batch(self, rng: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, ...]:
        """`count` examples as float32 image, hole and truth in NCHW, values 0 to 1."""
        holes = [self.draw(rng, size) for _ in range(count)]
        image_N3HW = np.stack([h.image_HW3 for h in holes]).transpose(0, 3, 1, 2)
        truth_N3HW = np.stack([h.truth_HW3 for h in holes]).transpose(0, 3, 1, 2)
        hole_N1HW = np.stack([h.hole_HW for h in holes])[:, None]
        return (
            np.ascontiguousarray(image_N3HW, np.float32) / 255,
            hole_N1HW.astype(np.float32),
            np.ascontiguousarray(truth_N3HW, np.float32) / 255,
        )

    def draw(self, rng: np.random.Generator, size: int) -> Hole:
        """One augmented example."""
        # Without rendered scenes only photographs and surfaces are drawn.
        sort = rng.random() if self.sets else rng.uniform(REMOVALS + RENDERED, 1)
        if sort < REMOVALS:
            chosen = int(rng.integers(len(self.sets)))
            pair = removal_pair(self.sets[chosen], int(rng.choice(self.paired[chosen])), rng)
            return augment(crop_around(pair, size, rng), rng)
        if sort < REMOVALS + RENDERED:
            scenes = self.sets[int(rng.integers(len(self.sets)))]
            images = scenes["without" if rng.random() < 0.7 else "images"]
            image_HW3 = np.asarray(images[int(rng.integers(len(images)))])
            # From native resolution to the whole scene of 256 px.
            image_HW3 = crop(image_HW3, size, int(rng.integers(size, 257)), rng)
        elif sort < REMOVALS + RENDERED + PHOTOGRAPHS:
            image_HW3 = self.photographs[rng.integers(len(self.photographs))]
            # From 0.76 to 2.3 times the crop's size.
            side = int(size * 2 ** rng.uniform(-0.4, 1.2))
            image_HW3 = crop(image_HW3, size, min(side, *image_HW3.shape[:2]), rng)
        else:
            surface_HW3 = textures.texture(rng, size, size, textures.BACKGROUNDS)
            # Procedural surfaces have no sensor noise, so add some.
            surface_HW3 = surface_HW3 + rng.normal(0, rng.uniform(0, 3), surface_HW3.shape)
            image_HW3 = surface_HW3.clip(0, 255).astype(np.uint8)
        return augment(Hole(image_HW3, self.shape(rng, size), image_HW3), rng)

    def shape(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """A random hole (size, size) bool: an outline of a rendered object, or a drawn shape."""
        for _ in range(20):
            if self.sets and rng.random() < 0.5:
                hole_HW = self._object_outline(rng, size)
            else:
                hole_HW = drawn_shape(rng, size)
            # Try again for specks and for holes that leave too little context.
            if 0.004 < hole_HW.mean() < 0.35:
                return hole_HW
        # After 20 failures, a square in the middle: the number of draws stays bounded.
        hole_HW = np.zeros((size, size), bool)
        hole_HW[size // 3 : size // 2, size // 3 : size // 2] = True
        return hole_HW

    def _object_outline(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """The outline of a random object of any example, scaled, rotated, moved and dilated."""
        masks = self.sets[int(rng.integers(len(self.sets)))]["instances"]
        ids_HW = np.asarray(masks[int(rng.integers(len(masks)))])
        known = np.unique(ids_HW)[1:]
        if not len(known):
            return drawn_shape(rng, size)
        outline_HW = (ids_HW == rng.choice(known)).astype(np.uint8)
        x, y, width, height = cv2.boundingRect(outline_HW)
        centre = (x + width / 2, y + height / 2)
        longest = max(width, height)
        scale = size * rng.uniform(0.12, 0.6) / longest
        turn = cv2.getRotationMatrix2D(centre, rng.uniform(0, 360), min(scale, 2.5))
        # Move the centre of the outline to a random place.
        turn[:, 2] += rng.uniform(0.1, 0.9, 2) * size - centre
        outline_HW = cv2.warpAffine(outline_HW, turn, (size, size), flags=cv2.INTER_NEAREST)
        return dilate(outline_HW > 0, rng)


def as_set(examples: Iterable[Example]) -> Scenes:
    """Examples rendered in memory, in the form in which `open_ahead` returns stored ones."""
    made = list(examples)
    return {
        "images": np.stack([one.image_HW3 for one in made]),
        "instances": np.stack([one.instances_HW for one in made]),
        "without": np.stack([one.without_HW3 for one in made]),
        "removed": np.array([one.removed for one in made]),
    }


def removal_pair(scenes: Scenes, index: int, rng: np.random.Generator) -> Hole:
    """Example `index` with the mask of its removed object dilated, at times with its shadow."""
    image_HW3 = np.asarray(scenes["images"][index])
    truth_HW3 = np.asarray(scenes["without"][index])
    hole_HW = np.asarray(scenes["instances"][index]) == int(scenes["removed"][index])
    if rng.random() < 0.3:
        # Whatever differs visibly between both images is the object or its shadow.
        change_HW = np.abs(image_HW3.astype(np.int16) - truth_HW3).max(2) > 6
        hole_HW = hole_HW | change_HW
    return Hole(image_HW3, dilate(hole_HW, rng), truth_HW3)


def dilate(hole_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grow a hole by 3 to 9 pixels with a square or round kernel, as the removal stage does."""
    # An odd side: 2 x reach + 1.
    side = 2 * int(rng.integers(3, 10)) // 2 * 2 + 1
    shape = cv2.MORPH_RECT if rng.random() < 0.5 else cv2.MORPH_ELLIPSE
    kernel = cv2.getStructuringElement(shape, (side // 2 * 2 + 1, side // 2 * 2 + 1))
    return cv2.dilate(hole_HW.astype(np.uint8), kernel) > 0


def drawn_shape(rng: np.random.Generator, size: int) -> np.ndarray:
    """A blob, a box, a ring, or one to three thick strokes."""
    canvas_HW = np.zeros((size, size), np.uint8)
    centre = rng.uniform(0.1, 0.9, 2) * size
    radius = size * rng.uniform(0.06, 0.3)
    kind = rng.integers(4)
    # A blob: a circle with four harmonics; then a box, a ring, and strokes.
    if kind == 0:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        wobble = sum(
            rng.uniform(0, 0.35 / k) * np.cos(k * angles + rng.uniform(0, 6.3))
            for k in (1, 2, 3, 5)
        )
        ring = np.stack((np.cos(angles) * rng.uniform(0.5, 1), np.sin(angles)), 1)
        points = centre + radius * (1 + wobble)[:, None] * ring
        cv2.fillPoly(canvas_HW, [points.astype(np.int32)], 1)
    elif kind == 1:
        box = (centre.tolist(), (radius * 2, radius * rng.uniform(0.4, 2)), rng.uniform(0, 180))
        cv2.fillPoly(canvas_HW, [cv2.boxPoints(box).astype(np.int32)], 1)
    elif kind == 2:
        thick = max(3, int(radius * rng.uniform(0.2, 0.8)))
        cv2.circle(canvas_HW, centre.astype(int).tolist(), int(radius), 1, thick)
    else:
        for _ in range(rng.integers(1, 4)):
            ends = (rng.uniform(0, 1, (2, 2)) * size).astype(int).tolist()
            cv2.line(canvas_HW, ends[0], ends[1], 1, int(size * rng.uniform(0.03, 0.12)))
    return canvas_HW > 0


def crop(image_HW3: np.ndarray, size: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square window of `side` pixels, resized to `size`."""
    y, x = (int(rng.integers(0, extent - side + 1)) for extent in image_HW3.shape[:2])
    return resize(image_HW3[y : y + side, x : x + side], size)


def crop_around(example: Hole, size: int, rng: np.random.Generator) -> Hole:
    """A square window that holds the hole with room around it, resized to `size`."""
    height, width = example.hole_HW.shape
    x, y, w, h = cv2.boundingRect(example.hole_HW.astype(np.uint8))
    # 1.4 to 2.6 times the hole, but no smaller than about the crop's own resolution.
    wanted = max(max(w, h) * rng.uniform(1.4, 2.6), size * rng.uniform(0.85, 1.0))
    side = int(min(wanted, height, width))
    # Crops of about the scene's size show all of it.
    if size >= height * 0.95:
        side = min(height, width)
    left = int(np.clip(x + w / 2 - side * rng.uniform(0.35, 0.65), 0, width - side))
    top = int(np.clip(y + h / 2 - side * rng.uniform(0.35, 0.65), 0, height - side))
    window = np.s_[top : top + side, left : left + side]
    # Above 0: a pixel that is partly hole counts as hole.
    hole_HW = resize(example.hole_HW[window].astype(np.uint8) * 255, size) > 0
    return Hole(
        resize(example.image_HW3[window], size), hole_HW, resize(example.truth_HW3[window], size)
    )


def resize(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape[0] == size:
        return image
    how = cv2.INTER_AREA if image.shape[0] > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=how)


def augment(example: Hole, rng: np.random.Generator) -> Hole:
    """Flips, quarter turns, channel order, brightness: the same for image and truth."""
    parts = [example.image_HW3, example.hole_HW, example.truth_HW3]
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    parts = [np.rot90(part, turns) for part in parts]
    if flip:
        parts = [part[:, ::-1] for part in parts]
    image_HW3, hole_HW, truth_HW3 = parts
    order = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
    # A lookup table: gamma, sometimes inverted, then contrast and brightness.
    table = 255 * np.linspace(0, 1, 256) ** (2 ** rng.uniform(-0.6, 0.6))
    if rng.random() < 0.1:
        table = table[::-1]
    table = np.clip(table * rng.uniform(0.7, 1.15) + rng.uniform(-12, 25), 0, 255).astype(np.uint8)
    return Hole(table[image_HW3[..., order]], hole_HW, table[truth_HW3[..., order]])

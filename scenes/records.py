"""Records of the renderer: a finished image, and the plan (no pixels) that it is drawn from.

A plan is complete before the first pixel is drawn, so leaving out one part changes no other draw.
Plan coordinates are the product frame: the image is 1 x 1, x to the right, y down.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """The visible pixels of one part: a nut, a label, a pin."""

    part: str
    mask_HW: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One rendered image with its ground truth.

    `image_HW3` is uint8 RGB. `product_HW` is the silhouette of the whole product with its parts.
    `defect_masks` holds (grey value of the defect type, bool mask), empty for a good scene.
    """

    product: str
    seed: int
    kind: str
    defect: str
    image_HW3: np.ndarray
    instances: tuple[Instance, ...]
    product_HW: np.ndarray
    defect_masks: tuple[tuple[int, np.ndarray], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One planned part. `seed` fixes its texture, so it looks the same in every variant.

    `x`, `y` are in the product frame, `angle` in radians. `flaw` names a structural damage.
    `region` adds the part (or its flaw) to that ground-truth region. A `ghost` is absent: nothing
    is drawn, but its place is marked as the region.
    """

    name: str
    x: float
    y: float
    angle: float = 0.0
    scale: float = 1.0
    seed: int = 0
    flaw: str = ""
    region: int | None = None
    ghost: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The plan of one scene: parts from bottom to top, and what the product's base needs.

    `flaw` and `spot` are a damage of the product as a whole, such as a torn bag, and its place.
    """

    parts: tuple[Part, ...]
    seed: int
    style: Mapping[str, float] = field(default_factory=dict)
    flaw: str = ""
    spot: tuple[float, float] = (0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Pose:
    """Pose of the product: rotation (radians), scale, shift (fractions of the image)."""

    angle: float = 0.0
    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0


@dataclass(frozen=True, slots=True)
class Defect:
    """One type of defect. `area` is the fraction of the image at which sPRO saturates.

    An area of 0 means the whole region counts (relative saturation 1), as for structural damage.
    """

    kind: str
    area: float = 0.0

"""Draw one scene: make the plan, add the defect to the plan, then paint from bottom to top."""

import zlib
from types import ModuleType

import numpy as np

from scenes import bag, bottle, pins, tray
from scenes.lighting import develop, draw_light
from scenes.materials import SURFACES
from scenes.records import Defect, Instance, Pose, Scene
from scenes.stage import Stage

PRODUCTS: tuple[str, ...] = ("tray", "bottle", "pins", "bag")
_MODULES: dict[str, ModuleType] = {"tray": tray, "bottle": bottle, "pins": pins, "bag": bag}
GOOD = "good"


def defects(product: str) -> dict[str, str]:
    """Every defect of a product with its kind, `logical` or `structural`."""
    return {name: defect.kind for name, defect in defect_table(product).items()}


def defect_table(product: str) -> dict[str, Defect]:
    """Every defect of a product with its kind and the area at which sPRO saturates."""
    return dict(_module(product).DEFECTS)


def rule(product: str) -> str:
    """What a good product looks like, in words."""
    return str(_module(product).RULE)


def pixel_value(product: str, defect: str) -> int:
    """Grey value of a defect type: 255 for the first, counting down."""
    return 255 - list(_module(product).DEFECTS).index(defect)


def render(
    product: str,
    seed: int,
    defect: str = GOOD,
    size: int = 512,
    without: int | None = None,
    backdrop: str | None = None,
) -> Scene:
    """Render one scene; the same arguments give the same bytes.

    `without=k` leaves out instance k of the good scene and changes no other draw. `backdrop`
    names another surface (`materials.SURFACES`), or is "any" for one chosen by the seed.
    """
    module = _module(product)
    if defect != GOOD and defect not in module.DEFECTS:
        raise ValueError(
            f"defect of {product} must be good or one of {list(module.DEFECTS)}, got {defect!r}"
        )
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels, got {size}")

    def stream(purpose: str) -> np.random.Generator:
        # One independent generator per purpose, so that an extra draw in one shifts no other.
        return np.random.default_rng([zlib.crc32(f"{product}/{purpose}".encode()), seed])

    plan = module.layout(stream("layout"))
    if without is not None and not 0 <= without < len(plan.parts):
        raise ValueError(f"without must be 0 to {len(plan.parts) - 1}, got {without}")
    if defect != GOOD:
        # The defect changes the finished plan: everything else stays as in the good scene of this
        # seed.
        plan = module.spoil(plan, defect, stream(f"defect/{defect}"))

    light = draw_light(stream("light"))
    surface = backdrop or module.BACKDROP
    if surface == "any":
        # `studio` has a shelf line for standing bottles, so it fits no product seen from above.
        names = sorted(set(SURFACES) - {"studio"})
        surface = names[stream("surface").integers(len(names))]
    # Background, product, parts, and what covers them, in this order.
    background_HW3 = SURFACES[surface](stream("background"), size)
    stage = Stage(size, light, _pose(stream("pose"), module), background_HW3)

    module.draw_base(stage, plan)
    for index, part in enumerate(plan.parts):
        if index == without:
            continue
        # `index` becomes the owner of the visible pixels, also of those in `instances` below.
        stage.put(module.paint(stage, part), index, part.region, part.ghost)
    module.draw_over(stage, plan)

    # Lighting fall-off, noise and tone curve of the camera come last.
    image_HW3 = develop(stream("camera"), stage.image_HW3, light)
    instances = tuple(
        Instance(part.name, stage.owner_HW == index)
        for index, part in enumerate(plan.parts)
        if index != without and not part.ghost
    )
    value = 255 if defect == GOOD else pixel_value(product, defect)
    masks = tuple((value, stage.regions[key]) for key in sorted(stage.regions))
    kind = GOOD if defect == GOOD else module.DEFECTS[defect].kind
    return Scene(product, seed, kind, defect, image_HW3, instances, stage.product_HW, masks)


def _module(product: str) -> ModuleType:
    if product not in _MODULES:
        raise ValueError(f"product must be one of {PRODUCTS}, got {product!r}")
    return _MODULES[product]


def _pose(rng: np.random.Generator, module: ModuleType) -> Pose:
    """A small turn, shift and zoom; upright products (`UPRIGHT`) barely move."""
    upright = getattr(module, "UPRIGHT", False)
    # A standing bottle moves a third as much as parts seen from above.
    reach = 0.35 if upright else 1.0
    # Angles up to 0.05 radians (3 degrees), 2.5 % of scale, 1.4 % of shift.
    angle, scale, dx, dy = rng.uniform(-1, 1, 4)
    return Pose(
        float(0.05 * reach * angle),
        float((1.07 if upright else 0.965) + 0.025 * reach * scale),
        float(0.014 * dx),
        float(0.014 * reach * dy),
    )

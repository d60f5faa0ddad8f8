"""Product `bag`: a clear zip bag of hardware on an inspection mat.

Rule: one long bolt, one short bolt, two nuts and two washers, anywhere in the bag.
"""

import math
from dataclasses import replace

import cv2
import numpy as np

from scenes.hardware import LENGTHS, PAINT
from scenes.lighting import highlight, normals
from scenes.materials import Rng, fractal, noise
from scenes.records import Defect, Layout, Part
from scenes.shapes import Patch, box, ramp
from scenes.stage import Sprite, Stage

Array = np.ndarray
RULE = "one long bolt, one short bolt, two nuts, two washers"
BACKDROP = "felt"
COUNTS = {"long_bolt": 1, "short_bolt": 1, "nut": 2, "washer": 2}
# Half width and height of the bag.
HALF = (0.375, 0.425)
# Where parts may lie: below the zip, inside the seals.
ROOM = (0.165, 0.235, 0.835, 0.865)
# The second value is the fraction of the image at which sPRO saturates: the visible area of one
# such part.
DEFECTS = {
    "missing_nut": Defect("logical", 0.0035),
    "extra_nut": Defect("logical", 0.0035),
    "missing_washer": Defect("logical", 0.005),
    "extra_washer": Defect("logical", 0.005),
    "missing_long_bolt": Defect("logical", 0.015),
    "two_long_bolts": Defect("logical", 0.012),
    "two_short_bolts": Defect("logical", 0.012),
    "bent_bolt": Defect("structural"),
    "cracked_washer": Defect("structural"),
    "rusty_nut": Defect("structural"),
    "torn_bag": Defect("structural"),
}


def layout(rng: Rng) -> Layout:
    """Place the bolts first, then the small parts where there is room."""
    parts: list[Part] = []
    for name, count in COUNTS.items():
        for _ in range(count):
            parts.append(_place(name, parts, rng))
    # A washer is thin and slides under a bolt: paint the small parts first, the bolts on top.
    parts.sort(key=lambda part: part.name in LENGTHS)
    # Where a tear would be. It is drawn for every plan, so that good and torn bags use the same
    # draws.
    spot = (float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.3, 0.8)))
    return Layout(tuple(parts), int(rng.integers(2**31)), spot=spot)


def spoil(plan: Layout, defect: str, rng: Rng) -> Layout:
    """The plan with one defect."""
    parts = list(plan.parts)
    if defect.startswith("missing_"):
        k = _pick(parts, defect.removeprefix("missing_"), rng)
        # The part stays in the plan as a ghost: its empty place is the ground-truth region.
        parts[k] = replace(parts[k], ghost=True, region=0)
    elif defect.startswith("extra_"):
        extra = _place(defect.removeprefix("extra_"), parts, rng)
        parts.append(replace(extra, region=0))
    elif defect in ("two_long_bolts", "two_short_bolts"):
        # The totals stay the same; one bolt is exchanged for another of the other length.
        wrong, right = (
            ("short_bolt", "long_bolt") if "long" in defect else ("long_bolt", "short_bolt")
        )
        k = _pick(parts, wrong, rng)
        others = [part for i, part in enumerate(parts) if i != k]
        parts[k] = replace(_place(right, others, rng), region=0)
    elif defect == "torn_bag":
        # The tear belongs to the bag, not to a part; `draw_over` paints and marks it.
        return replace(plan, flaw="torn")
    else:
        name, flaw = {
            "bent_bolt": ("long_bolt", "bent"),
            "cracked_washer": ("washer", "cracked"),
            "rusty_nut": ("nut", "rust"),
        }[defect]
        k = _pick(parts, name, rng)
        parts[k] = replace(parts[k], flaw=flaw, region=0)
    return replace(plan, parts=tuple(parts))


def draw_base(stage: Stage, plan: Layout) -> None:
    """The back sheet: a faint haze, and the bag's own soft shadow on the mat."""
    p, d = _sheet(stage)
    # The sheet is almost clear: a grey haze of a tenth.
    alpha = p.cover(d)
    stage.put(Sprite(p, np.full((*p.shape, 3), 0.30, np.float32), alpha * 0.10))
    stage.product_HW[p.top : p.top + p.height, p.left : p.left + p.width] |= alpha > 0.5
    # Contact shadow: falls off over about 1 % of the image outside the sheet.
    edge = np.exp(-((np.maximum(d, 0) / 0.012) ** 2)) * (d > 0) * 0.35
    stage.blend(p, np.zeros(3, np.float32), edge.astype(np.float32))


def paint(stage: Stage, part: Part) -> Sprite:
    return PAINT[part.name](stage, part)


def draw_over(stage: Stage, plan: Layout) -> None:
    """The front sheet: folds that catch the lamp, welded seams, the zip, perhaps a tear."""
    rng = np.random.default_rng(plan.seed)
    p, d = _sheet(stage)
    y = p.y_HW
    inside = p.cover(d)
    # Highlights of the folds, computed at half resolution and enlarged.
    gleam = cv2.resize(_folds(stage, rng), (p.width, p.height), interpolation=cv2.INTER_LINEAR)
    # Seams at both sides and the bottom, the zip near the top.
    seam = np.exp(-(((d + 0.016) / 0.0028) ** 2)) * (y > -HALF[1] + 0.06)
    rim = np.exp(-(((d + 0.002) / 0.0025) ** 2))
    zip_y = y + HALF[1] - 0.072
    # Two parallel ridges of the zip on a slightly milky band.
    zips = sum(np.exp(-(((zip_y - k) / 0.0028) ** 2)) for k in (0.0, 0.013))
    band = ramp(0.016 - np.abs(zip_y - 0.006), 0, 0.004)
    white = 0.03 + gleam + 0.22 * seam + 0.30 * rim + 0.32 * zips + 0.10 * band
    # A torn sheet reflects nothing inside the hole; its stretched border turns white.
    if plan.flaw == "torn":
        hole, ring, mask_HW = _tear(stage, rng, p, plan.spot)
        white = white * (1 - hole) + 0.75 * ring
        stage.mark(0, p, mask_HW)
    alpha = np.clip(white, 0, 0.9) * inside
    # Reflections on polyethylene look slightly blue.
    tint = np.array([0.93, 0.97, 1.0], np.float32)
    stage.blend(p, tint, alpha.astype(np.float32))


def _folds(stage: Stage, rng: Rng) -> Array:
    """Lamp light that the front sheet reflects to the camera: creases and soft billows.

    Computed at half size, because the film is smooth and its fine lines are the seams.
    """
    p = stage.patch(0.5, 0.5, 0.62, over=1)
    shape = (max(2, p.height // 2), max(2, p.width // 2))
    x = cv2.resize(p.x_HW, shape[::-1], interpolation=cv2.INTER_AREA)
    y = cv2.resize(p.y_HW, shape[::-1], interpolation=cv2.INTER_AREA)
    height = 0.022 * fractal(rng, shape, 4, 4, 3)
    # The parts push the film up in the middle; it is held down at the seams.
    bulge = np.maximum(1 - (x / HALF[0]) ** 2, 0) * np.maximum(1 - (y / HALF[1]) ** 2, 0)
    height += 0.05 * np.sqrt(bulge)
    wander = 0.02 * fractal(rng, shape, 3, 3, 2)
    # Eleven creases look like a bag that has been handled; each is a ridge of the height map.
    for k in range(11):
        # A crease: sharp across, long along; half of them start at a corner or at the zip.
        angle = float(rng.uniform(0, 3.142))
        cx, cy = float(rng.uniform(-0.34, 0.34)), float(rng.uniform(-0.32, 0.38))
        if k % 2:
            cx, cy = 0.34 * float(rng.choice([-1, 1])), 0.36 * float(rng.choice([-1, 1]))
        c, s = math.cos(angle), math.sin(angle)
        across = c * (y - cy) - s * (x - cx) + wander
        along = (c * (x - cx) + s * (y - cy)) / float(rng.uniform(0.10, 0.24))
        wide = float(rng.uniform(0.008, 0.024))
        # The small constant rounds the crest, so that its normal is defined there.
        crest = np.sqrt(across * across + 1e-5) / wide
        height += 0.45 * wide * np.exp(-crest - along * along)
    # A sharp highlight for creases and a broad one for the sheen of the whole film.
    n = normals(height, 2 * p.unit)
    return 0.42 * highlight(n, stage.light, 170) + 0.07 * highlight(n, stage.light, 14)


def _sheet(stage: Stage) -> tuple[Patch, Array]:
    p = stage.patch(0.5, 0.5, 0.62, over=1)
    return p, box(p.x_HW, p.y_HW, *HALF, 0.018)


def _tear(stage: Stage, rng: Rng, p: Patch, spot: tuple[float, float]) -> tuple[Array, ...]:
    """A ripped hole: its inside, its stretched white border, and the mask of both."""
    # An ellipse three times as long as wide, with a noisy outline.
    angle = rng.uniform(0, 3.14)
    dx, dy = p.x_HW - (spot[0] - 0.5), p.y_HW - (spot[1] - 0.5)
    c, s = math.cos(angle), math.sin(angle)
    u, v = c * dx + s * dy, c * dy - s * dx
    jag = 0.010 * noise(rng, p.shape, 60, 60)
    d = np.sqrt((u * 0.33) ** 2 + v**2) - rng.uniform(0.022, 0.03) + jag
    ring = np.exp(-((d / 0.0045) ** 2)) * (0.7 + 0.3 * noise(rng, p.shape, 90, 90))
    return ramp(-d, -0.002, 0.002), ring, d < 0.006


def _skeleton(name: str, x: float, y: float, angle: float) -> tuple[Array, float]:
    """Points along the part's axis and its radius, to measure gaps between parts."""
    if name in LENGTHS:
        t = np.linspace(-0.5, 0.5, 9) * LENGTHS[name]
        return np.stack([x + t * np.cos(angle), y + t * np.sin(angle)], 1), 0.036
    return np.array([[x, y]]), 0.047


def _place(name: str, parts: list[Part], rng: Rng) -> Part:
    """The first random place with enough room, or the least crowded of 80."""
    x0, y0, x1, y1 = ROOM
    best, best_gap = None, -9.0
    for _ in range(80):
        x, y = float(rng.uniform(x0, x1)), float(rng.uniform(y0, y1))
        angle = float(rng.uniform(0, 6.283))
        points, radius = _skeleton(name, x, y, angle)
        low, high = points.min(0) - radius, points.max(0) + radius
        # How far the part would stick out of the allowed area.
        over = max(x0 - low[0], y0 - low[1], high[0] - x1, high[1] - y1, 0.0)
        # More than this gap brings no further advantage.
        gap = 0.012
        for part in parts:
            other, wide = _skeleton(part.name, part.x, part.y, part.angle)
            far = np.sqrt(((points[:, None] - other[None]) ** 2).sum(-1)).min()
            gap = min(gap, float(far) - radius - wide)
        # Leaving the bag is worse than overlapping another part.
        gap -= 4 * over
        if best is None or gap > best_gap:
            best, best_gap = (x, y, angle), gap
        # A slight overlap is accepted: loose hardware in a bag touches.
        if best_gap >= -0.004:
            break
    if best is None:
        raise RuntimeError("no candidate place was drawn")
    return Part(name, *best, seed=int(rng.integers(2**31)))


def _pick(parts: list[Part], name: str, rng: Rng) -> int:
    return int(rng.choice([i for i, part in enumerate(parts) if part.name == name]))

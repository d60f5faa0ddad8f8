"""Logical edits as plans: take away, add, move or exchange one object, or leave all as it is.

A plan names proposals and offsets, no pixels, so it can be stored as JSON, replayed and counted.
Pixels change only in `compose.py`. Offsets are whole pixels, so a pasted object keeps its grain.
"""

from collections.abc import Callable
from itertools import combinations

import cv2
import numpy as np

from pipeline.records import Edit, ObjectProposals
from pipeline.settings import EditSettings, pixels_at

PRESETS = {
    "full": ("missing", "extra", "misplaced", "swapped"),
    "paper": ("missing",),  # one random object, Inpaint Anything's *remove*, as the source method
}

PLACES = 96
"""Random destinations that are tried before an edit is given up."""
MAX_OVERLAP = 0.15
"""Share of a pasted object that may come to lie on parts of its own size or smaller."""
MIN_GROUND = 0.95
"""Share of a pasted object that must lie on ground of the kind that it came from."""
RING = 5
"""Width in pixels of the ring that tells on which kind of ground an object lies."""
SIMILAR_AREA = 2.0
"""Two objects can be exchanged when neither is larger than this multiple of the other."""


def kinds_of(settings: EditSettings) -> tuple[str, ...]:
    """The kinds that change the meaning, in the order in which they take turns."""
    return settings.kinds or PRESETS[settings.preset]


def plan(
    proposals: ObjectProposals,
    rng: np.random.Generator,
    settings: EditSettings,
    kind: str | None = None,
) -> Edit | None:
    """A random edit of the given kind (by default any of the settings'), or None when none fits."""
    if not len(proposals):
        return None
    kind = kind or str(rng.choice(kinds_of(settings)))
    found = _PLANNERS[kind](proposals, rng)
    if found is None:
        return None
    targets, parameters = found
    size_HW = proposals.foreground_HW.shape
    parameters |= {
        "dilation": round(pixels_at(settings.dilation, size_HW)),
        "feather": round(pixels_at(settings.feather, size_HW)),
        "match_noise": settings.match_noise,
        "foreground_share": _share_of_foreground(proposals, targets),
    }
    return Edit(kind, targets, parameters, seed=int(rng.integers(2**62)))


_Found = tuple[tuple[int, ...], dict] | None


def _missing(proposals: ObjectProposals, rng: np.random.Generator) -> _Found:
    return (int(rng.integers(len(proposals))),), {}


def _extra(proposals: ObjectProposals, rng: np.random.Generator) -> _Found:
    return _moved(proposals, rng, stays=True)


def _misplaced(proposals: ObjectProposals, rng: np.random.Generator) -> _Found:
    return _moved(proposals, rng, stays=False)


def _moved(proposals: ObjectProposals, rng: np.random.Generator, *, stays: bool) -> _Found:
    movable = _movable(proposals)
    if not movable:
        return None
    target = movable[int(rng.integers(len(movable)))]
    offset = _free_offset(proposals, target, rng, stays=stays)
    return None if offset is None else ((target,), {"offset": list(offset)})


def _swapped(proposals: ObjectProposals, rng: np.random.Generator) -> _Found:
    """Two separate objects of like area, each brought to the other's centre."""
    areas_N = proposals.masks_NHW.sum((1, 2))
    pairs = [
        (first, second)
        for first, second in combinations(_movable(proposals), 2)
        if max(areas_N[first], areas_N[second])
        <= SIMILAR_AREA * min(areas_N[first], areas_N[second])
        and not (proposals.masks_NHW[first] & proposals.masks_NHW[second]).any()
    ]
    boxes_N4 = proposals.boxes_N4
    centres_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) // 2
    for index in rng.permutation(len(pairs)):
        first, second = pairs[index]
        dx, dy = (centres_N2[second] - centres_N2[first]).tolist()
        there = shifted(proposals.masks_NHW[first], dx, dy)
        back = shifted(proposals.masks_NHW[second], -dx, -dy)
        whole = there.sum() == areas_N[first] and back.sum() == areas_N[second]
        if whole and not (there & back).any():
            return (first, second), {"offset": [dx, dy]}
    return None


_PLANNERS: dict[str, Callable[[ObjectProposals, np.random.Generator], _Found]] = {
    "missing": _missing,
    "extra": _extra,
    "misplaced": _misplaced,
    "swapped": _swapped,
    "control_noop": _missing,  # same target, same machinery; the object is put back in its place
}


def shifted(mask_HW: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """The array moved right by dx and down by dy, zeros moving in; any trailing axes."""
    moved = np.zeros_like(mask_HW)
    height, width = mask_HW.shape[:2]
    ys, yd = (
        slice(max(0, -dy), min(height, height - dy)),
        slice(max(0, dy), min(height, height + dy)),
    )
    xs, xd = slice(max(0, -dx), min(width, width - dx)), slice(max(0, dx), min(width, width + dx))
    if ys.start < ys.stop and xs.start < xs.stop:
        moved[yd, xd] = mask_HW[ys, xs]
    return moved


def _movable(proposals: ObjectProposals) -> list[int]:
    """Objects that the frame does not cut: a cut edge in the middle of a picture is no logic."""
    boxes_N4 = proposals.boxes_N4
    height, width = proposals.foreground_HW.shape
    inside_N = (boxes_N4[:, :2] > 0).all(1) & (boxes_N4[:, 2:] < (width, height)).all(1)
    return np.flatnonzero(inside_N).tolist()


def _free_offset(
    proposals: ObjectProposals, target: int, rng: np.random.Generator, *, stays: bool
) -> tuple[int, int] | None:
    """Where the target may go: whole, on ground like its own, hardly on other parts; else None.

    A part that lies on the product stays on it, a part that lies beside others stays beside them.
    Parts much larger than the target (a compartment, a label) are ground to stand on, not
    obstacles. With `stays` the target's own place is taken as well.
    """
    mask_HW = proposals.masks_NHW[target]
    area = int(mask_HW.sum())
    ground_HW = _ground(proposals.foreground_HW, mask_HW)
    areas_N = proposals.masks_NHW.sum((1, 2))
    others_N = areas_N <= SIMILAR_AREA * area
    others_N[target] = stays
    taken_HW = proposals.masks_NHW[others_N].any(0)
    x0, y0, x1, y1 = proposals.boxes_N4[target].tolist()
    height, width = mask_HW.shape
    crop = mask_HW[y0:y1, x0:x1]
    reach = max(2, min(x1 - x0, y1 - y0) // 2)  # nearer than this it has not really moved
    for left, top in zip(
        rng.integers(0, width - (x1 - x0) + 1, PLACES),
        rng.integers(0, height - (y1 - y0) + 1, PLACES),
        strict=True,
    ):
        dx, dy = int(left) - x0, int(top) - y0
        if dx * dx + dy * dy < reach * reach:
            continue
        place = (slice(top, top + y1 - y0), slice(left, left + x1 - x0))
        grounded = (ground_HW[place] & crop).sum()
        overlap = (taken_HW[place] & crop).sum()
        if grounded >= MIN_GROUND * area and overlap <= MAX_OVERLAP * area:
            return dx, dy
    return None


def _ground(foreground_HW: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The foreground when the object is surrounded by it, else everything but the foreground."""
    kernel = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
    ring_HW = cv2.dilate(mask_HW.astype(np.uint8), kernel).astype(np.bool_) & ~mask_HW
    on_product = foreground_HW[ring_HW].mean() >= 0.5 if ring_HW.any() else True
    return (foreground_HW if on_product else ~foreground_HW) | mask_HW


def _share_of_foreground(proposals: ObjectProposals, targets: tuple[int, ...]) -> float:
    touched_HW = proposals.masks_NHW[list(targets)].any(0) & proposals.foreground_HW
    return round(float(touched_HW.sum() / max(1, proposals.foreground_HW.sum())), 6)

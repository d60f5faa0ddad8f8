"""The scores of the gate: shares in [0, 1], ratios where 1 means no difference, CIELAB distances.

Everything is measured in a window around the change mask, so the cost depends on the edit and not
on the image size.

Shapes: H, W image; h, w window around the change; 3 colour (RGB, uint8); N pixels of a region.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.edits.apply import LEFT_BEHIND
from pipeline.edits.registry import placed_masks
from pipeline.gate.patch_bank import PatchBank
from pipeline.imaging.artifacts import (
    BAND,
    GRADIENT_FLOOR,
    clipped_share,
    gradient,
    noise_ratio,
    outline_ratio,
)
from pipeline.imaging.masks import dilated, window
from pipeline.imaging.noise import noise_level
from pipeline.imaging.region_values import values_in
from pipeline.kinds import kind_of
from pipeline.records import Edit, Sample

# Smallest inpainted region in pixels that is judged: one cell of the network, 8 x 8.
MIN_INPAINTED = 64
# Quantile of the colour distances of a rotated object: its most changed quarter counts, because a
# screw rotated by half a turn differs only at its ends.
TURNED_SHARE = 0.75
# Pixels around the change mask that show what surrounds it.
RIM = 3
# Mean CIELAB distance from which two samples of one region show different anomalies.
OTHER_LOOK = 10.0


def measure(sample: Sample, image_HW3: np.ndarray, threshold: int = 8) -> dict[str, float]:
    """All scores that need no network; `image_HW3` is the source of the sample.

    `threshold` is the difference in grey levels above which a pixel differs visibly. An empty
    change mask gives only the scores that do not need one.
    """
    edit, change_HW = sample.edit, sample.change_HW
    area = np.count_nonzero(change_HW)
    scores = {
        # For an edit of a combined sample, the area of all its edits, see `judge.split_combined`.
        "change_area": edit.parameters.get("change_area", area / change_HW.size) if area else 0.0,
        "border": border_share(change_HW),
        "foreground_share": edit.parameters.get("foreground_share", 0.0),
    }
    # Measured when the edit was applied, where the other parts are known.
    if LEFT_BEHIND in edit.parameters:
        scores[LEFT_BEHIND] = edit.parameters[LEFT_BEHIND]
    if not area:
        return scores
    near = window(change_HW | sample.object_HW)
    edited_hw3, source_hw3 = sample.pixels_HW3[near], image_HW3[near]
    change_hw, object_hw = change_HW[near], sample.object_HW[near]
    difference_hw3 = cv2.absdiff(edited_hw3, source_hw3)
    # The largest difference of the three channels, by pairs: a reduction over three is slow.
    moved_hw = cv2.max(
        cv2.max(difference_hw3[..., 0], difference_hw3[..., 1]), difference_hw3[..., 2]
    )
    changed_hw = (moved_hw > threshold) & change_hw
    inpainted_hw = inpainted_region(edit, change_hw, object_hw)
    gradient_hw = gradient(edited_hw3)
    scores |= {
        "changed_fraction": np.count_nonzero(changed_hw) / area,
        "delta_e": delta_e(edited_hw3, source_hw3, change_hw),
        "seam_ratio": seam_ratio(edited_hw3, source_hw3, change_hw, gradient_hw),
        "outline_ratio": outline_ratio(edited_hw3, change_hw, gradient_hw),
        "noise_ratio": _noise(edit, edited_hw3, source_hw3, change_hw, object_hw, inpainted_hw),
        "clipped": _clipped(edited_hw3, source_hw3, change_hw, inpainted_hw),
        "painted": np.count_nonzero(inpainted_hw) / change_HW.size,
    }
    if kind_of(edit.kind).replaces:
        scores["object_delta_e"] = _object_delta_e(
            edit, edited_hw3, source_hw3, object_hw, changed_hw, (near[1].start, near[0].start)
        )
    return scores


def _clipped(
    edited_hw3: np.ndarray, source_hw3: np.ndarray, change_hw: np.ndarray, inpainted_hw: np.ndarray
) -> float:
    """Share of the change mask that the edit made fully black or white.

    Pixels that were so before are not its fault, nor is background filled as what surrounds it: a
    smaller product on a white backdrop shows more white.
    """
    before = clipped_share(source_hw3, change_hw)
    rim_hw = dilated(change_hw, RIM) & ~change_hw
    filled = np.count_nonzero(inpainted_hw) / np.count_nonzero(change_hw)
    around = clipped_share(source_hw3, rim_hw) * filled
    return max(0.0, clipped_share(edited_hw3, change_hw) - max(before, around))


def patch_scores(sample: Sample, image_HW3: np.ndarray, bank: PatchBank) -> dict[str, float]:
    """Distances to the normal patches: of the inpainted region, of the source at the same place,
    and of the whole image.

    Without an inpainted region the distance is that of the whole change mask; it is recorded, but
    no check uses it.
    """
    change_HW = sample.change_HW
    where_HW = inpainted_region(sample.edit, change_HW, sample.object_HW)
    if not where_HW.any():
        where_HW = change_HW
    return {
        "patch_distance": bank.region_distance(sample.pixels_HW3, where_HW, change_HW),
        "patch_before": bank.distance_before(image_HW3, where_HW),
        "image_distance": bank.image_distance(sample.pixels_HW3, image_HW3, change_HW),
    }


def inpainted_region(edit: Edit, change_HW: np.ndarray, object_HW: np.ndarray) -> np.ndarray:
    """Where inpainted background is visible, bool (H, W): the holes, except where something was
    pasted over them.

    Empty for kinds that only paste or that exchange objects of similar size, and where the outline
    of the new object is unknown (a prompt). Also for regions below `MIN_INPAINTED`.
    """
    nowhere_HW = np.zeros_like(change_HW)
    kind = kind_of(edit.kind)
    if kind.inpaints:
        found_HW = change_HW
    else:
        placed = placed_masks(edit, [object_HW]) if kind.uncovers and object_HW.any() else None
        if not placed:
            return nowhere_HW
        # The hole was dilated; so is the pasted object, whose soft edge covers a little more.
        reach = int(edit.parameters.get("dilation", 0))
        found_HW = dilated(object_HW, reach) & ~dilated(placed[0], reach) & change_HW
    return found_HW if np.count_nonzero(found_HW) >= MIN_INPAINTED else nowhere_HW


def duplicate_iou(sample: Sample, accepted: Sequence[Sample]) -> float:
    """The largest IoU of the change mask with that of an earlier sample of the same kind.

    Samples of one region that look clearly different (a red and a blue cap) are no duplicates.
    """
    rivals = [other for other in accepted if other.edit.kind == sample.edit.kind]
    if not rivals or not sample.change_HW.any():
        return 0.0
    # The intersection lies inside the own box; the union follows from the areas.
    near = window(sample.change_HW, 0)
    own_hw = sample.change_HW[near]
    own = np.count_nonzero(own_hw)
    best = 0.0
    for other in rivals:
        shared = np.count_nonzero(own_hw & other.change_HW[near])
        union = int(own + np.count_nonzero(other.change_HW) - shared)
        iou = float(shared) / max(1, union)
        if iou > best:
            both_HW = sample.change_HW & other.change_HW
            alike = delta_e(sample.pixels_HW3, other.pixels_HW3, both_HW) < OTHER_LOOK
            best = iou if alike else best
    return best


def delta_e(edited_HW3: np.ndarray, image_HW3: np.ndarray, where_HW: np.ndarray) -> float:
    """Mean CIE76 distance over a region, 0 if it is empty; about 2.3 is just noticeable."""
    distances_N = delta_es(edited_HW3, image_HW3, where_HW)
    return float(distances_N.mean()) if len(distances_N) else 0.0


def delta_es(edited_HW3: np.ndarray, image_HW3: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    """(N,) float32: the CIE76 distance of every pixel of a region."""
    lab = [
        cv2.cvtColor(values_in(image, where_HW)[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[
            0
        ]
        for image in (edited_HW3, image_HW3)
        if where_HW.any()
    ]
    if not lab:
        return np.zeros(0, np.float32)
    return np.sqrt(np.square(lab[0] - lab[1]) @ np.ones(3, np.float32))


def seam_ratio(
    edited_HW3: np.ndarray,
    image_HW3: np.ndarray,
    change_HW: np.ndarray,
    gradient_HW: np.ndarray | None = None,
) -> float:
    """1 + (gradient that the edit added on its mask's outline) / (source gradient just outside).

    1 when nothing was added, and when the outline or its outside is empty. `gradient_HW` is that of
    the edited image, where it is known already.
    """
    mask_HW, near = change_HW.astype(np.uint8), np.ones((3, 3), np.uint8)
    # The outline, one pixel on each side, and a band of twice BAND pixels outside it.
    on_HW = (cv2.dilate(mask_HW, near) > 0) & (cv2.erode(mask_HW, near) == 0)
    beside = np.ones((2 * BAND + 1, 2 * BAND + 1), np.uint8)
    outside_HW = (cv2.dilate(mask_HW, beside, iterations=2) > 0) & ~change_HW & ~on_HW
    if not on_HW.any() or not outside_HW.any():
        return 1.0
    # Only added gradient counts: an outline that the source shows there is no seam.
    before_HW = gradient(image_HW3)
    if gradient_HW is None:
        gradient_HW = gradient(edited_HW3)
    added = np.maximum(gradient_HW[on_HW] - before_HW[on_HW], 0).mean()
    return float(1 + added / (before_HW[outside_HW].mean() + GRADIENT_FLOOR))


def border_share(mask_HW: np.ndarray) -> float:
    """Share of the image's outermost pixels that lie in the mask."""
    height, width = mask_HW.shape
    lines = (mask_HW[0], mask_HW[-1], mask_HW[1:-1, 0], mask_HW[1:-1, -1])
    return sum(map(np.count_nonzero, lines)) / (2 * (height + width) - 4)


def _noise(
    edit: Edit,
    edited_hw3: np.ndarray,
    source_hw3: np.ndarray,
    change_hw: np.ndarray,
    object_hw: np.ndarray,
    inpainted_hw: np.ndarray,
) -> float:
    """Noise ratio: of a resampled object to its own before, of an inpainted region to the ring
    around the change, else 1."""
    kind = kind_of(edit.kind)
    if kind.resamples:
        before = float(noise_level(source_hw3, object_hw).mean())
        # Where it is now: the place that a shrunk object leaves shows background.
        placed = placed_masks(edit, [object_hw])
        now_hw = placed[0] & object_hw if placed else object_hw
        now_hw = now_hw if np.count_nonzero(now_hw) >= MIN_INPAINTED else object_hw
        after = float(noise_level(edited_hw3, now_hw).mean())
        return after / before if before >= GRADIENT_FLOOR / 4 else 1.0
    # In a control whose object was pasted back, nearly all of the mask is the object itself.
    if (kind.control and kind.mask_shows == "object") or not inpainted_hw.any():
        return 1.0
    return noise_ratio(edited_hw3, inpainted_hw, change_hw)


def _object_delta_e(
    edit: Edit,
    edited_hw3: np.ndarray,
    source_hw3: np.ndarray,
    object_hw: np.ndarray,
    changed_hw: np.ndarray,
    corner: tuple[int, int],
) -> float:
    """Colour distance of new and old object after a blur of half the object's radius.

    Two exchanged walnuts differ in every pixel and still look the same; the blur removes texture
    and keeps colour and shape. Of several exchanged objects the least different one counts.
    """
    if not object_hw.any():
        return 0.0
    objects = _objects(edit, object_hw, corner)
    kind = kind_of(edit.kind)
    turned = kind.resamples and kind.replaces
    # Versions of the first releases recorded no boxes: assume two objects then.
    count = max(len(objects), 2 if kind.exchanges else 1)
    radius = (np.count_nonzero(object_hw) / count / np.pi) ** 0.5
    # Rotated objects differ in details only, which a wide blur would remove.
    sigma = max(1.0, (0.25 if turned else 0.5) * radius)
    blurred = [
        cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma)
        for image in (edited_hw3, source_hw3)
    ]
    if turned:
        found_N = delta_es(blurred[0], blurred[1], object_hw | changed_hw)
        return float(np.quantile(found_N, TURNED_SHARE))
    return min(delta_e(blurred[0], blurred[1], mask_hw) for mask_hw in objects)


def _objects(edit: Edit, object_HW: np.ndarray, corner: tuple[int, int]) -> list[np.ndarray]:
    """The masks of the edit's objects, separated by the recorded boxes, else one joint mask.

    `corner` is the window's origin (x, y) in the image.
    """
    boxes = edit.parameters.get("boxes")
    if not kind_of(edit.kind).exchanges or not boxes:
        return [object_HW]
    masks = []
    # Boxes have image coordinates; the mask is a window.
    for x0, y0, x1, y1 in boxes:
        mask_HW = np.zeros_like(object_HW)
        at = (slice(max(0, y0 - corner[1]), max(0, y1 - corner[1])),
              slice(max(0, x0 - corner[0]), max(0, x1 - corner[0])))  # fmt: skip
        mask_HW[at] = object_HW[at]
        if mask_HW.any():
            masks.append(mask_HW)
    return masks or [object_HW]

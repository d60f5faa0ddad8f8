"""Where SAM is asked: a lattice of points in the foreground, and boxes of what may be parts.

Boxes come from two maps. The components of the foreground, and the pieces of those that touch, are
parts where U²-Net saw them. It misses dark parts, and all parts of a tray but the most striking
ones; therefore what stands out from its wider surroundings is boxed as well, at several levels,
since parts that touch separate at one of them (the idea of maximally stable regions, Matas et al.,
BMVC 2002). A box too many costs a decoder pass and is dropped by the filters.

Shapes: P prompts; H, W image; h, w reduced image; 3 colour (RGB uint8); 4 box as x0 y0 x1 y1.
"""

import cv2
import numpy as np

# Longest side of the image on which contrast is measured: fine textures vanish at this size.
CONTRAST_SIDE = 128
# Surroundings of a pixel, a share of the longest side: wider than any part.
SURROUNDINGS = 0.4
# Lightness counts half: shadows change it, and hardly the colour.
LIGHTNESS_WEIGHT = 0.5
# Levels at which regions are boxed, in units of Otsu's level of the contrast.
LEVELS = (0.35, 0.7, 1.2)
# Lowest level of contrast (CIELAB units): below it is noise.
MIN_CONTRAST = 4.0
# IoU above which two boxes ask the same question.
SAME_BOX = 0.75
# Peaks of the distance to the outline that split a component: share of its deepest point.
PEAK = 0.6


def foreground_points(mask_HW: np.ndarray, wanted: int) -> np.ndarray:
    """About `wanted` (x, y) points of a square lattice inside the mask, (P, 2) int32.

    A small or thin component without a lattice point gets the pixel farthest from its border.
    """
    area = int(mask_HW.sum())
    # Lattice spacing at which the mask's area holds the wanted number of points.
    step = max(1.0, (area / max(wanted, 1)) ** 0.5)
    height, width = mask_HW.shape
    xs = np.arange(step / 2, width, step).astype(int)
    ys = np.arange(step / 2, height, step).astype(int)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    points = [grid[mask_HW[grid[:, 1], grid[:, 0]]]]
    # Add a point to each component that the lattice missed, while there are not too many.
    _, labels_HW = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)
    hit = set(labels_HW[points[0][:, 1], points[0][:, 0]].tolist())
    depth_HW = cv2.distanceTransform(mask_HW.astype(np.uint8), cv2.DIST_L2, 3)
    for label in range(1, int(labels_HW.max()) + 1):
        if label not in hit and len(points) <= wanted:
            inside = np.where(labels_HW == label, depth_HW, 0)
            y, x = divmod(int(inside.argmax()), width)
            points.append(np.array([[x, y]]))
    return np.concatenate(points).astype(np.int32)


def contrast_hw(image_HW3: np.ndarray) -> np.ndarray:
    """How much each cell of the reduced image differs from its surroundings' median; CIELAB."""
    scale = min(1.0, CONTRAST_SIDE / max(image_HW3.shape[:2]))
    size = tuple(max(1, round(scale * side)) for side in image_HW3.shape[1::-1])
    small_hw3 = cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)
    lab_hw3 = cv2.cvtColor(small_hw3, cv2.COLOR_RGB2LAB)
    # The median ignores whatever covers less than half of the window, so parts leave no trace.
    reach = max(1, int(SURROUNDINGS * max(size) / 2))
    padded = cv2.copyMakeBorder(lab_hw3, reach, reach, reach, reach, cv2.BORDER_REFLECT)
    median_hw3 = cv2.medianBlur(padded, 2 * reach + 1)[reach:-reach, reach:-reach]
    difference: np.ndarray = cv2.GaussianBlur(lab_hw3.astype(np.float32) - median_hw3, (0, 0), 1.0)
    weights_3 = np.array([LIGHTNESS_WEIGHT, 1, 1], np.float32)
    return np.sqrt(difference**2 @ weights_3)


def standing_out(contrast_hw: np.ndarray, shape_HW: tuple[int, int]) -> np.ndarray:
    """Where anything stands out at the lowest of the levels, at image size; bool (H, W).

    Thin lines are left out, and holes are filled: the inside of a ring belongs to it.
    """
    mask_hw = _thick(contrast_hw > max(MIN_CONTRAST, LEVELS[0] * otsu_level(contrast_hw)))
    outlines, _ = cv2.findContours(
        mask_hw.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    filled_hw = cv2.drawContours(mask_hw.astype(np.float32), outlines, -1, 1.0, cv2.FILLED)
    size = (shape_HW[1], shape_HW[0])
    return cv2.resize(filled_hw, size, interpolation=cv2.INTER_LINEAR) > 0.5


def otsu_level(contrast_hw: np.ndarray) -> float:
    """The level that separates what stands out from the rest; at least MIN_CONTRAST."""
    fine = np.clip(4 * contrast_hw, 0, 255).astype(np.uint8)
    level, _ = cv2.threshold(fine, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return max(MIN_CONTRAST, level / 4)


def part_boxes(
    foreground_HW: np.ndarray, contrast_hw: np.ndarray, min_area: float, max_area: float
) -> np.ndarray:
    """Boxes of possible parts, (P, 4) float32 in pixels, those of the foreground first.

    Boxes outside the limits, which are shares of the image, are left out, and so are those that
    nearly repeat an earlier one.
    """
    scale = foreground_HW.shape[0] / contrast_hw.shape[0]
    found = _boxes(foreground_HW) + _boxes(_split(foreground_HW))
    level = otsu_level(contrast_hw)
    for factor in LEVELS:
        region_hw = _thick(contrast_hw > max(MIN_CONTRAST, factor * level))
        for mask_hw in (region_hw, _split(region_hw)):
            found += [tuple(scale * side for side in box) for box in _boxes(mask_hw)]
    boxes_P4 = np.array(found, np.float32).reshape(-1, 4)
    # A mask fills at most its box, and rarely less than a third of it.
    share_P = _areas(boxes_P4) / foreground_HW.size
    boxes_P4 = boxes_P4[(share_P >= min_area) & (share_P <= 3 * max_area)]
    kept: list[int] = []
    for index, box_4 in enumerate(boxes_P4):
        if not (_box_iou(boxes_P4[kept], box_4) > SAME_BOX).any():
            kept.append(index)
    return boxes_P4[kept]


def _thick(mask_hw: np.ndarray) -> np.ndarray:
    """Without lines thinner than three cells, such as the walls of a tray."""
    return cv2.morphologyEx(mask_hw.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0


def _split(mask_HW: np.ndarray) -> np.ndarray:
    """The pieces of touching parts: labels (H, W) int32 around the thickest places."""
    mask = mask_HW.astype(np.uint8)
    depth_HW = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    count, labels_HW = cv2.connectedComponents(mask)
    # Each component has its own scale, that of its deepest point.
    deepest = np.zeros(count, np.float32)
    np.maximum.at(deepest, labels_HW.ravel().astype(np.int64), depth_HW.ravel())
    core_HW = (depth_HW > PEAK * deepest[labels_HW]) & mask_HW.astype(np.bool_)
    pieces, _ = cv2.connectedComponents(core_HW.astype(np.uint8))
    if pieces <= count:
        # Nothing was split.
        return np.zeros_like(labels_HW)
    # Every pixel goes to the nearest core.
    _, nearest_HW = cv2.distanceTransformWithLabels(
        (~core_HW).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP
    )
    return np.where(mask > 0, nearest_HW, 0)


def _boxes(mask_HW: np.ndarray) -> list[tuple[float, ...]]:
    """The box of each component of a bool mask, or of each label of an integer one."""
    if mask_HW.dtype != np.bool_:
        found = []
        for label in range(1, int(mask_HW.max()) + 1):
            found += _boxes(mask_HW == label)
        return found
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8))
    return [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:].tolist()]


def _areas(boxes_P4: np.ndarray) -> np.ndarray:
    return (boxes_P4[:, 2] - boxes_P4[:, 0]) * (boxes_P4[:, 3] - boxes_P4[:, 1])


def _box_iou(boxes_P4: np.ndarray, box_4: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes_P4[:, :2], box_4[:2])
    high = np.minimum(boxes_P4[:, 2:], box_4[2:])
    shared_P = np.clip(high - low, 0, None).prod(1)
    return shared_P / np.maximum(_areas(boxes_P4) + _areas(box_4[None]) - shared_P, 1)

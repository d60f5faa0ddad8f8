"""Cut-outs of real objects: bottle mouths, hazelnuts and transistors from MVTec AD photographs.

The photographs are read where they lie and nothing of them is stored. Bottles lie on white and nuts
on black, so a threshold finds them; a transistor's black body and its bright, colourless legs are
found on copper by colour. MVTec AD is CC BY-NC-SA 4.0: it measures here, and trains nothing.

Shapes: H, W the photograph; h, w the cut-out; 3 colour (RGB).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import UserError
from pipeline.imaging.decode import load_image

# Photographs of one object that are used; more would only take longer to cut.
SPECIMENS = 16
# Pixels of the photograph by which an outline is drawn in, so that no background comes along.
INSET = 1
# Rows above the lowest leg's end where all three legs must be seen, in px of the photograph.
LEG_ENDS = 14
# Blur of the outline, in pixels of the photograph.
SOFTNESS = 1.2
# Takes the crumbs off a round object's outline.
ROUND = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (21, 21))


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """One real object: `colour_hw3` uint8 RGB, `alpha_hw` float32 in [0, 1], one px of margin."""

    colour_hw3: np.ndarray
    alpha_hw: np.ndarray

    @property
    def length(self) -> float:
        """The longest side in pixels."""
        return float(max(self.alpha_hw.shape))


@lru_cache(maxsize=4)
def cutouts(photographs: Path) -> dict[str, tuple[Cutout, ...]]:
    """Object -> its cut-outs, from `photographs`, the folder of the MVTec AD categories.

    UserError when a category is missing there.
    """
    found: dict[str, tuple[Cutout, ...]] = {}
    for name, (folder, find) in OBJECTS.items():
        cut = (cut_out(path, find) for path in good_photographs(photographs / folder))
        found[name] = tuple(islice((one for one in cut if one is not None), SPECIMENS))
    return found


def board_HW3(photographs: Path) -> np.ndarray:
    """The copper board without a transistor, (H, W, 3) uint8: strips of its left edge, repeated."""
    path = good_photographs(photographs / "transistor_reduced")[0]
    image_HW3 = load_image(path)
    # The copper to the left of the transistor; its copy is turned, so the seam is less regular.
    strip_HW3 = image_HW3[:, : image_HW3.shape[1] // 5]
    return np.concatenate([strip_HW3, strip_HW3[::-1, ::-1]] * 3, 1)


def good_photographs(category: Path) -> Sequence[Path]:
    """The category's photographs of good products, by name; UserError without any."""
    found = sorted((category / "train" / "good").glob("*.png"))
    if not found:
        raise UserError(
            f"expected photographs (*.png) in {category / 'train' / 'good'}, got none; name the "
            "folder of MVTec AD with --photographs DIR"
        )
    return found


def cut_out(path: Path, find: Callable[[np.ndarray], np.ndarray]) -> Cutout | None:
    """The object of one photograph, or None when `find` (image to mask) finds none."""
    image_HW3 = load_image(path)
    found = outlined(find(image_HW3))
    if found is None:
        return None
    alpha_HW, box = found
    return Cutout(image_HW3[box], alpha_HW[box])


def outlined(mask_HW: np.ndarray) -> tuple[np.ndarray, tuple[slice, slice]] | None:
    """The soft alpha (H, W) float32 of an object's mask (uint8), and its box; None when empty."""
    if not mask_HW.any():
        return None
    inner_HW = cv2.erode(mask_HW, np.ones((3, 3), np.uint8), iterations=INSET)
    # Legs two pixels wide would vanish; they keep their outline.
    thin_HW = cv2.morphologyEx(mask_HW, cv2.MORPH_TOPHAT, np.ones((9, 9), np.uint8))
    alpha_HW = cv2.GaussianBlur(np.maximum(inner_HW, thin_HW).astype(np.float32), (0, 0), SOFTNESS)
    # Soft inside the outline only: outside there is nothing but the old background.
    alpha_HW = np.clip(2 * alpha_HW - 1, 0, 1) ** 0.7
    ys, xs = np.nonzero(alpha_HW > 0)
    box = np.s_[max(0, ys.min() - 1) : ys.max() + 2, max(0, xs.min() - 1) : xs.max() + 2]
    return alpha_HW, box


def _bottle(image_HW3: np.ndarray) -> np.ndarray:
    """The mouth is a disc of dark glass on white; its bright rings are holes to be filled."""
    dark_HW = (image_HW3.min(2) < 200).astype(np.uint8)
    return _filled(cv2.morphologyEx(dark_HW, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))


def _hazelnut(image_HW3: np.ndarray) -> np.ndarray:
    """The nut is red-brown on near black: its red channel stands out."""
    red_HW = cv2.GaussianBlur(image_HW3[..., 0], (0, 0), 1.0)
    level, _ = cv2.threshold(red_HW, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    # Otsu's level lies amid the nut's own shading; its outline is darker.
    nut_HW = (red_HW > 0.65 * level).astype(np.uint8)
    return _filled(cv2.morphologyEx(nut_HW, cv2.MORPH_OPEN, ROUND))


def _transistor(image_HW3: np.ndarray) -> np.ndarray:
    """A transistor of which all three legs are found down to their ends; else an empty mask."""
    whole_HW = transistor_HW(image_HW3)
    # A leg in the shade breaks off: such a specimen is not used.
    ys, _ = np.nonzero(whole_HW)
    row_W = whole_HW[ys.max() - LEG_ENDS]
    return whole_HW if np.count_nonzero(np.diff(row_W) == 1) == 3 else np.zeros_like(whole_HW)


def transistor_HW(image_HW3: np.ndarray) -> np.ndarray:
    """The black body, larger than any hole of the board, and the colourless legs below it, uint8.

    Legs may be incomplete.
    """
    image_HW3 = cv2.GaussianBlur(image_HW3, (3, 3), 0)
    high_HW, low_HW = image_HW3.max(2).astype(int), image_HW3.min(2).astype(int)
    side = image_HW3.shape[1] // 8
    # Gaps between the copper strips and the holes are dark too, but narrower than the body.
    dark_HW = ((high_HW < 75) | (high_HW - low_HW < 26)).astype(np.uint8)
    dark_HW = cv2.morphologyEx(dark_HW, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    body_HW = _largest(cv2.morphologyEx(dark_HW, cv2.MORPH_OPEN, np.ones((side, side), np.uint8)))
    # Holes beside it make bays or bumps; the body is convex.
    body_HW = cv2.morphologyEx(body_HW, cv2.MORPH_OPEN, np.ones((2 * side, 2 * side), np.uint8))
    # Copper is at least a third less blue than red, also in its own shadow.
    grey_HW = (high_HW - low_HW < 5 + 0.2 * high_HW) & (high_HW > 60)
    below_HW = np.zeros_like(grey_HW)
    ys, xs = np.nonzero(body_HW)
    below_HW[ys.max() - 8 :, max(0, xs.min() - 6) : xs.max() + 6] = True
    legs_HW = (grey_HW & below_HW).astype(np.uint8)
    legs_HW = cv2.morphologyEx(legs_HW, cv2.MORPH_CLOSE, np.ones((7, 3), np.uint8))
    legs_HW = cv2.morphologyEx(legs_HW, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return _largest(np.maximum(body_HW, legs_HW))


# Name of the object -> its category's folder, and how it is found on a photograph.
OBJECTS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "bottle": ("bottle", _bottle),
    "hazelnut": ("hazelnut_reduced", _hazelnut),
    "transistor": ("transistor_reduced", _transistor),
}


def _filled(mask_HW: np.ndarray) -> np.ndarray:
    """The mask with its holes filled; the largest component, uint8."""
    outlines, _ = cv2.findContours(mask_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=cv2.contourArea)
    return cv2.drawContours(np.zeros_like(mask_HW), [largest], -1, 1, cv2.FILLED)


def _largest(mask_HW: np.ndarray) -> np.ndarray:
    count, labels_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW)
    if count < 2:
        return mask_HW
    biggest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return (labels_HW == biggest).astype(np.uint8)

"""From a plan to pixels: fill what is taken away, paste what is put down, leave the rest alone.

Outside the change mask a sample is byte-identical to its source; this is asserted on every sample,
whatever the inpainter did (diffusion models alter every pixel, see the stack dossier, §5).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.edits import shifted
from pipeline.errors import RecordError
from pipeline.grain import add_grain
from pipeline.inpaint import Inpainter
from pipeline.records import Edit, ObjectProposals, Sample

SHADOW_RANGE = (0.55, 1.05)
"""How much darker or lighter an object may make the ground around it, to count as its shadow."""


def apply(
    edit: Edit, image_HW3: np.ndarray, proposals: ObjectProposals, inpaint: Inpainter
) -> Sample:
    """The sample that the edit makes of the image; same edit, same image, same pixels."""
    masks = [proposals.masks_NHW[target] for target in edit.targets]
    layer = _Canvas(image_HW3, edit)
    if edit.kind == "missing":
        layer.take_away(masks[0], inpaint)
    elif edit.kind == "extra":
        clean_HW3 = _without(image_HW3, dilated(masks[0], layer.dilation), inpaint)
        layer.put_down(masks[0], edit.parameters["offset"], clean_HW3)
    elif edit.kind == "misplaced":
        clean_HW3 = layer.take_away(masks[0], inpaint)
        layer.put_down(masks[0], edit.parameters["offset"], clean_HW3)
    elif edit.kind == "swapped":
        dx, dy = edit.parameters["offset"]
        clean_HW3 = layer.take_away(masks[0] | masks[1], inpaint)
        layer.put_down(masks[0], (dx, dy), clean_HW3, beside_HW=masks[1])
        layer.put_down(masks[1], (-dx, -dy), clean_HW3, beside_HW=masks[0])
    elif edit.kind == "control_noop":
        layer.take_away(masks[0], inpaint)
        layer.put_back(masks[0])
    object_HW = np.logical_or.reduce(masks)
    sample = Sample(edit, layer.pixels(), layer.change_HW, object_HW)
    assert_paste_back(sample, image_HW3)
    return sample


def assert_paste_back(sample: Sample, image_HW3: np.ndarray) -> None:
    """Raise RecordError unless the sample equals its source outside the change mask."""
    differs_HW = (sample.pixels_HW3 != image_HW3).any(2) & ~sample.change_HW
    if differs_HW.any():
        raise RecordError(
            f"{sample.edit.kind}: {int(differs_HW.sum())} pixels changed outside the change mask"
        )


def dilated(mask_HW: np.ndarray, radius: int) -> np.ndarray:
    """The mask grown by `radius` pixels, round; a radius of 0 leaves it as it is."""
    if radius <= 0:
        return mask_HW
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask_HW.astype(np.uint8), disc).astype(np.bool_)


@dataclass(slots=True, eq=False)
class _Canvas:
    """The picture while it is being edited: float pixels and the region touched so far."""

    source_HW3: np.ndarray
    edit: Edit
    work_HW3: np.ndarray
    change_HW: np.ndarray

    def __init__(self, source_HW3: np.ndarray, edit: Edit) -> None:
        self.source_HW3, self.edit = source_HW3, edit
        self.work_HW3 = source_HW3.astype(np.float32)
        self.change_HW = np.zeros(source_HW3.shape[:2], np.bool_)

    @property
    def dilation(self) -> int:
        return int(self.edit.parameters["dilation"])

    @property
    def feather(self) -> int:
        return int(self.edit.parameters["feather"])

    def take_away(self, mask_HW: np.ndarray, inpaint: Inpainter) -> np.ndarray:
        """Fill the dilated mask; returns the picture without the object, float32."""
        hole_HW = dilated(mask_HW, self.dilation)
        clean_HW3 = _without(self.source_HW3, hole_HW, inpaint)
        if self.edit.parameters["match_noise"]:
            rng = np.random.default_rng(self.edit.seed)
            clean_HW3 = add_grain(clean_HW3, self.source_HW3, hole_HW, rng)
        self.work_HW3[hole_HW] = clean_HW3[hole_HW]
        self.change_HW |= hole_HW
        return clean_HW3

    def put_down(
        self,
        mask_HW: np.ndarray,
        offset: tuple[int, int],
        clean_HW3: np.ndarray,
        beside_HW: np.ndarray | None = None,
    ) -> None:
        """Paste the source's object, and the shade it throws around it, moved by the offset.

        `beside_HW` is another object that `clean_HW3` lacks too; it is nobody's shade.
        """
        dx, dy = int(offset[0]), int(offset[1])
        reach_HW = dilated(mask_HW, max(self.dilation, self.feather))
        source_HW3 = self.source_HW3.astype(np.float32)
        ring_HW = reach_HW & ~mask_HW
        if beside_HW is not None:
            ring_HW &= ~dilated(beside_HW, self.dilation)
        shade_HW3 = _shade(source_HW3, clean_HW3, ring_HW, reach_HW, self.dilation)
        alpha_HW1 = _soft(mask_HW, self.feather)[..., None]
        moved = [shifted(layer, dx, dy) for layer in (source_HW3, shade_HW3 - 1, alpha_HW1)]
        object_HW3, shade_HW3, alpha_HW1 = moved[0], moved[1] + 1, moved[2]
        ground_HW3 = self.work_HW3 * shade_HW3
        self.work_HW3 = alpha_HW1 * object_HW3 + (1 - alpha_HW1) * ground_HW3
        self.change_HW |= shifted(reach_HW, dx, dy)

    def put_back(self, mask_HW: np.ndarray) -> None:
        """Lay the source's object where it was, with half of the margin that the hole has.

        Proposals miss a pixel or two of an outline; without a margin a control would lose them.
        """
        margin_HW = dilated(mask_HW, (self.dilation + 1) // 2)
        alpha_HW1 = _soft(margin_HW, self.feather)[..., None]
        self.work_HW3 = alpha_HW1 * self.source_HW3 + (1 - alpha_HW1) * self.work_HW3

    def pixels(self) -> np.ndarray:
        edited_HW3 = np.clip(np.rint(self.work_HW3), 0, 255).astype(np.uint8)
        return np.where(self.change_HW[..., None], edited_HW3, self.source_HW3)


def _without(image_HW3: np.ndarray, hole_HW: np.ndarray, inpaint: Inpainter) -> np.ndarray:
    filled_HW3 = inpaint(image_HW3, hole_HW)
    return np.where(hole_HW[..., None], filled_HW3, image_HW3).astype(np.float32)


def _soft(mask_HW: np.ndarray, feather: int) -> np.ndarray:
    """Opacity of the pasted object, float32: 1 inside, falling to 0 across the mask's own edge."""
    inside_HW = cv2.distanceTransform(mask_HW.astype(np.uint8), cv2.DIST_L2, 3)
    outside_HW = cv2.distanceTransform((~mask_HW).astype(np.uint8), cv2.DIST_L2, 3)
    signed_HW = np.where(mask_HW, inside_HW - 0.5, 0.5 - outside_HW)
    return np.clip(0.5 + signed_HW / max(feather, 1), 0, 1).astype(np.float32)


def _shade(
    image_HW3: np.ndarray,
    clean_HW3: np.ndarray,
    ring_HW: np.ndarray,
    reach_HW: np.ndarray,
    dilation: int,
) -> np.ndarray:
    """How much the object darkens its surroundings, as a factor per pixel; 1 beyond its reach.

    The ratio of the picture to the picture without the object is the shadow; smoothed, because a
    shadow is, and faded out towards the edge of the change mask so that no seam is left there.
    """
    ratio_HW1 = (image_HW3.mean(2) + 4) / (clean_HW3.mean(2) + 4)
    weight_HW = ring_HW.astype(np.float32)
    sigma = max(1.0, dilation / 4)
    total_HW = cv2.GaussianBlur(weight_HW, (0, 0), sigma) + 1e-6
    smooth_HW = cv2.GaussianBlur(ratio_HW1.astype(np.float32) * weight_HW, (0, 0), sigma) / total_HW
    smooth_HW = np.clip(smooth_HW, *SHADOW_RANGE)
    edge_HW = cv2.distanceTransform(reach_HW.astype(np.uint8), cv2.DIST_L2, 3)
    fade_HW = np.clip((edge_HW - 0.5) / max(dilation, 1), 0, 1)
    shade_HW = 1 + (smooth_HW - 1) * fade_HW
    return np.where(reach_HW, shade_HW, 1).astype(np.float32)[..., None].repeat(3, 2)

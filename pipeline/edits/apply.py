"""From a plan to pixels: fill what is taken away, paste what is put down, leave the rest alone.

Outside the change mask a sample is byte-identical to its source; this is asserted on every sample,
whatever the inpainter did (diffusion models alter every pixel, see the stack dossier, §5).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.compositing.cutout import Piece, lifted, reshaped
from pipeline.edits.context import Stock, stock_of
from pipeline.edits.donors import NO_DONORS, DonorRef, Donors
from pipeline.edits.kinds.reshape import map_of
from pipeline.errors import RecordError
from pipeline.imaging.masks import dilated, shifted
from pipeline.models.inpaint.base import Filler, FillMode, Inpainter
from pipeline.records import Edit, ObjectProposals, Sample


def apply(
    edit: Edit,
    image_HW3: np.ndarray,
    proposals: ObjectProposals,
    inpaint: Inpainter,
    *,
    donors: Donors = NO_DONORS,
    fill: Filler | None = None,
) -> Sample:
    """The sample that the edit makes of the image; same edit, same image, same pixels.

    RecordError when the edit names a donor or a prompt and no such donor or no filler is given.
    """
    pixels_HW3 = image_HW3.copy()
    change_HW = np.zeros(image_HW3.shape[:2], np.bool_)
    object_HW = change_HW.copy()
    for part in edit.parts:  # one, or for `combined` two whose regions share no pixel
        canvas = Canvas(image_HW3, part, proposals.masks_NHW)
        object_HW |= _paint(canvas, part, image_HW3, proposals, inpaint, donors, fill)
        change_HW |= canvas.finish(pixels_HW3)
    sample = Sample(edit, pixels_HW3, change_HW, object_HW)
    assert_paste_back(sample, image_HW3)
    return sample


def assert_paste_back(sample: Sample, image_HW3: np.ndarray) -> None:
    """Raise RecordError unless the sample equals its source outside the change mask."""
    differs_HW3 = sample.pixels_HW3 != image_HW3
    differs_HW = differs_HW3[..., 0] | differs_HW3[..., 1] | differs_HW3[..., 2]
    differs_HW &= ~sample.change_HW
    if differs_HW.any():
        raise RecordError(
            f"{sample.edit.kind}: {int(differs_HW.sum())} pixels changed outside the change mask"
        )


def _paint(
    canvas: Canvas,
    edit: Edit,
    image_HW3: np.ndarray,
    proposals: ObjectProposals,
    inpaint: Inpainter,
    donors: Donors,
    fill: Filler | None,
) -> np.ndarray:
    """Do one edit on its canvas; gives the whole mask of the objects it touches."""
    kind, parameters = edit.kind, edit.parameters
    if kind == "control_background" and "prompt" in parameters:
        return _surround(canvas, edit, image_HW3, proposals, fill)
    if kind == "control_background":
        dx, dy = parameters["offset"]
        shape_HW = shifted(proposals.masks_NHW[parameters["shape"]], dx, dy)
        canvas.take_away(canvas.cut(shape_HW), inpaint)
        return shape_HW
    masks = [proposals.masks_NHW[target] for target in edit.targets]
    inner = [canvas.cut(mask_HW) for mask_HW in masks]
    stock = stock_of(proposals, image_HW3)
    lift = partial(_lifted, canvas, image_HW3, stock, donors)
    if kind == "missing":
        canvas.take_away(inner[0], inpaint)
    elif kind == "extra":
        clean_hw3 = canvas.without(inner[0], inpaint)
        canvas.put_down(lift(edit.targets[0]), parameters["offset"], inner[0], clean_hw3)
    elif kind == "misplaced":
        clean_hw3 = canvas.take_away(inner[0], inpaint)
        canvas.put_down(lift(edit.targets[0]), parameters["offset"], inner[0], clean_hw3)
    elif kind in ("swapped", "wrong_order"):
        _exchange(canvas, list(map(lift, edit.targets)), inner, parameters, inpaint)
    elif kind == "wrong_type":
        _replace(canvas, edit, inner[0], image_HW3, lift, inpaint, fill)
    elif kind in ("wrong_orientation", "wrong_size"):
        clean_hw3 = canvas.take_away(inner[0], inpaint)
        grain = canvas.rng if canvas.grainy else None
        piece = reshaped(lift(edit.targets[0]), map_of(parameters), canvas.camera_grain(), grain)
        canvas.lay(piece, inner[0], clean_hw3)
    elif kind == "wrong_colour":
        canvas.recolour(inner[0], parameters.get("lab"), parameters.get("hue"))
    elif kind == "control_noop":
        # Laid down like every other part, so that no treatment of an edge tells a control.
        clean_hw3 = canvas.take_away(inner[0], inpaint)
        canvas.put_down(lift(edit.targets[0]), (0, 0), inner[0], clean_hw3)
    return np.logical_or.reduce(masks)


def _exchange(
    canvas: Canvas,
    pieces: list[Piece],
    inner: list[np.ndarray],
    parameters: Mapping[str, Any],
    inpaint: Inpainter,
) -> None:
    """Every part to the place of the next one, the last to that of the first."""
    clean_hw3 = canvas.take_away(np.logical_or.reduce(inner), inpaint)
    dx, dy = parameters.get("offset", (0, 0))
    for k, offset in enumerate(parameters.get("offsets") or [(dx, dy), (-dx, -dy)]):
        beside_hw = np.logical_or.reduce(inner[:k] + inner[k + 1 :])
        canvas.put_down(pieces[k], offset, inner[k], clean_hw3, beside_hw)


def _lifted(
    canvas: Canvas, image_HW3: np.ndarray, stock: Stock, donors: Donors, part: int | DonorRef
) -> Piece:
    """A part of this image or of a donor, lifted once for all edits of the image."""
    if isinstance(part, int):
        lender_HW3, cut = image_HW3, stock.cuts[part]
    else:  # asked for every time: a donor that is gone is an error
        lender_HW3, cut = donors.part(part)[0], stock.lent_cut(part, donors)
    band, feather = canvas.band, canvas.feather
    return stock.once(lambda: lifted(lender_HW3, cut, band, feather), "lifted", part, band, feather)


def _replace(
    canvas: Canvas,
    edit: Edit,
    inner_hw: np.ndarray,
    image_HW3: np.ndarray,
    lift: Callable[[int | DonorRef], Piece],
    inpaint: Inpainter,
    fill: Filler | None,
) -> None:
    """Something else in a part's place: a filler's answer to a prompt, or a borrowed part."""
    parameters = edit.parameters
    if "prompt" in parameters:
        hole_hw = dilated(inner_hw, canvas.dilation)
        painted_HW3 = _asked(fill, edit, image_HW3, canvas.spread(hole_hw), "fill")
        canvas.fill(hole_hw, painted_HW3)
        return
    borrowed = "donor" in parameters
    lender = DonorRef.from_json(parameters["donor"]) if borrowed else parameters["part"]
    clean_hw3 = canvas.take_away(inner_hw, inpaint)
    piece = lift(lender).moved(*parameters["offset"])
    canvas.lay(piece, inner_hw, clean_hw3)


def _surround(
    canvas: Canvas,
    edit: Edit,
    image_HW3: np.ndarray,
    proposals: ObjectProposals,
    fill: Filler | None,
) -> np.ndarray:
    """Keep the product with all its parts, and a margin, and have everything else painted."""
    product_HW = proposals.foreground_HW | proposals.masks_NHW.any(0)
    keep_HW = dilated(product_HW, canvas.dilation)
    canvas.fill(canvas.cut(~keep_HW), _asked(fill, edit, image_HW3, keep_HW, "replace"))
    return ~keep_HW


def _asked(
    fill: Filler | None, edit: Edit, image_HW3: np.ndarray, mask_HW: np.ndarray, mode: FillMode
) -> np.ndarray:
    """The filler's picture for the edit's prompt."""
    prompt = edit.parameters["prompt"]
    if fill is None:
        raise RecordError(
            f"the edit paints by the prompt {prompt!r} and there is no filler; set models.fill to "
            "the one it was made with"
        )
    return fill(image_HW3, mask_HW, prompt, edit.seed, mode)

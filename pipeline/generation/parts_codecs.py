"""Entries of the stage cache for rule books: parts with their descriptors, and masks.

Shapes: N parts; M masks; H, W image; C length of a vector.
"""

from typing import Any

import numpy as np

from pipeline.rulebook.descriptors import PartDescriptor
from pipeline.rulebook.parts import Parts, ProductFrame

# Fields of a descriptor that are arrays of one length; the others are numbers.
_ARRAYS = ("vector_C", "face_S")


def pack_parts(parts: Parts) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts of the parts of one image; masks as bits."""
    arrays, facts = pack_masks(parts.masks_NHW)
    for name in _ARRAYS if len(parts) else ():
        arrays[name] = np.stack([getattr(one, name) for one in parts.descriptors])
    frame = parts.frame
    facts["frame"] = [float(side) for side in (frame.x, frame.y, frame.angle, frame.size)]
    # JSON keeps every bit of a double.
    facts["parts"] = [[one.centre, one.size, one.angle, one.lab] for one in parts.descriptors]
    return arrays, facts


def unpack_parts(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Parts:
    """The inverse of `pack_parts`."""
    descriptors = [
        PartDescriptor(
            tuple(centre), size, angle, tuple(lab), *(arrays[name][number] for name in _ARRAYS)
        )
        for number, (centre, size, angle, lab) in enumerate(facts["parts"])
    ]
    return Parts(unpack_masks(arrays, facts), tuple(descriptors), ProductFrame(*facts["frame"]))


def pack_masks(masks_MHW: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts of bool masks (M, H, W)."""
    return {"masks": np.packbits(masks_MHW)}, {"shape": list(masks_MHW.shape)}


def unpack_masks(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> np.ndarray:
    """The inverse of `pack_masks`."""
    shape = tuple(facts["shape"])
    bits = np.unpackbits(arrays["masks"], count=int(np.prod(shape)))
    return bits.reshape(shape).astype(np.bool_)

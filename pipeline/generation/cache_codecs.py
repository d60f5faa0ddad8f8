"""Entries of the stage cache: records to arrays and JSON, and back.

Masks are packed to bits. An edited image is stored as the window around its change mask, because it
equals the original everywhere else.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.dataset.lineage import cached_attempt
from pipeline.generation.cache import StageCache
from pipeline.records import (
    Analysis,
    Attempt,
    Edit,
    ForegroundMask,
    ImageResult,
    ObjectProposals,
    Sample,
    Verdict,
    bounding_box,
)


def pack_analysis(
    pixels_HW3: np.ndarray, analysis: Analysis
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts of the analysis of one image: (H, W, 3) uint8 pixels, masks as bits."""
    foreground, proposals, soft = analysis.foreground, analysis.proposals, analysis.soft
    # Most masks are found under both limits, and stored once.
    soft_N, only_NHW = _known_masks(proposals.masks_NHW, soft.masks_NHW)
    arrays = {
        "pixels": pixels_HW3,
        # One bit per pixel instead of one byte.
        "foreground": np.packbits(foreground.mask_HW),
        "proposals": np.packbits(proposals.masks_NHW),
        "scores": proposals.scores_N,
        "parents": proposals.parent_N,
        "soft": soft_N,
        "soft_only": np.packbits(only_NHW),
        "soft_scores": soft.scores_N,
        "soft_parents": soft.parent_N,
    }
    if proposals.vectors_NC is not None:
        arrays["vectors"] = proposals.vectors_NC
    facts = {
        "peak": foreground.peak,
        "fallback": foreground.fallback,
        "backend": foreground.backend,
        "relaxed": list(proposals.relaxed),
        "again": proposals.again,
        "soft_relaxed": list(soft.relaxed),
    }
    return arrays, facts


def unpack_objects(
    arrays: dict[str, np.ndarray], facts: dict[str, Any]
) -> tuple[np.ndarray, ForegroundMask, ObjectProposals]:
    """Pixels, foreground and proposals of `pack_analysis`; what was found under softer limits, as
    many masks again, stays packed."""
    pixels_HW3 = arrays["pixels"]
    size = pixels_HW3.shape[:2]
    foreground = ForegroundMask(
        _bits(arrays["foreground"], size), facts["peak"], facts["fallback"], facts["backend"]
    )
    # The number of proposals is that of their scores.
    proposals = ObjectProposals(
        _bits(arrays["proposals"], (len(arrays["scores"]), *size)), arrays["scores"],
        foreground.mask_HW, tuple(facts["relaxed"]), arrays.get("vectors"), arrays["parents"],
        facts["again"],
    )  # fmt: skip
    return pixels_HW3, foreground, proposals


def unpack_analysis(
    arrays: dict[str, np.ndarray], facts: dict[str, Any]
) -> tuple[np.ndarray, Analysis]:
    """The inverse of `pack_analysis`."""
    pixels_HW3, foreground, proposals = unpack_objects(arrays, facts)
    size, masks_NHW = pixels_HW3.shape[:2], proposals.masks_NHW
    soft_N = arrays["soft"]
    only = max(int(soft_N.max(initial=-1)) + 1 - len(masks_NHW), 0)
    only_NHW = _bits(arrays["soft_only"], (only, *size))
    # One by one: both kinds of masks in one array would be a third copy of them.
    soft_NHW = np.empty((len(soft_N), *size), np.bool_)
    for number, at in enumerate(soft_N.tolist()):
        known = at < len(masks_NHW)
        soft_NHW[number] = masks_NHW[at] if known else only_NHW[at - len(masks_NHW)]
    soft = ObjectProposals(
        soft_NHW, arrays["soft_scores"], foreground.mask_HW,
        tuple(facts["soft_relaxed"]), parent_N=arrays["soft_parents"],
    )  # fmt: skip
    return pixels_HW3, Analysis(foreground, proposals, soft)


def _known_masks(known_NHW: np.ndarray, masks_MHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each mask is among the known ones and, behind them, the new ones: (M,) int32; and the
    new ones."""
    places = {mask_HW.tobytes(): number for number, mask_HW in enumerate(known_NHW)}
    new: list[np.ndarray] = []
    at = []
    for mask_HW in masks_MHW:
        at.append(places.setdefault(mask_HW.tobytes(), len(known_NHW) + len(new)))
        if at[-1] == len(known_NHW) + len(new):
            new.append(mask_HW)
    return np.array(at, np.int32), np.array(new, np.bool_).reshape(-1, *known_NHW.shape[1:])


# The facts of one attempt, and the pieces of its sample: pixels, change mask and object mask.
_Packed = tuple[dict[str, Any], list[np.ndarray]]


class SetAside:
    """Rejected attempts of one image, packed as soon as they are judged: nobody looks at their
    samples again, and whole images of all of them would take most of the memory."""

    def __init__(self) -> None:
        self.packed: dict[tuple[int, int], _Packed] = {}

    def __call__(self, attempt: Attempt) -> Attempt:
        """Keep the attempt packed; returns it without its sample."""
        self.packed[attempt.number, attempt.attempt] = _packed(attempt)
        return replace(attempt, sample=None)


def pack_attempts(
    attempts: Sequence[Attempt], aside: SetAside | None = None
) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Arrays and facts of every attempt at every sample of one image; `aside` holds some of them.

    All samples form one array of bytes, in order: pixels, change mask and object mask of each.
    Opening a file with a hundred small arrays would take ten times as long.
    """
    # An empty first piece, as numpy cannot concatenate nothing.
    pieces: list[np.ndarray] = [np.zeros(0, np.uint8)]
    facts: list[dict[str, Any]] = []
    known = {} if aside is None else aside.packed
    for attempt in attempts:
        fact, own = known.get((attempt.number, attempt.attempt)) or _packed(attempt)
        facts.append(fact)
        pieces += own
    return {"samples": np.concatenate(pieces)}, facts


def _packed(attempt: Attempt) -> _Packed:
    fact, sample = cached_attempt(attempt), attempt.sample
    if sample is None:
        return fact, []
    # Outside this box the edited image equals its source.
    x0, y0, x1, y1 = bounding_box(sample.change_HW)
    fact["box"] = [x0, y0, x1, y1]
    inner_N = sample.pixels_HW3[y0:y1, x0:x1].flatten()
    # The object mask may reach beyond the box, so it is stored whole.
    masks = np.packbits(sample.change_HW[y0:y1, x0:x1]), np.packbits(sample.object_HW)
    return fact, [inner_N, *masks]


def unpack_attempts(
    arrays: dict[str, np.ndarray], facts: list[Any], pixels_HW3: np.ndarray
) -> tuple[Attempt, ...]:
    """The inverse of `pack_attempts`, given the source image."""
    attempts = []
    size = pixels_HW3.shape[:2]
    start = 0
    for fact in facts:
        sample = None
        # Attempts without a sample have facts only.
        if "edit" in fact:
            x0, y0, x1, y1 = fact["box"]
            # Rebuild the whole image from its source and the stored window.
            edited_HW3, change_HW = pixels_HW3.copy(), np.zeros(size, np.bool_)
            # Where pixels, change mask and object mask of this sample end, rounded up to bytes.
            area = (y1 - y0) * (x1 - x0)
            ends = np.cumsum([start, 3 * area, -(-area // 8), -(-size[0] * size[1] // 8)]).tolist()
            inner, bits, whole = (arrays["samples"][a:b] for a, b in pairwise(ends))
            start = ends[-1]
            edited_HW3[y0:y1, x0:x1] = inner.reshape(y1 - y0, x1 - x0, 3)
            change_HW[y0:y1, x0:x1] = _bits(bits, (y1 - y0, x1 - x0))
            object_HW = _bits(whole, size)
            sample = Sample(Edit.from_json(fact["edit"]), edited_HW3, change_HW, object_HW)
        # Accepted means no rejection reason, so acceptance is not stored.
        verdict = Verdict(
            not fact["reason"], fact["reason"], fact["scores"], fact["rule"],
            tuple(fact["broken"]), tuple(fact["findings"]),
        )  # fmt: skip
        attempts.append(
            Attempt(
                fact["number"], fact["attempt"], fact["kind"], fact["seed"],
                sample, verdict, fact["seconds"],
            )
        )  # fmt: skip
    return tuple(attempts)


def read_result(
    cache: StageCache, name: str, digest: str, split: Any, keys: tuple[str, str]
) -> ImageResult | None:
    """The result of one image from its two cache entries, or None when one is absent.

    `keys` are those of its analysis and of its samples.
    """
    analysis = cache.read("analysis", keys[0])
    samples = cache.read("samples", keys[1])
    if analysis is None or samples is None:
        return None
    pixels_HW3, foreground, proposals = unpack_objects(*analysis)
    attempts = unpack_attempts(*samples, pixels_HW3)
    return ImageResult(name, digest, split, pixels_HW3, foreground, proposals, attempts)


def _bits(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The bool mask of that shape; the last byte may have bits to spare."""
    count = int(np.prod(shape))
    # A view, not a copy: a bool is a byte of 0 or 1.
    return np.unpackbits(packed, count=count).reshape(shape).view(np.bool_)

"""Random results of the analysis and the sampler for one image, for tests of caches and writers."""

import numpy as np

from pipeline.records import (
    Analysis,
    Attempt,
    Edit,
    ForegroundMask,
    ObjectProposals,
    Sample,
    Verdict,
)


def random_stages(seed: int, height: int, width: int, count: int):
    """Pixels, analysis and attempts; use sides that are no multiple of eight.

    Under the softer limits the analysis has every second of the proposals, and a mask twice.
    """
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    foreground = ForegroundMask(rng.random((height, width)) < 0.5, 0.25, "why")
    masks = rng.random((count, height, width)) < 0.3
    scores = rng.random(count).astype(np.float32)
    proposals = ObjectProposals(masks, scores, foreground.mask_HW, ("area",))
    other = rng.random((1, height, width)) < 0.3
    some = np.concatenate([other, masks[::2], other])
    soft = ObjectProposals(some, rng.random(len(some)).astype(np.float32), foreground.mask_HW)
    change = np.zeros((height, width), np.bool_)
    change[1:5, 2:7] = True
    edited = np.where(change[..., None], 255 - pixels, pixels)
    sample = Sample(Edit("missing", (0,), {"dilation": 3}, 7), edited, change, change)
    attempts = (
        Attempt(0, 0, "missing", 1, None, Verdict(False, "no_edit")),
        Attempt(0, 1, "missing", 2, sample, Verdict(False, "seam", {"seam_ratio": 9.5}), 0.5),
        Attempt(0, 2, "missing", 3, sample, Verdict(True, "", {"seam_ratio": 1.5}), 0.25),
    )
    return pixels, Analysis(foreground, proposals, soft), attempts
